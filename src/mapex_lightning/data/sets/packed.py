"""Packed tiles: any data set, written once by ``mapex pack``, read at the speed of memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from mapex_lightning.data.checksums import CHECKSUMS, digest
from mapex_lightning.data.fingerprint import digest_of, stamp
from mapex_lightning.data.packed.store import INDEX, MASK, TABLE, Files, Index, decoded, table_type
from mapex_lightning.data.sets.sensors import Sensor, holds, sensor_of
from mapex_lightning.data.tileset import SPLITS, GeoReference, Split, Task, TileSet
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Target, Tile


class Names(Sequence[str]):
    """The ids of some tiles of a store, each made when it is asked for: there may be millions.

    Args:
        store: the store.
        numbers: the rows of the tiles in its table, int64.
    """

    def __init__(self, store: Packed, numbers: np.ndarray) -> None:
        self.store, self.numbers = store, numbers

    def __len__(self) -> int:
        """How many."""
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Names: ...
    def __getitem__(self, at: int | slice) -> str | Names:
        """The id at a place, or those of a slice."""
        if isinstance(at, slice):
            return Names(self.store, self.numbers[at])
        name: bytes = self.store.names[self.numbers[at]]
        return name.decode()


class Packed(TileSet):
    """A store that ``mapex pack`` has written; see `mapex_lightning.data.packed.store` for its files.

    It yields the same tiles as the data set that was packed, with the same names, splits, labels and places. Files are
    mapped into memory, read-only, by each process when it first needs them: any number of processes and machines may
    read one store.

    Modalities: those that were packed, and any others whose bands are among theirs.

    Args:
        root: the folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._mapped: dict[str, list[np.ndarray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A worker process gets the folder and maps the files itself."""
        return {"root": self.root, "_mapped": {}}

    @cached_property
    def index(self) -> Index:
        """What the store says of itself.

        Raises:
            MapexError: the folder is no whole store.
        """
        return Index.read(self.root)

    @property
    def task(self) -> Task:
        """The task of the data set that was packed.

        Raises:
            MapexError: the folder is no whole store.
        """
        return self.index.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the data set that was packed."""
        return self.index.classes

    def offers(self, modality: Modality) -> bool:
        """Whether its bands are among those of one sensor, in the same unit."""
        return any(holds(sensor, modality) for sensor in self._sensors.values())

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Names:
        """The ids of a split, in the order of the data set that was packed."""
        wanted = list(self._sensors) if modalities is None else [self.sensor(modality) for modality in modalities]
        having = np.zeros(len(self.table), dtype=bool)
        for sensor in wanted:
            having |= self.table[f"{sensor}.row"] >= 0
        numbers = np.flatnonzero(having & (self.table["split"] == SPLITS.index(split)))
        return Names(self, numbers)

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One tile: (C, H, W) per modality that it has.

        Raises:
            MapexError: a file is missing or cut short, or the key or a modality is unknown.
        """
        number = self.number(key)
        images = {}
        for modality in modalities:
            sensor = self.sensor(modality)
            row = self.table[f"{sensor}.row"][number : number + 1]
            if row[0] >= 0:
                stored = self.pixels(sensor, row)[0][self.bands(sensor, modality)]
                images[modality.name] = decoded(stored, self.index.sensors[sensor].nodata)
        return Tile(key, images, self.label(key))

    def label(self, key: str) -> Target | None:
        """The label.

        Raises:
            MapexError: the key is unknown, or the file of the mask is missing or cut short.
        """
        number = self.number(key)
        tile = self.table[number]
        match self.index.task:
            case "multiclass":
                return int(tile["label"]) if tile["label"] >= 0 else None
            case "multilabel":
                return tile["labels"].astype(np.float32) if tile["labelled"] else None
            case "segmentation":
                row = self.table[f"{MASK}.row"][number : number + 1]
                return self.pixels(MASK, row)[0].astype(np.int64) if row[0] >= 0 else None

    def georeference(self, key: str) -> GeoReference | None:
        """Where the tile lies, as the data set that was packed said, in pixels of the finest sensor.

        Raises:
            MapexError: the key is unknown.
        """
        tile = self.table[self.number(key)]
        if tile["crs"] < 0:
            return None
        a, b, c, d, e, f = tile["transform"].tolist()
        finest = min(self._sensors, key=lambda name: self._sensors[name].gsd)
        rows, columns = self.files(finest).shape[-2:]
        return GeoReference(self.index.crs[tile["crs"]], (a, b, c, d, e, f), (rows, columns))

    def fingerprint(self, modalities: Sequence[Modality]) -> str:
        """Of the checksums of its files, which lie beside them."""
        listed = self.root / CHECKSUMS
        return digest(listed) if listed.is_file() else digest_of([stamp(self.root / INDEX)])

    def number(self, key: str) -> int:
        """The row of a tile in the table.

        Raises:
            MapexError: there is no such tile.
        """
        name = key.encode()
        place = bisect_left(self._order, name, key=self.names.__getitem__)
        number = int(self._order[place]) if place < len(self._order) else None
        if number is None or self.names[number] != name:
            first = self.names[0].decode() if len(self.names) else "none"
            raise MapexError(f"{self.root} has no tile {key!r}. Its tiles are named like {first}.")
        return number

    def sensor(self, modality: Modality) -> str:
        """The stored sensor that has the bands of a modality.

        Raises:
            MapexError: none has.
        """
        return sensor_of(modality, self._sensors, f"The packed store {self.root}")

    def bands(self, sensor: str, modality: Modality) -> slice | list[int]:
        """Where a modality's bands are among those of a stored sensor; a slice, which copies nothing, where it can."""
        stored = self._sensors[sensor].bands
        places = [stored.index(band) for band in modality.bands]
        first = places[0]
        return slice(first, first + len(places)) if places == [*range(first, first + len(places))] else places

    def files(self, name: str) -> Files:
        """What is stored of a sensor, or the masks."""
        found = self.index.mask if name == MASK else self.index.sensors[name]
        assert found is not None, name
        return found

    def pixels(
        self,
        name: str,
        rows: np.ndarray,
        bands: slice | list[int] = slice(None),
        corners: tuple[np.ndarray, np.ndarray] | None = None,
        side: int = 0,
    ) -> np.ndarray:
        """Copies pixels as they are stored.

        Args:
            name: of a sensor, or `MASK`.
            rows: the n rows wanted, int64.
            bands: of a sensor, see `bands`.
            corners: first rows and first columns of the n squares to cut out; None is the whole tile.
            side: of the squares, in pixels.

        Returns:
            Shape (n, C, H, W), of masks (n, H, W), in the stored type.

        Raises:
            MapexError: a file is missing or cut short.
        """
        files = self.files(name)
        arrays, ends = self._arrays(name, files), self._ends[name]
        which = np.searchsorted(ends, rows, side="right")
        within = rows - np.append(0, ends)[which]
        height, width = files.shape[-2:] if corners is None else (side, side)
        tops, lefts = np.zeros((2, len(rows)), dtype=np.int64) if corners is None else corners
        part = () if name == MASK else (bands,)
        shape = (() if name == MASK else (len(np.arange(files.shape[0])[bands]),)) + (height, width)
        if shape == files.shape and len(arrays) == 1 and isinstance(bands, slice):
            taken: np.ndarray = np.take(arrays[0], within, axis=0)
            return taken
        out = np.empty((len(rows), *shape), dtype=files.dtype)
        places = zip(which.tolist(), within.tolist(), tops.tolist(), lefts.tolist(), strict=True)
        for at, (file, row, top, left) in enumerate(places):
            out[at] = arrays[file][(row, *part, slice(top, top + height), slice(left, left + width))]
        return out

    @cached_property
    def table(self) -> np.ndarray:
        """The tiles, a row each; see `mapex_lightning.data.packed.store.table_type`.

        Raises:
            MapexError: the file is missing or cut short.
        """
        index = self.index  # says first whether there is a store at all
        table = _mapped(self.root / TABLE)
        wanted = table_type(list(index.sensors), index.task, len(index.classes), 1)
        _, *others = wanted.names or ()  # names of tiles have any length
        if table.dtype.names != wanted.names or any(table.dtype[name] != wanted[name] for name in others):
            raise MapexError(f"{self.root / TABLE} has other columns than {INDEX} says. Fetch the store again.")
        return table

    @cached_property
    def names(self) -> np.ndarray:
        """The ids of all tiles, as bytes."""
        names: np.ndarray = self.table["name"]
        return names

    @cached_property
    def _sensors(self) -> dict[str, Sensor]:
        found = {name: files.modality for name, files in self.index.sensors.items()}
        return {name: Sensor(one.bands, one.unit, one.gsd) for name, one in found.items() if one is not None}

    @cached_property
    def _order(self) -> np.ndarray:
        """The rows of all tiles in the order of their names: a dictionary would take many times the memory."""
        return self.names.argsort(kind="stable").astype(np.uint32)

    @cached_property
    def _ends(self) -> dict[str, np.ndarray]:
        """Per sensor, the number of the row after the last of each file."""
        names = [*self.index.sensors, *([MASK] if self.index.mask else [])]
        return {name: np.cumsum(list(self.files(name).tiles.values()), dtype=np.int64) for name in names}

    def _arrays(self, name: str, files: Files) -> list[np.ndarray]:
        if name not in self._mapped:
            arrays = []
            for file, tiles in files.tiles.items():
                array = _mapped(self.root / file)
                if (array.shape, array.dtype.name) != ((tiles, *files.shape), files.dtype):
                    raise MapexError(
                        f"{self.root / file} holds {array.dtype.name} {array.shape}, and {INDEX} says {files.dtype} "
                        f"{(tiles, *files.shape)}. Fetch the store again or pack it anew."
                    )
                arrays.append(array)
            self._mapped[name] = arrays
        return self._mapped[name]


def _mapped(path: Path) -> np.ndarray:
    """A NumPy file mapped into memory, read-only."""
    try:
        # As a plain array: every look at a np.memmap costs microseconds.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise MapexError(
            f"{path} is missing or cut short ({error}). Fetch the store again or pack it anew; "
            f"`sha256sum -c checksums.sha256` in its folder says which files are damaged."
        ) from error
