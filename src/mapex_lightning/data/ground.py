"""How large a pixel is on the ground, as far as a georeference says."""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt
from typing import NamedTuple

from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as warped

from mapex_lightning.data.crs import parsed
from mapex_lightning.data.tileset import GeoReference

RADIUS = 6_371_008.8
"""Mean radius of the Earth in metres; distances on this sphere are wrong by 0.6 % at most."""

TOLERANCE = 0.25
"""How far pixels may be from what is said of them before they contradict it: projections and rounding explain less."""


class Side(NamedTuple):
    """The side of a pixel in metres.

    Attributes:
        nominal: in the units of its coordinate system; None where those are degrees.
        ground: on the Earth's surface. Web Mercator, for one, shows the ground larger than it is.
    """

    nominal: float | None
    ground: float


def side_of(place: GeoReference, shape: tuple[int, int]) -> Side | None:
    """The side of the pixels in the middle of a raster: the root of their area.

    Args:
        place: where it lies.
        shape: its rows and columns.

    Returns:
        None where its coordinate system says nothing about the Earth.
    """
    crs = parsed(place.crs)
    if not (crs.is_projected or crs.is_geographic):
        return None
    a, b, c, d, e, f = place.transform
    rows, columns = shape[0] / 2, shape[1] / 2
    points = [(columns, rows), (columns + 1, rows), (columns, rows + 1)]
    xs, ys = ([one * x + two * y + three for x, y in points] for one, two, three in ((a, b, c), (d, e, f)))
    try:
        longitudes, latitudes = warped(crs, CRS.from_epsg(4326), xs, ys)[:2]
    except RasterioError:
        return None
    middle, right, below = zip(longitudes, latitudes, strict=True)
    nominal = crs.linear_units_factor[1] * sqrt(abs(a * e - b * d)) if crs.is_projected else None
    return Side(nominal, sqrt(_distance(middle, right) * _distance(middle, below)))


def off(side: Side, gsd: float) -> float:
    """How far the side of a pixel is from a ground sampling distance, as a share of it; the kinder of its two sides."""
    told = [side.ground] if side.nominal is None else [side.ground, side.nominal]
    return min(max(metres / gsd, gsd / metres) for metres in told) - 1


def _distance(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Metres between two places (longitude, latitude) in degrees, by haversines."""
    (east, north), (its_east, its_north) = map(radians, one), map(radians, other)
    half = sin((its_north - north) / 2) ** 2 + cos(north) * cos(its_north) * sin((its_east - east) / 2) ** 2
    return 2 * RADIUS * asin(sqrt(half))
