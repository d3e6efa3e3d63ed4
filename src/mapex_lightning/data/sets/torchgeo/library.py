"""The library torchgeo: its data sets looked up by name, opened safely and read reproducibly."""

from __future__ import annotations

import inspect
import random
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from mapex_lightning.data.extras import imported
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.errors import MapexError, unknown

_imported = partial(imported, extra="torchgeo", wanted="TorchGeo")

UNSAFE = {"SKIPPD": "it unpickles what lies in its files, which can run any code"}
"""Data sets that are never opened, and why."""

_OURS = {"root", "paths", "transforms"}
"""Arguments of constructors that a config does not give: the folder is `data.root`, and nothing is transformed."""


def kind_of(name: str) -> type[Any]:
    """A data set's class by its name in ``torchgeo.datasets``; nothing else is looked up.

    Raises:
        MapexError: torchgeo is not installed, or has no such data set.
    """
    datasets = _imported("torchgeo.datasets")
    known: dict[str, type[Any]] = {
        word: kind for word in datasets.__all__ if _is_data_set(kind := getattr(datasets, word), datasets)
    }
    if name in UNSAFE:
        raise MapexError(f"The data set {name} of torchgeo is not opened: {UNSAFE[name]}. Use another one.")
    if name not in known:
        raise unknown("data set", name, known, where="in torchgeo.datasets")
    return known[name]


def has_places(kind: type[Any]) -> bool:
    """Whether a data set is asked for places on the map (a ``GeoDataset``) rather than for numbers."""
    return issubclass(kind, _imported("torchgeo.datasets").GeoDataset)


def arguments_of(kind: type[Any]) -> list[str]:
    """The arguments of a constructor that a config may give."""
    return [word for word in inspect.signature(kind).parameters if word not in _OURS]


def opened(name: str, folder: Path, arguments: Mapping[str, Any]) -> Any:
    """Constructs a data set: torchgeo looks for its files, or fetches them if an argument says ``download: true``.

    What is fetched is compared with torchgeo's checksums unless an argument says ``checksum: false``. Archives are
    unpacked into the folder and nowhere else.

    Args:
        name: a class of ``torchgeo.datasets``.
        folder: where its files are.
        arguments: of its constructor.

    Raises:
        MapexError: an argument is unknown or refused, the files are not there, cannot be fetched or are damaged, or
            Python is too old to unpack safely.
    """
    if not hasattr(tarfile, "data_filter"):
        raise MapexError("torchgeo's archives are unpacked safely from Python 3.11.4 on; use that or a newer one.")
    kind = kind_of(name)
    settings = _settings(kind, folder, arguments)
    with _in_sentences(kind, folder, arguments), _archives_stay_inside(), chance(name):
        return kind(**settings)


def listed_labels(dataset: Any) -> list[int] | None:
    """The class of every sample, where torchgeo knows it from the folder that the file is in."""
    if not isinstance(dataset, _imported("torchgeo.datasets").NonGeoClassificationDataset):
        return None
    labels: list[int] = dataset.targets
    return labels


def sample(dataset: Any, at: Any, key: str) -> dict[str, Any]:
    """One sample; what torchgeo draws by chance, such as a season, is the same whenever the tile is read.

    Args:
        dataset: from `opened`.
        at: the number of a sample or a place on the map.
        key: the tile's id, for messages.

    Raises:
        MapexError: the sample cannot be read.
    """
    try:
        with chance(key):
            found: dict[str, Any] = dataset[at]
    except Exception as error:  # each data set raises what its author chose
        raise MapexError(
            f"torchgeo cannot read tile {key} of its {type(dataset).__name__}: {_sentence(error)} "
            "Fetch or unpack its files again."
        ) from error
    return found


def grid(dataset: Any, cell: int, sensors: Mapping[str, Sensor]) -> list[Any]:
    """The cells of a ``GeoDataset``, as places to ask it for: torchgeo's own grid over each of its files.

    Args:
        dataset: from `opened`.
        cell: pixels along a side.
        sensors: what it stores; their resolution must be its own.

    Raises:
        MapexError: its coordinates are not metres, or its pixels have another size than a sensor says.
    """
    east, north = dataset.res
    metres = [sensor.gsd for sensor in sensors.values()]
    unit = dataset.crs.axis_info[0].unit_name if dataset.crs else "pixel"
    if unit != "metre" or not np.allclose([east, north], metres[0], rtol=1e-3) or len(set(metres)) != 1:
        raise MapexError(
            f"torchgeo's {type(dataset).__name__} has pixels of {east:g} x {north:g} {unit} and its sensors are said "
            f"to have {', '.join(f'{size:g}' for size in metres)} m. Correct gsd, or let torchgeo warp the files with "
            f"arguments: {{crs: EPSG:..., res: {metres[0]:g}}}, the coordinate system being one in metres."
        )
    return list(_imported("torchgeo.samplers").GridGeoSampler(dataset, size=cell, stride=cell))


