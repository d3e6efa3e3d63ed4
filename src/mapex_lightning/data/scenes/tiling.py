"""How ground is shared out in tiles, and tiles in splits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    tiles of a block are on the same side, scenes of other dates and sensors agree, and what was split once stays so
    when ground is added. A tile belongs to the block of its middle. Where tiles overlap, those that reach into a block
    of another split are left out, so that no pixel is on two sides.

    Attributes:
        name: what the ids of tiles begin with.
        grid: pixels of the finest sensor.
        size: side of a tile in pixels.
        stride: pixels from one tile to the next.
        shares: of train, val and test.
        block: side of a block in tiles.
        seed: another seed is another split.
    """

    name: str
    grid: Grid
    size: int
    stride: int
    shares: tuple[float, float, float]
    block: int
    seed: int = 0

    def rows(self) -> list[list[Spot]]:
        """The whole tiles that fit into the grid, row by row; a rest at the right or at the bottom is left over.

        Raises:
            MapexError: none fits, or a split would be empty; the sentence says what would help.
        """
        tops = range(0, self.grid.height - self.size + 1, self.stride)
        lefts = range(0, self.grid.width - self.size + 1, self.stride)
        if not (tops and lefts):
            raise MapexError(
                f"No tile of {self.size} pixels fits into {self.grid.height} rows and {self.grid.width} columns. "
                "Take a smaller --size."
            )
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

    def _row(self, top: int, lefts: Sequence[int]) -> Iterator[Spot]:
        for left in lefts:
            split = self._split(top + self.size / 2, left + self.size / 2)
            corners = [(top + down, left + right) for down in self._reach for right in self._reach]
            if split and (self.stride >= self.size or all(self._split(*corner) == split for corner in corners)):
                yield Spot(f"{self.name}-r{top:05d}-c{left:05d}", split, top, left)

    @property
    def _reach(self) -> tuple[float, float]:
        """Where the first and the last pixel of a tile have their middles."""
        return 0.5, self.size - 0.5

    @staticmethod
    def _ends(starts: Sequence[int]) -> tuple[int, int]:
        return starts[0], starts[-1]

    def _block(self, row: float, column: float) -> tuple[int, int]:
        """The block that a place lies in, counted from the origin of the map."""
        a, _, c, _, e, f = self.grid.transform
        side = self.block * self.size * a
        return math.floor((c + a * column) / side), math.floor((f + e * row) / side)

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
        MapexError: the scene's grid is rotated or in degrees, or the other system is unknown or in degrees.
    """
    if crs is not None:
        return _covering(grid, gsd, crs)
    if not grid.north_up or not parsed(grid.crs).is_projected:
        what = "rotated" if parsed(grid.crs).is_projected else f"in degrees ({name_of(grid.crs)})"
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
    except (CRSError, RasterioError) as error:
        raise MapexError(f"--crs {crs} cannot be used ({error}). Give one such as {utm_of(grid)}.") from error
    if not target.is_projected:
        raise MapexError(
            f"--crs {crs} is in degrees, and tiles are squares of metres. Give one such as {utm_of(grid)}."
        )
    side = gsd / float(target.linear_units_factor[1])
    west, north = math.floor(left / side) * side, math.ceil(top / side) * side
    height, width = math.ceil((north - bottom) / side), math.ceil((right - west) / side)
    return Grid(target.to_wkt(), (side, 0.0, west, 0.0, -side, north), height, width)
