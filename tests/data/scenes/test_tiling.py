"""Tiles fill the ground, and no pixel is on two sides of a split."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.scenes.tiling import Spot, Tiling, reference, utm_of
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from tests import scenes

THIRDS = (0.4, 0.3, 0.3)
GRID = scenes.grid(10.0, 330, width=250)


def spots(tiling: Tiling) -> list[Spot]:
    return [spot for row in tiling.rows() for spot in row]


def plan(grid: Grid = GRID, size: int = 20, stride: int = 20, block: int = 2, seed: int = 0) -> Tiling:
    return Tiling("bern", grid, size, stride, THIRDS, block, seed)


def test_whole_tiles_fill_the_ground_once() -> None:
    covered = np.zeros((330, 250), dtype=int)
    for spot in spots(plan()):
        covered[spot.row : spot.row + 20, spot.column : spot.column + 20] += 1
    assert (covered[:320, :240] == 1).all()
    assert covered.sum() == 320 * 240


def test_ids_begin_with_the_name_and_occur_once() -> None:
    keys = [spot.key for spot in spots(plan())]
    assert keys[:2] == ["bern-r00000-c00000", "bern-r00000-c00020"]
    assert len(set(keys)) == len(keys)


def test_neighbours_in_a_block_are_on_the_same_side() -> None:
    tiling = plan(scenes.grid(10.0, 320, 2_000 * 100, 2_000 * 1000), block=5)
    sides: dict[tuple[int, int], set[str]] = {}
    for spot in spots(tiling):
        sides.setdefault((spot.row // 100, spot.column // 100), set()).add(spot.split)
    assert {len(found) for found in sides.values()} == {1}
    assert len(set.union(*sides.values())) == 3


def shared(one: Tiling, two: Tiling) -> float:
    """How deep a tile of one plan reaches into one of another that is on another side, at most; in metres."""
    deepest = -np.inf
    theirs = [(spot.split, two.grid.window(spot.row, spot.column, two.size, two.size).bounds) for spot in spots(two)]
    for spot in spots(one):
        mine = one.grid.window(spot.row, spot.column, one.size, one.size).bounds
        other = np.array([bounds for split, bounds in theirs if split != spot.split])
        depth = np.minimum(mine[2:], other[:, 2:]) - np.maximum(mine[:2], other[:, :2])
        deepest = max(deepest, depth.min(axis=1).max())
    return float(deepest)


@pytest.mark.parametrize("stride", [20, 12, 31], ids=["", "with overlap", "with gaps"])
@pytest.mark.parametrize(
    ("other", "pixels"),
    [
        (GRID.window(40, 60, 280, 180), 0),
        (GRID.window(33, 47, 290, 200), 0),
        (GRID.window(10, 10, 320, 240), 0),
        (scenes.grid(10.0, 330, scenes.EAST - 145, scenes.NORTH + 85), 1),
        (scenes.grid(10.0, 330, scenes.EAST + 3.3, scenes.NORTH - 7.9), 1),
        (scenes.grid(9.996, 330, scenes.EAST - 60, scenes.NORTH + 40), 1),
        (scenes.grid(10.04, 330, scenes.EAST - 60, scenes.NORTH + 40), 1),
    ],
    ids=["tiles", "pixels", "half a tile", "half a pixel", "a third of a pixel", "shorter pixels", "longer pixels"],
)
def test_the_side_of_the_ground_does_not_depend_on_the_scene(other: Grid, pixels: int, stride: int) -> None:
    one, two = (plan(grid, stride=stride, block=3)._replace(gsd=10.0) for grid in (GRID, other))
    assert shared(one, two) < 10 * pixels + 1e-6
    assert shared(two, two) < 10 * pixels + 1e-6


def test_scenes_of_another_sensor_agree_where_tiles_are_as_large_in_metres() -> None:
    landsat = scenes.grid(30.0, 110, scenes.EAST - 15, scenes.NORTH + 15)
    assert shared(plan(size=60, stride=60), plan(landsat)) <= 15


def test_without_overlap_no_tile_is_left_out_but_at_the_edges() -> None:
    for east, north in ((0, 0), (470, 330), (5, -5), (-3.3, 7.9)):
        tiling = plan(scenes.grid(10.0, 330, scenes.EAST + east, scenes.NORTH + north))
        assert {len(row) for row in tiling.rows()} <= {15, 16}
        assert len(tiling.rows()) >= 15


def test_a_scene_that_is_too_small_for_the_raster_of_tiles_is_cut_from_its_corner() -> None:
    (only,) = spots(plan(GRID.window(33, 47, 25, 25))._replace(shares=(1.0, 0.0, 0.0)))
    assert (only.row, only.column) == (0, 0)


def test_tiles_of_another_date_are_those_of_the_first() -> None:
    later = plan(GRID.window(33, 47, 290, 200))
    here = {(spot.row, spot.column, spot.split) for spot in spots(plan())}
    assert {(spot.row + 33, spot.column + 47, spot.split) for spot in spots(later)} < here
    assert later.first == GRID.window(40, 60, 20, 20)


def test_another_seed_is_another_split() -> None:
    assert [s.split for s in spots(plan())] != [s.split for s in spots(plan(seed=1))]


def test_shares_are_met_over_many_blocks() -> None:
    found = [spot.split for spot in spots(plan(scenes.grid(10.0, 2000), block=1))]
    for split, share in zip(SPLITS, THIRDS, strict=True):
        assert found.count(split) / len(found) == pytest.approx(share, abs=0.02)


def test_overlapping_tiles_of_different_splits_share_no_pixel() -> None:
    found = spots(plan(stride=8, block=4))
    assert {spot.split for spot in found} == {"train", "val", "test"}
    for one, other in combinations(found, 2):
        if one.split != other.split:
            assert abs(one.row - other.row) >= 20 or abs(one.column - other.column) >= 20


def test_an_empty_split_is_refused_before_anything_is_cut() -> None:
    with pytest.raises(MapexError, match=r"No tile falls to .* --block"):
        plan(scenes.grid(side=60), block=50).rows()


def test_a_tile_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MapexError, match="No tile of 400 pixels fits into 330 rows and 250 columns"):
        plan(size=400).rows()


def test_pixels_of_the_finest_sensor_stay_as_they_are() -> None:
    assert reference(GRID, 10.0) is GRID
    assert reference(GRID, 10.04) is GRID
    assert reference(GRID, 20.0) == GRID.at(20.0)


def test_another_coordinate_system_covers_the_scene_from_multiples_of_a_pixel() -> None:
    found = reference(GRID, 10.0, "EPSG:32633")
    left, bottom, right, top = transform_bounds(GRID.crs, found.crs, *GRID.bounds)
    bounds = found.bounds
    assert (bounds[0] <= left, bounds[1] <= bottom, bounds[2] >= right, bounds[3] >= top) == (True,) * 4
    assert (found.transform[2] % 10, found.transform[5] % 10, found.gsd) == (0, 0, 10)


@pytest.mark.parametrize(
    "grid",
    [
        scenes.grid(1 / 3600, 50, 7.5, 47.0, 4326),
        GRID._replace(transform=(8.0, 6.0, 7e5, 6.0, -8.0, 5.2e6)),
        GRID._replace(transform=(7.0, 0.0, 7e5, 0.0, -14.0, 5.2e6)),
        GRID._replace(transform=(14.3, 0.0, 7e5, 0.0, -7.0, 5.2e6)),
    ],
    ids=["degrees", "rotated", "high", "wide"],
)
def test_squares_need_metres_and_north_and_equal_sides_and_a_zone_is_named(grid: Grid) -> None:
    with pytest.raises(MapexError, match="--crs EPSG:32632"):
        reference(grid, 10.0)
    squares = reference(grid, 10.0, "EPSG:32632").transform
    assert (squares[0], squares[4]) == (10.0, -10.0)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:99999", "Bern"])
def test_a_coordinate_system_that_will_not_do_is_refused_with_one_that_will(crs: str) -> None:
    with pytest.raises(MapexError, match="EPSG:32632"):
        reference(GRID, 10.0, crs)


def test_zones_of_both_hemispheres() -> None:
    assert utm_of(scenes.grid(1 / 3600, 50, -70.2, -33.0, 4326)) == "EPSG:32719"
    assert utm_of(scenes.grid(epsg=32733, north=6_000_000.0)) == "EPSG:32733"


def test_a_scene_across_the_antimeridian_is_cut_in_its_zone_and_not_around_the_world() -> None:
    across = Grid(CRS.from_epsg(4326).to_wkt(), (1e-4, 0.0, 179.99, 0.0, -1e-4, 10.0), 250, 250)
    assert (utm_of(across), reference(across, 10.0, "EPSG:32601").width < 300) == ("EPSG:32601", True)
    with pytest.raises(MapexError, match=r"torn apart in EPSG:3857: .* Give one such as --crs EPSG:32601\."):
        reference(across, 10.0, "EPSG:3857")


def test_a_pole_has_no_place_in_web_mercator() -> None:
    pole = Grid(CRS.from_epsg(4326).to_wkt(), (0.1, 0.0, -12.0, 0.0, -0.1, 90.0), 250, 250)
    with pytest.raises(MapexError, match=r"--crs EPSG:3857 (cannot be used|.*torn apart)|torn apart in EPSG:3857"):
        reference(pole, 10_000.0, "EPSG:3857")
