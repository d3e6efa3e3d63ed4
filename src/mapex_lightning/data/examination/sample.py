"""Some tiles of a split, spread over it and each read once, with all that is to be known about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from time import monotonic
from typing import NamedTuple

import numpy as np

from mapex_lightning.data import ground
from mapex_lightning.data.examination.values import Pixels
from mapex_lightning.data.statistics import Statistics
from mapex_lightning.data.tileset import GeoReference, Split, TileSet
from mapex_lightning.data.transforms import crop
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Target, Tile

LOOKED = 32
"""Tiles of a split whose pixels are looked at one by one."""

COMPARED = 500
"""Tiles of a split that are compared with those of other splits."""

LABELLED = 2000
"""Tiles of a split whose labels are counted, where a label is no mask."""


class Placed(NamedTuple):
    """Where a tile lies.

    Attributes:
        key: the tile.
        place: its georeference.
        shape: rows and columns of the grid that this is about.
    """

    key: str
    place: GeoReference
    shape: tuple[int, int]


class Fault(NamedTuple):
    """A tile that cannot be used, and why."""

    key: str
    sentence: str


class Sample:
    """Tiles of a split. Reading begins at once.

    Args:
        source: the data set.
        split: which split.
        keys: all its tiles.
        modalities: the sensors to read, which the data set offers.
        extent: the side in metres to which tiles are cropped.
        seconds: when to stop, however few tiles have been read; one is read in any case.

    Attributes:
        read: the tiles that were read.
        unread: tiles that cannot be read.
        unfit: tiles that can be read and not be cropped, or have no valid pixel.
        pixels: per modality, of the first `LOOKED` tiles.
        shapes: per modality, how many tiles have how many rows and columns.
        copies: per modality and digest of the pixels, the tiles; images of one value are left out.
        places: where tiles lie.
        unplaced: the tiles for which the data set does not say.
        sides: per modality and tile, how far pixels are from the gsd, and their side in metres.
        labels: by tile; `Fault` where the label cannot be used.
    """

    def __init__(
        self,
        source: TileSet,
        split: Split,
        keys: Sequence[str],
        modalities: Sequence[Modality],
        extent: float,
        seconds: float,
    ) -> None:
        self.source, self.split, self.keys, self.modalities, self.extent = source, split, keys, modalities, extent
        self.read: list[str] = []
        self.unread: list[Fault] = []
        self.unfit: list[Fault] = []
        self.shapes: dict[str, Counter[tuple[int, int]]] = {}
        self.copies: dict[tuple[str, bytes], list[str]] = {}
        self.places: list[Placed] = []
        self.unplaced: list[str] = []
        self.sides: dict[str, list[tuple[float, float, str]]] = {}
        self.labels: dict[str, Target | Fault | None] = {}
        self._looks = {modality.name: _Look(modality) for modality in modalities}
        end = monotonic() + seconds
        for number, index in enumerate(spread(len(keys))):
            if number == COMPARED or (number and monotonic() > end):
                break
            self._read(keys[index], looked=number < LOOKED)
        self._label(end + seconds / 4)

    @property
    def pixels(self) -> dict[str, Pixels]:
        """What was seen of each modality that some tile has."""
        return {name: look.pixels() for name, look in self._looks.items() if look.tiles}

    def _read(self, key: str, *, looked: bool) -> None:
        try:
            tile = self.source.read(key, self.modalities)
            place = self.source.georeference(key)
        except MapexError as error:
            self.unread.append(Fault(key, str(error)))
            return
        self.read.append(key)
        self.labels[key] = tile.target
        self._fit(tile)
        for name, image in tile.images.items():
            self.shapes.setdefault(name, Counter())[(image.shape[-2], image.shape[-1])] += 1
            valid = image[np.isfinite(image)]
            if valid.size and valid.min() < valid.max():
                digest = blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
                self.copies.setdefault((name, digest), []).append(key)
            if looked:
                self._looks[name].add(image)
        self._locate(tile, place)

    def _fit(self, tile: Tile) -> None:
        try:
            cut = crop(tile, self.modalities, self.extent, None)
        except MapexError as error:
            self.unfit.append(Fault(tile.name, str(error)))
            return
        if not any(np.isfinite(image).any() for image in cut.images.values()):
            self.unfit.append(Fault(tile.name, f"Tile {tile.name} has no valid pixel."))

    def _locate(self, tile: Tile, place: GeoReference | None) -> None:
        if place is None or not tile.images:
            self.unplaced.append(tile.name)
            return
        shapes = [(image.shape[-2], image.shape[-1]) for image in tile.images.values()]
        mask = isinstance(tile.target, np.ndarray) and tile.target.ndim == 2
        grid: tuple[int, int] = place.shape or (np.asarray(tile.target).shape if mask else max(shapes))
        self.places.append(Placed(tile.name, place, grid))
        side = ground.side_of(place, grid)
        for modality in self.modalities if side is not None else ():
            assert side is not None
            if modality.name in tile.images:
                times = grid[0] / tile.images[modality.name].shape[-2]
                its = ground.Side(None if side.nominal is None else side.nominal * times, side.ground * times)
                entry = (ground.off(its, modality.gsd), its.ground, tile.name)
                self.sides.setdefault(modality.name, []).append(entry)

    def _label(self, end: float) -> None:
        """Labels of more tiles, as far as they cost no pixels."""
        if self.source.task == "segmentation":
            return
        for number, index in enumerate(spread(len(self.keys))):
            if number == LABELLED or monotonic() > end:
                break
            key = self.keys[index]
            try:
                if key not in self.labels:
                    self.labels[key] = self.source.label(key)
            except MapexError as error:
                self.labels[key] = Fault(key, str(error))


class _Look:
    """Pixels of one modality, gathered tile by tile."""

    def __init__(self, modality: Modality) -> None:
        self.statistics = Statistics(modality.bands)
        self.tiles = 0
        self.whole = True
        self.blank: list[float] = []
        self.flat = np.zeros(len(modality.bands), dtype=np.int64)
        self.means: list[list[float]] = []

    def add(self, image: np.ndarray) -> None:
        self.tiles += 1
        self.statistics.update(image)
        finite = np.isfinite(image)
        self.whole = self.whole and bool((np.round(image[finite]) == image[finite]).all())
        self.blank.append(float((image == 0).all(0).mean()))
        bands = [band[valid] for band, valid in zip(image, finite, strict=True)]
        self.flat += np.array([bool(band.size) and bool(band.min() == band.max()) for band in bands])
        self.means.append([float(band.mean(dtype=np.float64)) if band.size else np.nan for band in bands])

    def pixels(self) -> Pixels:
        flat = tuple(map(int, self.flat.tolist()))
        return Pixels(self.statistics, self.tiles, self.whole, float(np.mean(self.blank)), flat, np.array(self.means))


def spread(count: int) -> Iterator[int]:
    """The numbers below `count`, each once, in an order whose every beginning is spread over all (van der Corput's)."""
    bits = max(1, (count - 1).bit_length())
    reversed_bits = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits))
    return (number for number in reversed_bits if number < count)
