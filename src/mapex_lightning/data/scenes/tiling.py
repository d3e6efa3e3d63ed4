"""How ground is shared out in tiles, and tiles in splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform, transform_bounds

from mapex_lightning.data.crs import name_of, parsed
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.tileset import SPLITS, Split
from mapex_lightning.errors import MapexError

CLOSE = 0.01
"""A scene's pixels are those of its sensor if their sides differ by this share or less, as 9.996 m and 10 m do."""


TORN = 100.0
"""How many times the pixels of a scene its bounds may hold in another system; turning and stretching take less."""


class Spot(NamedTuple):
    """One tile.

    Attributes:
        key: its id.
        split: which split it belongs to.
        row: its first row in the grid of the finest sensor.
        column: its first column.
    """

    key: str
    split: Split
    row: int
    column: int


class Tiling(NamedTuple):
    """A plan of square tiles over a grid, in splits by blocks of ground.

    A block is a square of the map that starts at the map's own origin, and its split follows from a hash of its place:
    scenes of other dates, corners and sensors agree, if their tiles are cut in one coordinate system, as large in
    metres and with the same blocks, shares and seed; what was split once stays so when ground is added.

    Tiles begin at multiples of the stride from the map's origin, so that without overlap each lies in one block, and
    less than a stride is left over at each edge of the grid. Where the grid is too small for one of them, they begin at
    its corner. Tiles that reach into a block of another split are left out: no pixel is on two sides. A pixel is where
    its middle is, so where the pixels of two scenes lie between each other's, less than one is shared at a border.

    Attributes:
        name: what the ids of tiles begin with.
        grid: pixels of the finest sensor.
        size: side of a tile in pixels.
        stride: pixels from one tile to the next.
        shares: of train, val and test.
        block: side of a block in tiles.
        seed: another seed is another split.
        gsd: metres per pixel as the modality says, which blocks are measured in: pixels of 9.996 m may pass for 10 m.
            None takes those of the grid.
    """

    name: str
    grid: Grid
    size: int
    stride: int
    shares: tuple[float, float, float]
    block: int
    seed: int = 0
    gsd: float | None = None

    def rows(self) -> list[list[Spot]]:
        """The whole tiles that fit into the grid, row by row; a rest at its edges is left over.

        Raises:
            MapexError: none fits, or a split would be empty; the sentence says what would help.
        """
        tops, lefts = self._tops, self._lefts
        rows = [list(self._row(top, lefts)) for top in tops]
        found = {spot.split for row in rows for spot in row}
        empty = [split for split, share in zip(SPLITS, self.shares, strict=True) if share and split not in found]
        if empty:
            blocks = {self._block(row, column) for row in self._ends(tops) for column in self._ends(lefts)}
            raise MapexError(
                f"No tile falls to {' and '.join(empty)}: {len(tops) * len(lefts)} tiles lie in about "
                f"{math.prod(np.ptp(list(blocks), axis=0) + 1)} blocks of {self.block} x {self.block} tiles. Take a "
                "smaller --block, another --seed, more ground, or shares of 0 for it in --split."
            )
        return rows

    @property
    def first(self) -> Grid:
        """The pixels of the first tile; all others are multiples of the stride away.

        Raises:
            MapexError: no tile fits into the grid.
        """
        return self.grid.window(self._tops[0], self._lefts[0], self.size, self.size)

    @property
    def _tops(self) -> Sequence[int]:
        """The first rows of tiles; blocks hold their lower edge, and a row belongs to where its middle is."""
        *_, step, north = self.grid.transform
        near = self._multiples(north, step, self.grid.height)
        return self._fitting({math.floor(place + 0.5) for place in near}, self.grid.height)

    @property
    def _lefts(self) -> Sequence[int]:
        """The first columns of tiles; blocks hold their left edge, and a column belongs to where its middle is."""
        step, _, west, *_ = self.grid.transform
        near = self._multiples(west, step, self.grid.width)
        return self._fitting({math.ceil(place - 0.5) for place in near}, self.grid.width)

    def _multiples(self, corner: float, step: float, length: int) -> list[float]:
        """Where multiples of the stride lie along an axis of the grid, in pixels: all within it."""
        stride = self._pixel * self.stride
        ends = sorted((corner / stride, (corner + step * length) / stride))
        numbers = range(math.floor(ends[0]), math.ceil(ends[1]) + 1)
        return [round((number * stride - corner) / step, 6) for number in numbers]  # half a pixel stays half a pixel

    def _fitting(self, starts: Iterable[int], length: int) -> Sequence[int]:
        """Those starts at which a tile fits, in order, or else those from the corner on."""
        last = length - self.size
        found = sorted(start for start in starts if 0 <= start <= last) or range(0, last + 1, self.stride)
        if not found:
            raise MapexError(
                f"No tile of {self.size} pixels fits into {self.grid.height} rows and {self.grid.width} columns. "
                "Take a smaller --size."
            )
        return found

    @property
    def _pixel(self) -> float:
        """The side of a pixel in map units, as the modality says."""
        side = self.grid.transform[0]
        return side if self.gsd is None else side * (self.gsd / self.grid.gsd)

    def _row(self, top: int, lefts: Sequence[int]) -> Iterator[Spot]:
        within = (0.5, self.size / 2, self.size - 0.5)  # the middles of the first and the last pixel, and its own
        for left in lefts:
            splits = {self._split(top + down, left + right) for down in within for right in within}
            split = splits.pop()
            if split and not splits:
                yield Spot(f"{self.name}-r{top:05d}-c{left:05d}", split, top, left)

    @staticmethod
    def _ends(starts: Sequence[int]) -> tuple[int, int]:
        return starts[0], starts[-1]

    def _block(self, row: float, column: float) -> tuple[int, int]:
        """The block that a place lies in, counted from the origin of the map."""
        a, _, c, _, e, f = self.grid.transform
        side = self.block * self.size * self._pixel
        x, y = (c + a * column) / side, (f + e * row) / side
        return math.floor(round(x, 9)), math.floor(round(y, 9))  # what lies on a border is no matter of rounding

    def _split(self, row: float, column: float) -> Split | None:
        """The split of the block that a place lies in; None where the shares leave a rest."""
        across, up = self._block(row, column)
        text = f"{self.seed} {across} {up}"
        luck = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
        ends = np.cumsum(self.shares)
        return next((split for split, end in zip(SPLITS, ends, strict=True) if luck < end), None)


