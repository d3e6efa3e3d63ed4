"""A function of the place survives being brought onto another grid."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.scenes.warp import Part, Resampling, onto
from mapex_lightning.errors import MapexError
from tests import scenes

SOURCE = scenes.grid(10.0, 120)
IMAGE = scenes.values(SOURCE)[None].astype(np.float32)


def brought(grid: Grid, image: np.ndarray = IMAGE, source: Grid = SOURCE, how: Resampling | None = None) -> np.ndarray:
    def read(part: Part) -> np.ndarray:
        assert part.within(source) == part
        return image[:, part.row : part.row + part.height, part.column : part.column + part.width]

    return onto(grid, source, read, len(image), how)


@pytest.mark.parametrize(
    "grid",
    [
        scenes.grid(10.0, 40, scenes.EAST + 303.0, scenes.NORTH - 217.0),
        scenes.grid(7.0, 40, scenes.EAST + 300.0, scenes.NORTH - 300.0),
        scenes.beside(10.0, 40, scenes.EAST + 300, scenes.NORTH - 300, 32633),
        scenes.beside(14.0, 30, scenes.EAST + 300, scenes.NORTH - 300, 32733),
        scenes.beside(10.0, 40, scenes.EAST + 300, scenes.NORTH - 300, 3035),
        scenes.beside(1 / 7200, 20, scenes.EAST + 300, scenes.NORTH - 300, 4326),
        scenes.grid()._replace(
            transform=(8.0, 6.0, scenes.EAST + 300, 6.0, -8.0, scenes.NORTH - 600), height=30, width=30
        ),
    ],
    ids=["offset", "finer", "next zone", "other hemisphere's zone", "Lambert", "degrees", "rotated"],
)
def test_a_ramp_is_the_same_ramp_on_any_grid(grid: Grid) -> None:
    np.testing.assert_allclose(brought(grid)[0], scenes.values(grid), atol=1e-3)


@pytest.mark.parametrize("epsg", [32632, 32633])
def test_a_ramp_averaged_onto_coarser_pixels_stays_within_a_tenth_of_a_pixel(epsg: int) -> None:
    grid = scenes.beside(40.0, 8, scenes.EAST + 300, scenes.NORTH - 300, epsg)
    np.testing.assert_allclose(brought(grid)[0], scenes.values(grid), atol=0.06)


def test_a_rotated_source_is_warped_too() -> None:
    source = SOURCE._replace(transform=(8.0, 6.0, scenes.EAST, 6.0, -8.0, scenes.NORTH))
    grid = scenes.grid(10.0, 20, scenes.EAST + 700, scenes.NORTH + 50)
    image = scenes.values(source)[None].astype(np.float32)
    np.testing.assert_allclose(brought(grid, image, source)[0], scenes.values(grid), atol=1e-3)


def test_coinciding_pixels_are_handed_over_as_they_are_and_nan_beyond() -> None:
    found = brought(SOURCE.window(-2, 100, 10, 40))
    np.testing.assert_array_equal(found[0, 2:, :20], IMAGE[0, :8, 100:])
    assert np.isnan(found[0, :2]).all()
    assert np.isnan(found[0, :, 20:]).all()


def test_exact_multiples_are_averaged() -> None:
    found = brought(SOURCE.at(20.0))
    np.testing.assert_allclose(found[0], IMAGE[0].reshape(60, 2, 60, 2).mean((1, 3)), rtol=1e-5, atol=1e-5)


def test_parts_agree_with_the_whole() -> None:
    grid = scenes.beside(10.0, 40, scenes.EAST + 300, scenes.NORTH - 300, 32633)
    rough = np.random.default_rng(0).normal(size=IMAGE.shape).astype(np.float32)
    whole = brought(grid, rough)
    np.testing.assert_allclose(brought(grid.window(8, 16, 20, 12), rough), whole[:, 8:28, 16:28], atol=1e-4)


def test_an_invalid_pixel_takes_no_part_and_spoils_no_other_band() -> None:
    holed = np.concatenate([IMAGE, IMAGE])
    holed[0, 50:53, 50:53] = np.nan
    grid = scenes.grid(10.0, 100, scenes.EAST + 54, scenes.NORTH - 54)
    found = brought(grid, holed)
    assert np.isfinite(found[1]).all()
    assert np.isnan(found[0]).sum() == 4  # those among four invalid ones
    np.testing.assert_array_less(np.abs(found[0] - found[1])[np.isfinite(found[0])], 0.3)


def test_nearest_invents_no_value() -> None:
    codes = np.random.default_rng(0).integers(0, 5, IMAGE.shape).astype(np.float32)
    found = brought(scenes.beside(10.0, 40, scenes.EAST + 300, scenes.NORTH - 300, 32633), codes, how="nearest")
    assert set(np.unique(found)) <= set(range(5))


def test_a_place_elsewhere_is_nan_and_nothing_is_read() -> None:
    def refuse(part: Part) -> np.ndarray:
        raise AssertionError(part)

    for grid in (scenes.grid(east=200_000.0), scenes.grid(epsg=32719), scenes.grid(1 / 3600, 8, -60.0, -10.0, 4326)):
        assert np.isnan(onto(grid, SOURCE, refuse, 2)).all()


@pytest.mark.parametrize("west", [179.0, -181.0, 180.2], ids=["from the west", "from the east", "beyond it"])
def test_a_source_in_degrees_reaches_across_the_antimeridian(west: float) -> None:
    source = scenes.grid(0.01, 200, west, 11.0, 4326)
    image = np.broadcast_to(source.transform[2] % 360 + 0.01 * (np.arange(200) + 0.5), (1, 200, 200)).astype(np.float32)
    east = 150_000.0 if west < 180 else 190_000.0  # the antimeridian is at 171,000 m
    grid = scenes.grid(1000.0, 60, east, 1_120_000.0, 32601)
    found = brought(grid, image, source)[0]
    _, _, c, _, _, f = grid.transform
    rows, columns = np.mgrid[:60, :60] + 0.5
    longitudes = transform(grid.crs, "EPSG:4326", (c + 1000 * columns).ravel(), (f - 1000 * rows).ravel())[0]
    wanted = (np.array(longitudes) % 360).reshape(60, 60)
    assert (wanted.min() < 180) == (west < 180)
    inside = wanted > (west % 360) + 0.02
    assert inside.sum() > 1000
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-3)


def test_coordinate_systems_without_a_way_between_them_are_named() -> None:
    here = rasterio.CRS.from_wkt(
        'LOCAL_CS["the garden",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    ).to_wkt()
    with pytest.raises(MapexError, match="the garden"):
        brought(SOURCE._replace(crs=here))