@contextmanager
def chance(seed: str) -> Iterator[None]:
    """Python's and NumPy's global generators start from a seed, and afterwards go on as if nothing had been drawn.

    Some data sets of torchgeo draw from them, or seed them for everyone.
    """
    ours, theirs = random.getstate(), np.random.get_state()
    number = int.from_bytes(blake2b(seed.encode(), digest_size=4).digest(), "big")
    random.seed(number)
    np.random.seed(number)
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)


def _settings(kind: type[Any], folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a constructor is called with."""
    name, taken, allowed = kind.__name__, inspect.signature(kind).parameters, arguments_of(kind)
    settings: dict[str, Any] = {"root" if "root" in taken else "paths": str(folder)}
    for word, value in arguments.items():
        if word not in allowed:
            raise unknown("argument", word, allowed, where=f"of torchgeo's {name}")
        if isinstance(taken[word].default, bool) and not isinstance(value, bool):
            raise MapexError(f"The argument {word} of torchgeo's {name} is true or false; found {value!r}.")
        # YAML reads the version 2 as a number where the constructor wants a word.
        settings[word] = str(value) if isinstance(taken[word].default, str) else value
    if "checksum" in taken:
        settings.setdefault("checksum", bool(arguments.get("download")))
    if "cache" in taken:
        settings.setdefault("cache", False)  # open files are not for the processes that readers are forked into
    return settings


@contextmanager
def _in_sentences(kind: type[Any], folder: Path, arguments: Mapping[str, Any]) -> Iterator[None]:
    """What a constructor raises, as a sentence with a way out."""
    name, place, errors = kind.__name__, folder.absolute(), _imported("torchgeo.datasets.errors")
    try:
        yield
    except errors.DatasetNotFoundError as error:
        fetch = (
            "let torchgeo fetch it with arguments: {download: true}" if "download" in arguments_of(kind) else "fetch it"
        )
        raise MapexError(
            f"torchgeo finds no {name} in {place}. Give its folder as root, or {fetch}; its page in torchgeo's "
            "documentation says what it must hold."
        ) from error
    except errors.DependencyNotFoundError as error:
        raise MapexError(f"torchgeo's {name} needs another package: {_sentence(error)}") from error
    except tarfile.FilterError as error:
        raise MapexError(
            f"An archive of {name} wants to write outside of {place} and was stopped: {_sentence(error)} Delete it and "
            "fetch it from its authors."
        ) from error
    except URLError as error:
        raise MapexError(
            f"torchgeo cannot fetch {name} to {place}: {_sentence(error)} Check the connection, or fetch it by hand: "
            "its page in torchgeo's documentation says from where."
        ) from error
    except Exception as error:  # each data set raises what its author chose
        if "corrupt" in str(error).lower():
            raise MapexError(
                f"A file of {name} in {place} is not what torchgeo's checksum says: {_sentence(error)} Delete it and "
                "fetch it again."
            ) from error
        raise MapexError(
            f"torchgeo cannot open {name} in {place} with {dict(arguments)}: {_sentence(error)} Its page in torchgeo's "
            "documentation says which arguments and files it takes."
        ) from error


@contextmanager
def _archives_stay_inside() -> Iterator[None]:
    """Tar files are unpacked by Python's filter ``data``; torchgeo and torchvision name none, and Python trusts all.

    Zip files need nothing: Python's ``zipfile`` never writes outside of its folder.
    """
    before = tarfile.TarFile.extraction_filter
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _is_data_set(kind: Any, datasets: Any) -> bool:
    return (
        inspect.isclass(kind)
        and issubclass(kind, datasets.NonGeoDataset | datasets.GeoDataset)
        and not inspect.isabstract(kind)
        and bool({"root", "paths"} & set(inspect.signature(kind).parameters))
        and kind.__name__ not in UNSAFE
    )


def _sentence(error: Exception) -> str:
    """What an error says, in one line with a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
