"""Any data set of torchgeo: a config says which channels of a sample are which bands of which sensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mapex_lightning.data.fingerprint import digest_of, settings_of
from mapex_lightning.data.sets.sensors import Sensor, holds, sensor_of
from mapex_lightning.data.sets.splits import split_of
from mapex_lightning.data.sets.torchgeo import library
from mapex_lightning.data.sets.torchgeo.channels import Channels, pixels_of, target_of
from mapex_lightning.data.tileset import DATA, SPLITS, TASKS, GeoReference, Split, Task, TileSet
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Target, Tile


class _Source(NamedTuple):
    """One data set as torchgeo opens it; the arguments as JSON, so that equal ones are opened once."""

    dataset: str
    arguments: str


class TorchGeo(TileSet):
    """Any data set of torchgeo (Stewart et al. 2022, doi:10.1145/3557915.3560953), by a mapping of its bands.

    torchgeo finds, fetches, verifies and reads the files; here its samples become tiles. Nothing is transformed, and
    a value is scaled only where the mapping says so. A sensor without one valid pixel in a sample is absent there.

    Modalities: any whose bands are among those of one sensor, in the same unit and at the same resolution.

    torchgeo's ``GeoDataset``, which has no samples but places on a map, is cut into square cells of `cell` pixels. It
    must be in a coordinate system in metres and at the sensors' resolution: ``arguments: {crs: EPSG:32632, res: 10}``.

    Args:
        dataset: the name of a class of ``torchgeo.datasets``.
        sensors: where its samples hold which sensor.
        splits: per split of ours, torchgeo's ``split``, or the constructor's arguments that make it. Splits with equal
            arguments share their tiles, by a hash of the seed and the tile's id, in the proportion 60 : 20 : 20 of
            training, validation and test. None shares all tiles, for data sets without splits of their own.
        arguments: of the constructor, such as ``download: true``.
        task: what the labels are; None for tiles without labels.
        target: the key of the label in a sample; by default torchgeo's ``label``, for segmentation ``mask``.
        classes: the class names by index; None takes those that torchgeo's class lists.
        values: the stored value of each class; by default 0, 1, 2 and so on.
        ignore: values of masks that are no class.
        cell: pixels along the side of a cell, for a ``GeoDataset`` and for nothing else.
        root: the folder that torchgeo is given. None is the folder ``dataset`` below ``data.root``.
        seed: another seed is another sharing out of tiles.

    Raises:
        MapexError: the settings contradict one another or name an unknown task or split.
    """

    task: Task = "multiclass"  # without classes, which no head can be made for

    def __init__(
        self,
        dataset: str,
        sensors: dict[str, Channels],
        splits: dict[str, str | dict[str, Any]] | None = None,
        arguments: dict[str, Any] | None = None,
        task: Task | None = None,
        target: str | None = None,
        classes: Sequence[str] | None = None,
        values: Sequence[int] | None = None,
        ignore: Sequence[int] = (),
        cell: int | None = None,
        root: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        if task is not None and task not in TASKS:
            raise unknown("task", task, TASKS)
        if task is None and (target or classes or values or ignore):
            raise MapexError(f"TorchGeo {dataset}: target, classes, values and ignore need a task: {', '.join(TASKS)}.")
        if ignore and task != "segmentation":
            raise MapexError(f"TorchGeo {dataset}: ignore is for the pixels of masks; a {task} label always counts.")
        if values is not None and (classes is None or len(values) != len(classes)):
            raise MapexError(f"TorchGeo {dataset}: values needs classes, and as many; found {values} and {classes}.")
        if not sensors:
            raise MapexError(f"TorchGeo {dataset}: name at least one sensor in sensors.")
        if cell is not None and any(one.nodata is None or one.dataset or one.arguments for one in sensors.values()):
            raise MapexError(
                f"TorchGeo {dataset}: cells reach beyond the files, where torchgeo fills in nodata: give each sensor "
                "its nodata, and neither a dataset nor arguments of its own."
            )
        for name in splits or ():
            if name not in SPLITS:
                raise unknown("split", name, SPLITS, where="of ours")
        self.dataset, self.sensors, self.arguments = dataset, sensors, arguments or {}
        self.labelled = task is not None
        if task is not None:
            self.task = task
        self.target = target or ("mask" if task == "segmentation" else "label")
        self.values, self.ignore, self.cell, self.seed = values, tuple(ignore), cell, seed
        self.root = DATA if root is None else Path(root)
        self._exact_root = root is not None
        self._says_splits = splits is not None
        self._splits = {split: _arguments(splits[split]) for split in SPLITS if split in splits} if splits else _ALL
        self._classes = None if classes is None else tuple(classes)
        self._stored = {name: Sensor(channels.bands, channels.unit, channels.gsd) for name, channels in sensors.items()}
        self._opened: dict[_Source, Any] = {}
        self._cells: dict[_Source, list[Any]] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes given, or else those that torchgeo's class lists.

        Raises:
            MapexError: neither says them.
        """
        if not self.labelled:
            return ()
        if self._classes is None:
            listed = getattr(library.kind_of(self.dataset), "classes", None)
            if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
                raise MapexError(f"torchgeo's {self.dataset} does not name its classes: give classes, by index.")
            self._classes = tuple(listed)
        return self._classes

    def offers(self, modality: Modality) -> bool:
        """Whether its bands are among those of one sensor, in the same unit and at the same resolution."""
        return any(holds(sensor, modality) for sensor in self._stored.values())

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        """Ids such as ``train-17``: torchgeo's split and the number of the sample; ``17`` where there are no splits.

        Which sensors a sample has shows when it is read, so that all tiles are listed whatever the modalities.

        Raises:
            MapexError: the data set cannot be opened, or a modality is not offered.
        """
        names = list(self.sensors)
        if modalities is not None:
            names = [sensor_of(modality, self._stored, f"TorchGeo {self.dataset}") for modality in modalities]
        if split not in self._splits:
            return []
        part = self._splits[split]
        sharing = [other for other, its in self._splits.items() if its == part]
        keys = [f"{self._prefixes[split]}{number}" for number in range(self._length(part, names))]
        return [key for key in keys if len(sharing) == 1 or split_of(key, self.seed, sharing) == split]

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One sample as a tile: (C, H, W) per modality that it has.

        Raises:
            MapexError: torchgeo cannot read it, or it is not what the mapping says.
        """
        part, number = self._located(key)
        samples: dict[_Source, dict[str, Any]] = {}
        images = {}
        for modality in modalities:
            name = sensor_of(modality, self._stored, f"TorchGeo {self.dataset}")
            source = self._source(self.sensors[name], part)
            if source not in samples:
                samples[source] = self._sample(source, number, key)
            pixels = self._pixels(name, samples[source], key)
            if pixels is not None:
                images[modality.name] = pixels[[self._stored[name].bands.index(band) for band in modality.bands]]
        labels = self._source(None, part)
        if self.labelled and labels not in samples:
            samples[labels] = self._sample(labels, number, key)
        return Tile(key, images, self._target(samples[labels], key) if self.labelled else None)

    def label(self, key: str) -> Target | None:
        """The label. Only data sets that torchgeo finds in a folder per class say it without reading pixels.

        Raises:
            MapexError: the key is unknown, or torchgeo cannot read the sample.
        """
        if not self.labelled:
            return None
        part, number = self._located(key)
        source = self._source(None, part)
        listed = library.listed_labels(self._open(source))
        if listed is not None and number < len(listed):
            return self._target({"label": listed[number]}, key)
        return self._target(self._sample(source, number, key), key)

    def georeference(self, key: str) -> GeoReference | None:
        """Where a cell of a ``GeoDataset`` lies; other data sets of torchgeo do not say.

        Raises:
            MapexError: the key is unknown.
        """
        part, number = self._located(key)
        if self.cell is None:
            return None
        source = self._source(None, part)
        x, y, _ = self._grid(source)[number]
        east, north = self._open(source).res
        shape = round((y.stop - y.start) / north), round((x.stop - x.start) / east)
        return GeoReference(self._open(source).crs.to_wkt(), (east, 0.0, x.start, 0.0, -north, y.stop), shape)

    def fingerprint(self, modalities: Sequence[Modality]) -> str:
        """Of the settings, but for those that say whether to fetch: which files there are, torchgeo knows."""
        settings = settings_of(self, without=("root", "task"))
        fetching = ("download", "checksum")
        settings["arguments"] = {name: value for name, value in self.arguments.items() if name not in fetching}
        return digest_of([settings])

    @cached_property
    def _prefixes(self) -> dict[Split, str]:
        """What the ids of a split begin with; splits that share their tiles begin alike."""
        return {split: self._prefix(its) for split, its in self._splits.items()}

    def _prefix(self, part: dict[str, Any]) -> str:
        if not part:
            return ""
        ours = "+".join(split for split, its in self._splits.items() if its == part)
        return f"{part['split'] if list(part) == ['split'] else ours}-"

    def _located(self, key: str) -> tuple[dict[str, Any], int]:
        """The split of torchgeo and the number of the sample that an id stands for."""
        for split, prefix in self._prefixes.items():
            number = key.removeprefix(prefix)
            if key.startswith(prefix) and number.isdecimal():
                return self._splits[split], int(number)
        like = " or ".join(f"{prefix}0" for prefix in dict.fromkeys(self._prefixes.values()))
        raise MapexError(f"TorchGeo {self.dataset} has no tile {key!r}. Its tiles are named like {like}.")

    def _length(self, part: dict[str, Any], names: Sequence[str]) -> int:
        """The number of tiles, which must be the same in all data sets that are joined by number."""
        sources = {self._source(self.sensors[name], part) for name in names}
        if self.labelled:
            sources.add(self._source(None, part))
        lengths = {source: self._count(source) for source in sorted(sources)}
        if len(set(lengths.values())) != 1:
            found = "; ".join(f"{count} in {source.dataset} {source.arguments}" for source, count in lengths.items())
            raise MapexError(f"The data sets that TorchGeo joins must have as many samples; found {found}.")
        return next(iter(lengths.values()))

    def _count(self, source: _Source) -> int:
        return len(self._open(source)) if self.cell is None else len(self._grid(source))

    def _source(self, channels: Channels | None, part: dict[str, Any]) -> _Source:
        """The data set that holds a sensor's pixels, or the labels for None."""
        arguments = {**self.arguments, **part, **(channels.arguments if channels else {})}
        return _Source((channels and channels.dataset) or self.dataset, json.dumps(arguments, sort_keys=True))

    def _open(self, source: _Source) -> Any:
        if source not in self._opened:
            kind = library.kind_of(source.dataset)
            self._check_kind(kind, json.loads(source.arguments))
            folder = self.root if self._exact_root else self.root / self.dataset
            self._opened[source] = library.opened(source.dataset, folder, json.loads(source.arguments))
        return self._opened[source]

    def _check_kind(self, kind: type[Any], arguments: dict[str, Any]) -> None:
        """What a constructor would leave to chance."""
        if library.has_places(kind) != (self.cell is not None):
            wanted = "give cell, the pixels along a cell's side" if self.cell is None else "leave cell out"
            raise MapexError(f"torchgeo's {kind.__name__} {_IS[self.cell is None]}: {wanted}.")
        if not self._says_splits and "split" in library.arguments_of(kind) and "split" not in arguments:
            raise MapexError(
                f"torchgeo's {kind.__name__} has splits of its own: give splits, such as "
                "{train: train, val: val, test: test}, or the split argument of each sensor."
            )

    def _grid(self, source: _Source) -> list[Any]:
        """The cells of a `GeoDataset` as torchgeo's slices of the map, row by row."""
        if source not in self._cells:
            assert self.cell is not None
            self._cells[source] = library.grid(self._open(source), self.cell, self._stored)
        return self._cells[source]

    def _sample(self, source: _Source, number: int, key: str) -> dict[str, Any]:
        at = number if self.cell is None else self._grid(source)[number]
        return library.sample(self._open(source), at, key)

    def _pixels(self, name: str, sample: dict[str, Any], key: str) -> np.ndarray | None:
        """All bands of a sensor."""
        channels = self.sensors[name]
        together = [
            one
            for one in self.sensors.values()
            if (one.key, one.dataset, one.arguments) == (channels.key, channels.dataset, channels.arguments)
        ]
        return pixels_of(sample, channels, together, f"tile {key} of torchgeo's {channels.dataset or self.dataset}")

    def _target(self, sample: dict[str, Any], key: str) -> Target:
        values = range(len(self.classes)) if self.values is None else self.values
        owner = f"tile {key} of torchgeo's {self.dataset}"
        return target_of(sample, self.target, self.task, values, self.ignore, owner)


def _arguments(split: str | dict[str, Any]) -> dict[str, Any]:
    """What a split of ours is to a constructor of torchgeo."""
    return {"split": split} if isinstance(split, str) else split


_ALL: dict[Split, dict[str, Any]] = {split: {} for split in SPLITS}
_IS = {True: "is asked for places on the map", False: "has samples of its own"}
