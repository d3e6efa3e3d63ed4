"""Grids know where their pixels lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS

from mapex_lightning.data import raster
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.errors import MapexError
from tests import scenes


def test_a_grid_is_read_from_a_file(tmp_path: Path) -> None:
    grid = scenes.grid(20.0, 8, width=5)
    assert Grid.of(scenes.write(tmp_path / "x.tif", grid, ["a"]))[1:] == grid[1:]


def test_bounds_hold_every_pixel() -> None:
    assert scenes.grid(10.0, 6, 100.0, 900.0, width=4).bounds == (100.0, 840.0, 140.0, 900.0)


def test_a_window_lies_where_its_pixels_lay() -> None:
    grid = scenes.grid(10.0, 8, 100.0, 900.0)
    window = grid.window(2, 3, 4, 5)
    assert window == scenes.grid(10.0, 4, 130.0, 880.0, width=5)
    assert grid.offset(window) == (2, 3)
    assert window.offset(grid) == (-2, -3)


@pytest.mark.parametrize(
    "other",
    [scenes.grid(east=scenes.EAST + 5), scenes.grid(20.0), scenes.grid(epsg=32633), scenes.grid(10.01)],
    ids=["half a pixel", "gsd", "zone", "drift"],
)
def test_grids_whose_pixels_do_not_coincide_have_no_offset(other: Grid) -> None:
    assert scenes.grid().offset(other) is None


def test_rounding_does_not_part_grids() -> None:
    assert scenes.grid().offset(scenes.grid(east=scenes.EAST + 1e-7)) == (0, 0)


def test_another_gsd_covers_the_same_ground() -> None:
    assert scenes.grid(10.0, 9, width=8).at(20.0) == scenes.grid(20.0, 5, width=4)
    assert scenes.grid(10.0, 9).at(10.0) == scenes.grid(10.0, 9)


@pytest.mark.parametrize(("latitude", "metres"), [(0.0, 30.9), (60.0, 21.9)])
def test_degrees_become_metres_where_the_grid_lies(latitude: float, metres: float) -> None:
    assert scenes.grid(1 / 3600, 2, 7.0, latitude, 4326).gsd == pytest.approx(metres, rel=0.01)


def test_feet_become_metres() -> None:
    assert scenes.grid(10.0, epsg=2263).gsd == pytest.approx(3.048, rel=1e-3)


def test_a_rotated_grid_is_not_north_up() -> None:
    assert scenes.grid().north_up
    assert not scenes.grid()._replace(transform=(8.0, 6.0, 0.0, 6.0, -8.0, 0.0)).north_up


def test_pixel_is_the_inverse_of_the_transform() -> None:
    grid = scenes.grid()._replace(transform=(8.0, 6.0, 70.0, 6.0, -8.0, 90.0))
    a, b, c, d, e, f = grid.transform
    assert grid.pixel(a * 3 + b * 5 + c, d * 3 + e * 5 + f) == pytest.approx((3, 5))


def test_a_file_without_a_coordinate_system_is_refused(tmp_path: Path) -> None:
    raster.write(tmp_path / "x.tif", np.ones((1, 4, 4), np.float32), ["a"])
    with pytest.raises(MapexError, match=r"x\.tif has no coordinate system.*gdal_edit"):
        Grid.of(tmp_path / "x.tif")


def test_a_latitude_beyond_the_poles_is_refused() -> None:
    with pytest.raises(MapexError, match=r"middle is at latitude 128 is not in EPSG:4326, though it says so\."):
        _ = Grid(CRS.from_epsg(4326).to_wkt(), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 256, 256).gsd
