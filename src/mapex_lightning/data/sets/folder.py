"""Anyone's own tiles: one raster per sensor and tile, listed in a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from einops import rearrange

from mapex_lightning.data import ground, raster
from mapex_lightning.data.crs import same_crs
from mapex_lightning.data.fingerprint import digest_of, stamp
from mapex_lightning.data.manifest import Entry, Manifest, read_manifest
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.tileset import TASKS, GeoReference, Split, Task, TileSet
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import IGNORED, Target, Tile


class Folder(TileSet):
    """Tiles of the user's own, as GeoTIFF, JPEG 2000, PNG and the like.

    The manifest (CSV, or Parquet with the extra ``parquet``) has the columns ``tile`` (an id), ``split`` (train, val
    or test), ``label`` and one column per sensor, named like its modality, with the path of the tile's raster. An
    empty path is a sensor that is missing there; an empty label is a tile without one, for pre-training. Labels are
    a class name (``multiclass``), class names joined by ``;`` (``multilabel``) or the path of a mask raster of class
    indexes (``segmentation``).

    Bands are found by their descriptions in the file. A file without descriptions must have as many bands as the
    modality, in the modality's order. Stored values must be in the modality's unit; nodata becomes NaN, in masks
    `IGNORED`. All rasters of a tile must cover the same ground in the same coordinate system, with pixels as large as
    their modality says.

    Args:
        manifest: the table.
        task: what the labels are.
        classes: the class names by index; None sorts the names that occur. Needed for ``segmentation``.
        root: the folder from which paths count; None is the manifest's.
        outside: lets files lie outside root, as links, paths that lead out of it or rasters that point to others, such
            as VRT: only for manifests that you trust.

    Raises:
        MapexError: the task is unknown, or masks are given without class names.
    """

    def __init__(
        self,
        manifest: str | Path,
        task: Task,
        classes: Sequence[str] | None = None,
        root: str | Path | None = None,
        outside: bool = False,
    ) -> None:
        if task not in TASKS:
            raise unknown("task", task, TASKS)
        if task == "segmentation" and not classes:
            raise MapexError("Masks hold class indexes only: give `classes`, the class names by index.")
        self._task = task
        self.manifest = Path(manifest)
        self.root = self.manifest.parent.absolute() if root is None else Path(root)
        self.outside = outside
        self._given = None if classes is None else tuple(classes)

    @property
    def task(self) -> Task:
        """The task given."""
        return self._task

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes given, or else those that occur in any split.

        Raises:
            MapexError: the manifest cannot be used.
        """
        return self._occurring if self._given is None else self._given

    def offers(self, modality: Modality) -> bool:
        """Whether the manifest has a column of its name."""
        return modality.name in self._table.sensors

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        """The ids of a split, in the order of the manifest.

        Raises:
            MapexError: the manifest cannot be used, or has no column for a modality.
        """
        wanted = self._table.sensors if modalities is None else self._columns(modalities)
        entries = ((key, entry) for key, entry in self._table.entries.items() if entry.split == split)
        return [key for key, entry in entries if any(sensor in entry.files for sensor in wanted)]

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One tile: (C, H, W) per modality that it has.

        Raises:
            MapexError: a raster is missing, damaged, outside root or lacks a band, its pixels are of another size than
                its modality says or no squares, the rasters and the mask cover different ground, or a label is unknown.
        """
        files = self._entry(key).files
        self._columns(modalities)
        here = [modality for modality in modalities if modality.name in files]
        images, grids = {}, {}
        for modality in here:
            path, bands = self._path(files[modality.name]), modality.bands
            image, place = raster.read_placed(path, bands, bands, trusted=self.outside)
            images[modality.name] = image
            if place is not None:
                grids[modality.name] = Grid(*place[:2], *image.shape[1:])
        target = self.label(key)
        if self.task == "segmentation" and isinstance(target, np.ndarray):
            place = self._place_of_mask(key)
            if place is not None:
                grids["its mask"] = Grid(*place[:2], *target.shape)
        self._check_ground(key, grids)
        for modality in here:
            if modality.name in grids:
                self._check_pixels(key, modality, grids[modality.name])
        return Tile(key, images, target)

    def label(self, key: str) -> Target | None:
        """The label; for ``segmentation`` the mask is read.

        Raises:
            MapexError: a name or an index in the label is no class, or the mask cannot be read.
        """
        text = self._entry(key).label
        if not text:
            return None
        match self.task:
            case "multiclass":
                return self._index(key, text)
            case "multilabel":
                hot = np.zeros(len(self.classes), dtype=np.float32)
                hot[[self._index(key, name) for name in _names(text)]] = 1
                return hot
            case "segmentation":
                return self._mask(key, self._path(text))

    def georeference(self, key: str) -> GeoReference | None:
        """Where the mask lies or, without one that says so, the tile's raster of the smallest pixels."""
        own = self._place_of_mask(key)
        if own is not None:
            return own
        files = self._entry(key).files.values()
        places = [raster.georeference(self._path(file), trusted=self.outside) for file in files]
        known = [place for place in places if place is not None]
        return min(known, key=lambda place: _pixel(place.transform), default=None)

    def _place_of_mask(self, key: str) -> GeoReference | None:
        """Where the mask lies, if there is one and it says so: a PNG does not."""
        label = self._entry(key).label
        if self.task != "segmentation" or not label:
            return None
        return raster.georeference(self._path(label), trusted=self.outside)

    def fingerprint(self, modalities: Sequence[Modality]) -> str:
        """Of every tile the label, and the size and time of change of its files and its mask."""
        return digest_of(self._facts([modality.name for modality in modalities]))

    def _facts(self, sensors: Sequence[str]) -> Iterator[object]:
        for key, entry in self._table.entries.items():
            written = [entry.files[sensor] for sensor in sensors if sensor in entry.files]
            masks = [entry.label] * (self.task == "segmentation" and bool(entry.label))
            yield key, entry.label, [stamp(self.root / file) for file in (*written, *masks)]

    def _path(self, written: str) -> Path:
        """A file of the manifest; one that came with somebody's tiles must not read what lies elsewhere."""
        path = self.root / written
        if not self.outside and not path.resolve().is_relative_to(self.root.resolve()):
            raise MapexError(
                f"{written} in {self.manifest} leads out of {self.root}, to {path.resolve()}. Put the file there, give "
                "a root that holds it, or say outside: true if you trust this manifest."
            )
        return path

    @cached_property
    def _table(self) -> Manifest:
        return read_manifest(self.manifest)

    @cached_property
    def _occurring(self) -> tuple[str, ...]:
        labels = [entry.label for entry in self._table.entries.values() if entry.label]
        split = _names if self.task == "multilabel" else lambda text: [text]
        return tuple(sorted({name for label in labels for name in split(label)}))

    def _columns(self, modalities: Sequence[Modality]) -> tuple[str, ...]:
        """The sensor columns of modalities."""
        for modality in modalities:
            if modality.name not in self._table.sensors:
                remedy = f"Add a column {modality.name} to {self.manifest}"
                raise unknown("sensor column", modality.name, self._table.sensors, remedy)
        return tuple(modality.name for modality in modalities)

    def _entry(self, key: str) -> Entry:
        if key not in self._table.entries:
            raise MapexError(f"{self.manifest} has no tile {key!r}. Use an id of its column tile.")
        return self._table.entries[key]

    def _index(self, key: str, name: str) -> int:
        if name not in self.classes:
            raise unknown("class", name, self.classes, f"Correct the label of tile {key} in {self.manifest}")
        return self.classes.index(name)

    def _mask(self, key: str, path: Path) -> np.ndarray:
        mask = raster.read_mask(path, trusted=self.outside)
        strange = mask[(mask != IGNORED) & ((mask < 0) | (mask >= len(self.classes)))]
        if strange.size:
            two = len(self.classes) == 2 and strange[0] == 255 and not (mask == 1).any()
            raise MapexError(
                f"Mask {path} of tile {key} holds {strange[0]}, and there are {len(self.classes)} classes, 0 to "
                f"{len(self.classes) - 1}. Declare {strange[0]} as its nodata value or add the class"
                f"{', or write 1 instead if it stands for ' + self.classes[1] if two else ''}."
            )
        return mask

    def _check_pixels(self, key: str, modality: Modality, grid: Grid) -> None:
        """A sensor at another resolution would be learned as if everything in it were larger or smaller."""
        side = ground.side_of(grid.place, (grid.height, grid.width))
        if side is not None and ground.off(side, modality.gsd) > ground.TOLERANCE:
            raise MapexError(
                f"Tile {key}: the pixels of {modality.name} are {side.ground:.3g} m wide by their georeference, and "
                f"the modality has gsd: {modality.gsd:g}. Correct gsd, or resample the files, for instance with "
                "`rio warp`."
            )
        a, b, _, d, e, _ = grid.transform
        width, height = float(np.hypot(a, d)), float(np.hypot(b, e))
        if side is not None and side.nominal is not None and max(width / height, height / width) - 1 > ground.TOLERANCE:
            raise MapexError(
                f"Tile {key}: the pixels of {modality.name} are {width:.3g} wide and {height:.3g} high, and squares "
                "are expected. Resample the files, for instance with `rio warp`."
            )

    def _check_ground(self, key: str, grids: Mapping[str, Grid]) -> None:
        """Sensors that lie apart would be learned as if they lay together."""
        for name, other in pairwise(grids):
            if not same_crs(grids[name].crs, grids[other].crs):
                raise MapexError(
                    f"Tile {key}: {name} and {other} have different coordinate systems. "
                    "Warp them to one, for instance with `rio warp`."
                )
            gap = np.abs(_corners(grids[name]) - _corners(grids[other])).max()
            allowed = max(_pixel(grids[one].transform) for one in (name, other)) / 2
            if gap > allowed:
                raise MapexError(
                    f"Tile {key}: {name} and {other} cover different ground, their corners lie up to {gap:g} map units "
                    f"apart. Cut them to the same bounds; half a pixel ({allowed:g}) is tolerated."
                )


def _names(text: str) -> list[str]:
    """Class names joined by semicolons."""
    return [name.strip() for name in text.split(";") if name.strip()]


def _corners(grid: Grid) -> np.ndarray:
    """The first and the last corner of a grid on the map: (2, 2)."""
    transform = rearrange(np.array(grid.transform), "(xy term) -> xy term", xy=2)
    places = np.array([[0, 0, 1], [grid.width, grid.height, 1]])
    return np.asarray(places @ transform.T)


def _pixel(transform: tuple[float, ...]) -> float:
    """The side of a pixel in map units: the root of its area."""
    a, b, _, d, e, _ = transform
    return float(abs(a * e - b * d) ** 0.5)
