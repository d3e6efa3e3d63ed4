"""Data sets in the layout in which they are published: rasters in folders, found by their names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from mapex_lightning.data import raster
from mapex_lightning.data.codes import class_indexes
from mapex_lightning.data.decibels import decibels
from mapex_lightning.data.fingerprint import digest_of, stamp
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.scenes.scene import Reading, Scene
from mapex_lightning.data.sets import hdf5
from mapex_lightning.data.sets.sensors import Sensor, holds, sensor_of
from mapex_lightning.data.tileset import DATA, GeoReference, Split, TileSet
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import IGNORED, Target, Tile

LOOKED_AT = 10_000
"""Most tiles of which a fingerprint holds the files."""


class Warped(NamedTuple):
    """A raster per band, on a grid that is not the tile's.

    Attributes:
        files: the rasters, by the name of the band.
        onto: the raster of the tile whose grid they are warped onto.
    """

    files: Mapping[str, Path]
    onto: Path


Stored = Path | Mapping[str, Path] | Warped | hdf5.Layer
"""One raster with all bands of a sensor, a raster per band by its name, on another grid maybe, or part of a file."""


class Entry(NamedTuple):
    """One tile, as its files say.

    Attributes:
        split: which split it belongs to.
        files: per sensor that the tile has, where its pixels are.
        label: the label, or where the mask is; None where there is none.
    """

    split: Split
    files: Mapping[str, Stored]
    label: Target | Path | hdf5.Layer | None = None


class Published(TileSet):
    """A published data set. A subclass lists its files; reading them is the same for all.

    Any modality whose bands are among those of one sensor, in its unit and on its grid, is offered.

    Attributes:
        title: the name by which its authors call it.
        sensors: what is stored per sensor.
        codes: the class index of each value that masks hold, `IGNORED` for those that do not count; empty where they
            hold class indexes.

    Args:
        root: the folder below which its files are looked for.
        require: sensors that every tile must have. None takes tiles with any sensor that is asked for.

    Raises:
        MapexError: `require` names a sensor that it does not have.
    """

    title: ClassVar[str]
    sensors: ClassVar[Mapping[str, Sensor]]
    codes: ClassVar[Mapping[int, int]] = {}

    def __init__(self, root: str | Path = DATA, require: Sequence[str] | None = None) -> None:
        for sensor in require or ():
            if sensor not in self.sensors:
                raise unknown("sensor", sensor, self.sensors, where=f"of {self.title}")
        self.root = Path(root)
        self.require = tuple(require or ())

    @abstractmethod
    def listed(self) -> Mapping[str, Entry]:
        """The tiles that lie below the root, by id, in an order that never changes; none where nothing is there.

        Raises:
            MapexError: a file that lists splits or labels cannot be used.
        """

    @abstractmethod
    def wanted(self, sensors: Sequence[str]) -> str:
        """A sentence or two for a user who lacks these sensors: which folders are looked for, where to get them."""

    def offers(self, modality: Modality) -> bool:
        """Whether its bands are among those of one sensor, in the same unit."""
        return any(holds(sensor, modality) for sensor in self.sensors.values())

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        """The ids of a split.

        Raises:
            MapexError: there are no tiles of these modalities in any split; the sentence says where to get them.
        """
        asked = list(self.sensors) if modalities is None else sorted({self._sensor(one) for one in modalities})
        having = [
            (key, entry.split)
            for key, entry in self._entries.items()
            if any(sensor in entry.files for sensor in asked) and all(sensor in entry.files for sensor in self.require)
        ]
        if not having:
            lacking = [*asked, *(sensor for sensor in self.require if sensor not in asked)]
            raise MapexError(
                f"No {self.title} tiles for {' or '.join(lacking)} in {self.root.absolute()}. {self.wanted(lacking)}"
            )
        return [key for key, its in having if its == split]

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One tile: (C, H, W) per modality that it has.

        Raises:
            MapexError: a file cannot be read or lacks a band, or a modality or the key is unknown.
        """
        files = self._entry(key).files
        images = {}
        for modality in modalities:
            name = self._sensor(modality)
            if name in files:
                images[modality.name] = self._pixels(name, files[name], modality.bands)
        return Tile(key, images, self.label(key))

    def label(self, key: str) -> Target | None:
        """The label; a mask is read.

        Raises:
            MapexError: the key is unknown, or the mask cannot be read or holds what is no class.
        """
        label = self._entry(key).label
        return self._mask(label) if isinstance(label, Path | hdf5.Layer) else label

    def georeference(self, key: str) -> GeoReference | None:
        """Where the mask lies or, without one, the first file that says so.

        Raises:
            MapexError: the key is unknown, or a file cannot be read.
        """
        entry = self._entry(key)
        files = [_a_raster(stored) for stored in entry.files.values()]
        if isinstance(entry.label, Path):
            files.insert(0, entry.label)
        places = (raster.georeference(file) for file in files if file is not None)
        return next((place for place in places if place is not None), None)

    def fingerprint(self, modalities: Sequence[Modality]) -> str:
        """Of the settings, and of `LOOKED_AT` tiles, spread evenly, the label and the size and time of their files.

        A published set is changed as a whole, by fetching or unpacking it again, and may hold millions of files.
        """
        sensors = [self._sensor(modality) for modality in modalities]
        keys = list(self._entries)
        chosen = keys[:: -(-len(keys) // LOOKED_AT) or 1]
        tiles = (_facts(key, self._entries[key], sensors) for key in chosen)
        return digest_of([super().fingerprint(modalities), *tiles])

    @cached_property
    def _entries(self) -> Mapping[str, Entry]:
        return self.listed()

    def _entry(self, key: str) -> Entry:
        if key not in self._entries:
            first = next(iter(self._entries), None)
            named = f"Its tiles are named like {first}." if first else self.wanted(list(self.sensors))
            raise MapexError(f"{self.title} has no tile {key!r} in {self.root.absolute()}. {named}")
        return self._entries[key]

    def _sensor(self, modality: Modality) -> str:
        return sensor_of(modality, self.sensors, self.title)

    def _pixels(self, name: str, stored: Stored, bands: Sequence[str]) -> np.ndarray:
        """Bands (C, H, W) float32 on the sensor's grid; what is invalid is NaN."""
        sensor = self.sensors[name]
        pixels = _read(stored, sensor, bands if sensor.blank is None else sensor.bands)
        if sensor.nodata is not None:
            pixels[pixels == sensor.nodata] = np.nan
        if sensor.blank is not None:
            pixels[:, (pixels == sensor.blank).all(axis=0)] = np.nan
            pixels = pixels[[sensor.bands.index(band) for band in bands]]
        return decibels(pixels) if sensor.power else pixels

    def _mask(self, path: Path | hdf5.Layer) -> np.ndarray:
        """Class indexes (H, W) int64, `IGNORED` where nothing counts."""
        codes = self.codes or {index: index for index in range(len(self.classes))}
        stored = raster.read_mask(path) if isinstance(path, Path) else hdf5.read(path)[0]
        return recoded(stored, codes, f"Mask {path}", self.title)


def recoded(stored: np.ndarray, codes: Mapping[int, int], named: str, title: str) -> np.ndarray:
    """Class indexes out of the values that a mask holds.

    Args:
        stored: whole numbers of shape (H, W).
        codes: the class index of each value; `IGNORED` stays what it is.
        named: how a message calls the mask.
        title: the data set, for the message.

    Returns:
        Shape (H, W), int64.

    Raises:
        MapexError: the mask holds a value that has no class.
    """
    known = {IGNORED: IGNORED, **codes}

    def refusal(value: str) -> MapexError:
        return MapexError(
            f"{named} holds {value}, which is no value of a class of {title}. "
            f"Known: {', '.join(map(str, sorted(known)))}. Fetch or unpack it again."
        )

    return class_indexes(stored, known, refusal)


def places(root: Path) -> list[Path]:
    """A folder and those one level below: where people unpack archives."""
    return [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []


def beneath(root: Path, name: str) -> Path | None:
    """A file or folder of this relative path in a folder or one level below; None where there is none."""
    return next((folder / name for folder in places(root) if (folder / name).exists()), None)


def _read(stored: Stored, sensor: Sensor, bands: Sequence[str]) -> np.ndarray:
    """Bands (C, H, W) float32 as they are stored."""
    if isinstance(stored, Path):
        names = sensor.described or sensor.bands
        return raster.read(stored, [names[sensor.bands.index(band)] for band in bands], names)
    if isinstance(stored, Warped):
        reading = Reading(tuple(bands), sensor.nodata)
        scene = Scene([stored.files[band] for band in bands], reading=reading, trusted=False)
        return scene.read(bands, Grid.of(stored.onto, trusted=False))
    if isinstance(stored, hdf5.Layer):
        pixels = hdf5.read(stored)
        if len(pixels) != len(sensor.bands):
            raise MapexError(
                f"{stored.file} has {len(pixels)} bands at {stored.name} where {len(sensor.bands)} are expected "
                f"({', '.join(sensor.bands)}). Fetch it again."
            )
        return pixels[[sensor.bands.index(band) for band in bands]].astype(np.float32)
    return raster.read_together({band: stored[band] for band in bands}, sensor.side)


def _facts(key: str, entry: Entry, sensors: Sequence[str]) -> tuple[object, ...]:
    """What says whether a tile is still the same, without reading it."""
    files = [file for sensor in sensors if sensor in entry.files for file in _files(entry.files[sensor])]
    label = entry.label
    if isinstance(label, Path | hdf5.Layer):
        files += _files(label)
        label = None
    return key, np.asarray(label, dtype=float).tolist() if label is not None else None, [stamp(file) for file in files]


def _files(stored: Stored) -> list[Path]:
    """The files that pixels or a mask lie in."""
    if isinstance(stored, Path):
        return [stored]
    if isinstance(stored, hdf5.Layer):
        return [stored.file]
    if isinstance(stored, Warped):
        return [*stored.files.values(), stored.onto]
    return list(stored.values())


def _a_raster(stored: Stored) -> Path | None:
    """A raster that may say where a tile lies."""
    if isinstance(stored, Warped):
        return stored.onto
    if isinstance(stored, hdf5.Layer):
        return None
    return stored if isinstance(stored, Path) else next(iter(stored.values()))
