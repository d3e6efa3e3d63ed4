"""Pixels of one grid on another: read where the two agree, warped where they do not.

Axes: C bands, H and W pixels of the grid wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine
from rasterio.warp import Resampling as Method
from rasterio.warp import reproject, transform

from mapex_lightning.data.crs import name_of, parsed
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.errors import MapexError

Resampling = Literal["bilinear", "nearest", "average"]

COARSER = 1.5
"""From this ratio of pixel sides on, values are averaged by default: between two neighbours bilinear would alias."""

LATTICE = 33
"""Points per side of a grid at which its place on another one is looked up."""

TURN = 360.0
"""Degrees once around the Earth."""


class Part(NamedTuple):
    """A window of whole pixels.

    Attributes:
        row: first row.
        column: first column.
        height: rows.
        width: columns.
    """

    row: int
    column: int
    height: int
    width: int

    def within(self, grid: Grid) -> Part:
        """What of it lies on a grid; its height or width is 0 where nothing does."""
        top, left = max(0, self.row), max(0, self.column)
        bottom, right = min(grid.height, self.row + self.height), min(grid.width, self.column + self.width)
        return Part(top, left, max(0, bottom - top), max(0, right - left))


Read = Callable[[Part], np.ndarray]
"""Reads a part of a source, (C, height, width) float32 with NaN where invalid."""


def onto(grid: Grid, source: Grid, read: Read, bands: int, resampling: Resampling | None = None) -> np.ndarray:
    """Brings pixels onto a grid.

    Where the pixels of both grids coincide they are handed over as stored. Elsewhere they are warped, in one step and
    without approximation; an invalid pixel takes no part, so what it leaves is the mean of its valid neighbours.

    Args:
        grid: the grid wanted.
        source: the grid on which they are stored.
        read: reads a part of them; called once or not at all.
        bands: how many, C.
        resampling: how values in between are found; None averages onto pixels that are coarser by half or more and is
            bilinear otherwise.

    Returns:
        Shape (C, H, W), float32; NaN where the source is invalid or does not reach.

    Raises:
        MapexError: there is no way from one coordinate system to the other.
    """
    out = np.full((bands, grid.height, grid.width), np.nan, dtype=np.float32)
    offset = source.offset(grid)
    if offset is not None:
        wanted = Part(*offset, grid.height, grid.width)
        part = wanted.within(source)
        if part.height and part.width:
            row, column = part.row - wanted.row, part.column - wanted.column
            out[:, row : row + part.height, column : column + part.width] = read(part)
        return out
    ratio = grid.gsd / source.gsd
    part = _under(grid, source, margin=math.ceil(max(ratio, 1)) + 2).within(source)
    if not (part.height and part.width):
        return out
    method = resampling or ("average" if ratio >= COARSER else "bilinear")
    reproject(
        read(part),
        out,
        src_transform=Affine(*source.window(*part).transform),
        src_crs=parsed(source.crs),
        src_nodata=np.nan,
        dst_transform=Affine(*grid.transform),
        dst_crs=parsed(grid.crs),
        dst_nodata=np.nan,
        resampling=Method[method],
        tolerance=0.0,
        UNIFIED_SRC_NODATA="NO",  # each band has invalid pixels of its own
        **(
            {} if method == "average" else {"XSCALE": 1, "YSCALE": 1}
        ),  # else GDAL guesses a blur from the window's size
    )
    return out


def _under(grid: Grid, source: Grid, margin: int) -> Part:
    """The part of a source that lies under a grid, and a margin of pixels around it."""
    a, b, c, d, e, f = grid.transform
    rows, columns = np.meshgrid(np.linspace(0, grid.height, LATTICE), np.linspace(0, grid.width, LATTICE))
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    try:
        there = transform(parsed(grid.crs), parsed(source.crs), x.ravel(), y.ravel())
    except (CRSError, RasterioError) as error:
        raise MapexError(
            f"There is no way from {name_of(source.crs)} to {name_of(grid.crs)} ({error}). "
            "Warp one with gdalwarp first."
        ) from error
    points = np.array(there)
    points = points[:, np.isfinite(points).all(0)]
    if not points.size:
        return Part(0, 0, 0, 0)
    if parsed(source.crs).is_geographic:  # 180.5 and -179.5 degrees are one place, and a source knows it as one of them
        left, _, right, _ = source.bounds
        points[0] -= TURN * np.round((points[0] - (left + right) / 2) / TURN)
    at = np.array([source.pixel(*point) for point in points.T])
    (left, top), (right, bottom) = np.floor(at.min(0)).astype(int), np.ceil(at.max(0)).astype(int)
    row, column = int(top) - margin, int(left) - margin
    return Part(row, column, int(bottom) + margin - row, int(right) + margin - column)
