"""The size of a pixel on the ground, in any coordinate system."""

from __future__ import annotations

from math import cos, radians

import pytest
import rasterio

from mapex_lightning.data.ground import TOLERANCE, Side, off, side_of
from mapex_lightning.data.tileset import GeoReference


def place(epsg: int, transform: tuple[float, float, float, float, float, float]) -> GeoReference:
    return GeoReference(rasterio.CRS.from_epsg(epsg).to_wkt(), transform)


UTM = place(32632, (10, 0, 5e5, 0, -10, 5e6))
MERCATOR = place(3857, (10, 0, 1e6, 0, -10, 6_446_275.84))  # 50 degrees north
DEGREES = place(4326, (1e-4, 0, 7, 0, -1e-4, 60))
FEET = place(2263, (32.8, 0, 1e6, 0, -32.8, 2e5))
TURNED = place(32632, (6, 8, 5e5, 8, -6, 5e6))


@pytest.mark.parametrize(
    ("where", "nominal", "ground"),
    [
        (UTM, 10.0, 10.0),
        (MERCATOR, 10.0, 10 * cos(radians(50))),
        (DEGREES, None, 11.12 * cos(radians(60)) ** 0.5),
        (FEET, 9.9975, 9.9975),
        (TURNED, 10.0, 10.0),
    ],
    ids=["utm", "mercator", "degrees", "feet", "turned"],
)
def test_pixels_are_as_large_as_they_are(where: GeoReference, nominal: float | None, ground: float) -> None:
    side = side_of(where, (64, 64))
    assert side is not None
    assert side.nominal == (None if nominal is None else pytest.approx(nominal, rel=1e-4))
    assert side.ground == pytest.approx(ground, rel=0.007)


def test_a_local_system_says_nothing_about_the_ground() -> None:
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    assert side_of(GeoReference(local, (1, 0, 0, 0, -1, 0)), (8, 8)) is None


def test_the_kinder_of_the_two_sides_is_held_against_a_gsd() -> None:
    assert off(Side(10.0, 6.4), 10.0) == 0
    assert off(Side(10.0, 6.4), 6.4) == 0
    assert off(Side(None, 9.2), 10.0) < TOLERANCE < off(Side(20.0, 19.9), 10.0)
    assert off(Side(None, 5.0), 10.0) == off(Side(None, 20.0), 10.0) == 1
