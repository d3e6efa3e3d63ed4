"""Small scenes whose pixels are a known function of the place: what tests of scenes, tiles and maps share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.warp import transform

from mapex_lightning.data import raster
from mapex_lightning.data.grid import Grid

Function = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A value of each place, from easting and northing in UTM zone 32 north."""

HOME = rasterio.CRS.from_epsg(32632).to_wkt()
EAST, NORTH = 700_000.0, 5_200_000.0
"""Where the scenes begin: 2.6 degrees east of the zone's middle, so that the next zone is turned by 4 degrees."""


def grid(
    gsd: float = 10.0, side: int = 64, east: float = EAST, north: float = NORTH, epsg: int = 32632, width: int = 0
) -> Grid:
    """A grid of square pixels whose upper left corner is at a place of its own coordinate system."""
    crs = rasterio.CRS.from_epsg(epsg).to_wkt()
    return Grid(crs, (gsd, 0.0, east, 0.0, -gsd, north), side, width or side)


def beside(gsd: float, side: int, east: float, north: float, epsg: int) -> Grid:
    """A grid in another coordinate system whose upper left corner is at a place of the home zone."""
    (x,), (y,) = transform(HOME, rasterio.CRS.from_epsg(epsg), [east], [north])
    return grid(gsd, side, x, y, epsg)


def ramp(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Rises by 1 per 100 m eastward and by 2 per 100 m northward."""
    return (east - EAST) / 100 + (north - NORTH) / 50


def values(place: Grid, function: Function = ramp) -> np.ndarray:
    """What a function is at the middle of every pixel of a grid: (H, W)."""
    a, b, c, d, e, f = place.transform
    rows, columns = np.mgrid[: place.height, : place.width] + 0.5
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    east, north = transform(rasterio.CRS.from_wkt(place.crs), HOME, x.ravel(), y.ravel())
    return function(np.array(east), np.array(north)).reshape(x.shape)


def write(path: Path, place: Grid, bands: Sequence[str], function: Function = ramp) -> Path:
    """A GeoTIFF whose bands are the function, each 100 higher than the one before."""
    image = np.stack([values(place, function) + 100 * index for index in range(len(bands))]).astype(np.float32)
    raster.write(path, image, bands, place.place)
    return path
