"""Grids: where the pixels of a raster lie on the map.

Rows count from the top, columns from the left, and a transform's six numbers map (column, row) to (x, y).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from rasterio.crs import CRS

from mapex_lightning.data import raster
from mapex_lightning.data.crs import name_of, parsed, same_crs
from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.errors import MapexError

METRES_PER_DEGREE = 111_320.0
"""Along a meridian, and along the equator; good to half a per cent."""

SAME = 0.01
"""Pixels that lie this share of a pixel apart or less are the same: what rounding does to a transform."""


class Grid(NamedTuple):
    """A raster's pixels on the map.

    Attributes:
        crs: the coordinate system as WKT.
        transform: the six numbers of the affine transform from pixel to map.
        height: rows.
        width: columns.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @classmethod
    def of(cls, path: Path, *, trusted: bool = True) -> Grid:
        """The grid of a raster file.

        Args:
            path: the file.
            trusted: see `mapex_lightning.data.raster.open_raster`.

        Raises:
            MapexError: the file cannot be opened or does not say where it lies.
        """
        with raster.open_raster(path, trusted=trusted) as source:
            return grid_of(path, source.crs, tuple(source.transform), source.shape, bool(source.gcps[0]))

    @property
    def place(self) -> GeoReference:
        """What a raster on this grid is written with."""
        return GeoReference(self.crs, self.transform, (self.height, self.width))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of the ground that it covers, in map units."""
        a, b, c, d, e, f = self.transform
        corners = [(column, row) for column in (0, self.width) for row in (0, self.height)]
        x = [a * column + b * row + c for column, row in corners]
        y = [d * column + e * row + f for column, row in corners]
        return min(x), min(y), max(x), max(y)

    @property
    def north_up(self) -> bool:
        """Whether rows run from north to south and columns from west to east."""
        a, b, _, d, e, _ = self.transform
        return a > 0 > e and b == d == 0

    @property
    def gsd(self) -> float:
        """Ground sampling distance in metres: the root of a pixel's area; of degrees, at the middle of the grid.

        Raises:
            MapexError: the coordinate system has no place on Earth.
        """
        a, b, _, d, e, _ = self.transform
        side = math.sqrt(abs(a * e - b * d))
        crs = parsed(self.crs)
        if crs.is_projected:
            return side * float(crs.linear_units_factor[1])
        if not crs.is_geographic:
            raise MapexError(
                f"{name_of(self.crs)} is a coordinate system without a place on Earth. Give the raster one that has, "
                "with gdal_edit -a_srs EPSG:NUMBER."
            )
        _, bottom, _, top = self.bounds
        if not abs(bottom + top) / 2 < 90:
            raise MapexError(
                f"A raster whose middle is at latitude {(bottom + top) / 2:g} is not in {name_of(self.crs)}, though it "
                "says so. Correct it with gdal_edit -a_srs EPSG:NUMBER, or its place with -a_ullr."
            )
        return side * METRES_PER_DEGREE * math.sqrt(math.cos(math.radians((bottom + top) / 2)))

    def window(self, row: int, column: int, height: int, width: int) -> Grid:
        """The grid of a part; it may reach beyond this one.

        Args:
            row: first row.
            column: first column.
            height: rows.
            width: columns.
        """
        return Grid(*self.place.at(row, column)[:2], height, width)

    def at(self, gsd: float) -> Grid:
        """The same ground from the same corner in pixels of another size; the last ones may reach beyond it.

        Args:
            gsd: ground sampling distance in metres.
        """
        ratio = gsd / self.gsd
        return self if abs(ratio - 1) < 1e-9 else self.scaled(ratio)

    def scaled(self, ratio: float) -> Grid:
        """As `at`, in pixels that are `ratio` times as long."""
        a, b, c, d, e, f = self.transform
        height, width = (math.ceil(round(side / ratio, 6)) for side in (self.height, self.width))
        return Grid(self.crs, (a * ratio, b * ratio, c, d * ratio, e * ratio, f), height, width)

    def offset(self, other: Grid) -> tuple[int, int] | None:
        """The row and column of this grid at which another one begins, if their pixels coincide; else None."""
        a, b, _, d, e, _ = self.transform
        theirs = other.transform
        pixel = math.sqrt(abs(a * e - b * d))
        sides = max(abs(own - their) for own, their in zip((a, b, d, e), (*theirs[:2], *theirs[3:5]), strict=True))
        if sides * max(other.height, other.width) > SAME * pixel or not same_crs(self.crs, other.crs):
            return None
        column, row = self.pixel(theirs[2], theirs[5])
        whole = round(row), round(column)
        return whole if max(abs(row - whole[0]), abs(column - whole[1])) <= SAME else None

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """The column and row, in fractions, of a point on the map."""
        a, b, c, d, e, f = self.transform
        area = a * e - b * d
        return (e * (x - c) - b * (y - f)) / area, (a * (y - f) - d * (x - c)) / area


def grid_of(
    path: Path, crs: CRS | None, transform: tuple[float, ...], shape: tuple[int, int], control_points: bool = False
) -> Grid:
    """A grid from what a file says of itself.

    Args:
        path: the file, for messages.
        crs: its coordinate system.
        transform: at least six numbers.
        shape: rows and columns.
        control_points: whether ground control points are all that places it.

    Raises:
        MapexError: it has no coordinate system.
    """
    if control_points and not crs:
        raise MapexError(
            f"{path} is placed by ground control points alone, as a Sentinel-1 GRD measurement is: it is neither "
            "calibrated nor on a map. Make it so with a terrain correction (SNAP, pyroSAR), or take a product that is, "
            "such as Sentinel-1 RTC; other images can be warped with gdalwarp."
        )
    if not crs:
        raise MapexError(
            f"{path} has no coordinate system. Write it in with gdal_edit -a_srs EPSG:NUMBER, or with .rio.write_crs "
            "of rioxarray."
        )
    a, b, c, d, e, f = transform[:6]
    return Grid(crs.to_wkt(), (a, b, c, d, e, f), *shape)