def reference(grid: Grid, gsd: float, crs: str | None = None) -> Grid:
    """The grid that tiles are cut on: that of the finest sensor's scene, or pixels of its size in another system.

    Args:
        grid: of the finest sensor's scene.
        gsd: its metres per pixel, as its modality says.
        crs: another coordinate system, such as ``EPSG:32632``; pixels then begin at multiples of `gsd`.

    Raises:
        MapexError: the scene's grid is rotated, in degrees or of oblong pixels, or the other system is unknown, in
            degrees or not one for this place.
    """
    if crs is not None:
        return _covering(grid, gsd, crs)
    width, _, _, _, height, _ = grid.transform
    what = ""
    if not parsed(grid.crs).is_projected:
        what = f"in degrees ({name_of(grid.crs)})"
    elif not grid.north_up:
        what = "rotated"
    elif abs(width / height) - 1 > CLOSE or abs(height / width) - 1 > CLOSE:
        what = f"of pixels that are {width:g} wide and {-height:g} high"
    if what:
        raise MapexError(
            f"The scene of the finest sensor is {what}, and tiles are squares of metres. Choose their coordinate "
            f"system, for instance with --crs {utm_of(grid)}."
        )
    return grid if abs(grid.gsd / gsd - 1) <= CLOSE else grid.at(gsd)


def utm_of(grid: Grid) -> str:
    """The UTM zone at the middle of a grid, as an EPSG code."""
    left, bottom, right, top = grid.bounds
    middle = [(left + right) / 2], [(bottom + top) / 2]
    (longitude,), (latitude,) = transform(parsed(grid.crs), CRS.from_epsg(4326), *middle)
    zone = int((longitude + 180) // 6) % 60 + 1
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


def _covering(grid: Grid, gsd: float, crs: str) -> Grid:
    """Pixels of a size in another coordinate system that cover a grid."""
    try:
        target = CRS.from_string(crs)
        left, bottom, right, top = transform_bounds(parsed(grid.crs), target, *grid.bounds)
        if not all(map(math.isfinite, (left, bottom, right, top))):
            raise CRSError("the scene reaches beyond it")
    except (CRSError, RasterioError) as error:
        raise MapexError(f"--crs {crs} cannot be used ({error}). Give one such as {utm_of(grid)}.") from error
    if not target.is_projected:
        raise MapexError(
            f"--crs {crs} is in degrees, and tiles are squares of metres. Give one such as {utm_of(grid)}."
        )
    side = gsd / float(target.linear_units_factor[1])
    west, north = math.floor(left / side) * side, math.ceil(top / side) * side
    height, width = math.ceil((north - bottom) / side), math.ceil((right - west) / side)
    if height * width > TORN * grid.height * grid.width * max(1.0, grid.gsd / gsd) ** 2:
        raise MapexError(
            f"The scene is torn apart in {crs}: it would cover {height} x {width} pixels of {gsd:g} m, as where the "
            f"edge of a coordinate system runs through it. Give one such as --crs {utm_of(grid)}."
        )
    return Grid(target.to_wkt(), (side, 0.0, west, 0.0, -side, north), height, width)
