"""Scenes: bands by name in whatever files they lie, and sentences about files that cannot be used."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from mapex_lightning.data import raster
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.scenes.scene import Reading, Scene
from mapex_lightning.errors import MapexError
from mapex_lightning.tiles import IGNORED
from tests import scenes

GRID = scenes.grid(10.0, 32)


@pytest.fixture
def radar(tmp_path: Path) -> Path:
    return scenes.write(tmp_path / "s1.tif", GRID, ["VV", "VH"])


def plain(path: Path, grid: Grid = GRID, count: int = 1) -> Path:
    """A raster without band descriptions."""
    return scenes.write(path, grid, [""] * count)


def test_pixels_of_the_same_grid_are_those_of_the_file(radar: Path) -> None:
    stored = raster.read(radar, ["VH", "VV"])
    np.testing.assert_array_equal(Scene([radar]).read(["VH", "VV"], GRID), stored)


def test_files_of_a_band_each_are_known_by_the_end_of_their_names(tmp_path: Path) -> None:
    names = ["B04.tif", "T32TMT_20220101T103421_B8A_20m.tif", "HLS.S30.T32TMT.2022001T103421.v2.0.B03.tif", "x-VV.tif"]
    scene = Scene([plain(tmp_path / name) for name in names])
    assert scene.bands == ("B04", "B8A", "B03", "VV")


def test_the_native_grid_is_that_of_the_finest_band(tmp_path: Path) -> None:
    coarse, fine = scenes.grid(20.0, 16), scenes.grid(10.0, 32)
    scene = Scene([plain(tmp_path / "B11.tif", coarse), plain(tmp_path / "B04.tif", fine)])
    assert scene.grid[1:] == fine[1:]
    assert scene.grid_of(["B11"])[1:] == coarse[1:]
    inner = fine.window(2, 2, 28, 28)
    np.testing.assert_allclose(scene.read(["B11", "B04"], inner), np.stack([scenes.values(inner)] * 2), atol=1e-3)


def test_names_that_are_given_win(radar: Path) -> None:
    scene = Scene([radar], reading=Reading(("HH", "HV")))
    assert scene.bands == ("HH", "HV")
    np.testing.assert_array_equal(scene.read(["HH"], GRID), raster.read(radar, ["VV"]))


def test_names_run_on_over_several_files(tmp_path: Path) -> None:
    files = [plain(tmp_path / "one.tif", count=2), plain(tmp_path / "two.tif")]
    assert Scene(files, reading=Reading(("a", "b", "c"))).bands == ("a", "b", "c")
    with pytest.raises(MapexError, match=r"2 band names were given .* for 3 bands"):
        _ = Scene(files, reading=Reading(("a", "b"))).bands


def test_an_only_file_that_does_not_describe_its_bands_is_taken_in_the_order_expected(tmp_path: Path) -> None:
    dem = plain(tmp_path / "Copernicus_DSM_COG_10_N46_00_E008_00_DEM.tif")
    assert Scene([dem], unnamed=["elevation"]).bands == ("elevation",)
    with pytest.raises(MapexError, match=r"does not name its 3 bands.* mapex tiles --bands SENSOR=A,B"):
        _ = Scene([plain(tmp_path / "three.tif", count=3)], unnamed=["a", "b"]).bands


def test_descriptions_that_are_all_alike_name_nothing(tmp_path: Path) -> None:
    path = scenes.write(tmp_path / "x.tif", GRID, ["bands", "bands"])
    assert Scene([path], unnamed=["VV", "VH"]).bands == ("VV", "VH")


def test_a_band_that_is_not_there_is_named_with_those_that_are(radar: Path) -> None:
    with pytest.raises(MapexError, match=r"no band 'HV'.*Known: VH, VV.*s1\.tif"):
        Scene([radar]).read(["HV"], GRID)


def test_a_band_in_two_files_is_refused(radar: Path, tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"VV is both in .*gdalbuildvrt"):
        _ = Scene([radar, plain(tmp_path / "again_VV.tif")]).bands


def test_declared_and_given_nodata_become_nan(tmp_path: Path) -> None:
    image = np.arange(16, dtype=np.int16).reshape(1, 4, 4)
    grid = scenes.grid(side=4)
    profile = {"driver": "GTiff", "count": 1, "height": 4, "width": 4, "dtype": "int16", "crs": grid.crs}
    with rasterio.open(
        tmp_path / "x.tif", "w", nodata=3, transform=rasterio.Affine(*grid.transform), **profile
    ) as file:
        file.write(image)
    found = Scene([tmp_path / "x.tif"], reading=Reading(("a",), nodata=7)).read(["a"], grid)
    assert set(image[np.isnan(found)].tolist()) == {3, 7}


SHIFTED = GRID.window(2, 2, 20, 20)._replace(transform=(10.0, 0.0, scenes.EAST + 25, 0.0, -10.0, scenes.NORTH - 25))


def test_values_are_converted_after_warping(tmp_path: Path) -> None:
    path = scenes.write(tmp_path / "power_VV.tif", GRID, ["VV"], lambda east, north: (east - scenes.EAST) / 100 - 0.1)
    power = 2 * Scene([path]).read(["VV"], SHIFTED) + 1
    found = Scene([path], reading=Reading(scale=2.0, offset=1.0, decibels=True)).read(["VV"], SHIFTED)
    np.testing.assert_allclose(found, 10 * np.log10(power), rtol=1e-5)
    assert np.isnan(Scene([path], reading=Reading(decibels=True)).read(["VV"], GRID)[0, :, 0]).all()


@pytest.mark.parametrize("grid", [SHIFTED, GRID.at(40.0)], ids=["bilinear", "average"])
def test_decibels_are_warped_as_the_power_that_was_measured(grid: Grid, tmp_path: Path) -> None:
    def looks(east: np.ndarray, north: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).exponential(0.1, east.shape)

    stored = scenes.write(tmp_path / "power_VV.tif", GRID, ["VV"], looks)
    logs = scenes.write(tmp_path / "dB_VV.tif", GRID, ["VV"], lambda e, n: 10 * np.log10(looks(e, n)))
    wanted = 10 * np.log10(Scene([stored]).read(["VV"], grid))
    for scene in (Scene([stored], reading=Reading(decibels=True)), Scene([logs], unit="dB")):
        np.testing.assert_allclose(scene.read(["VV"], grid), wanted, atol=1e-4)
    assert (wanted - Scene([logs]).read(["VV"], grid)).mean() > 0.8


def test_decibels_of_the_same_grid_and_of_the_nearest_pixels_are_those_of_the_file(radar: Path) -> None:
    stored = raster.read(radar, ["VV", "VH"])
    np.testing.assert_array_equal(Scene([radar], unit="dB").read(["VV", "VH"], GRID), stored)
    nearest = Scene([radar], unit="dB").read(["VV", "VH"], GRID.at(5.0), "nearest")
    np.testing.assert_array_equal(nearest, stored.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize(
    ("blank", "reading", "unit"), [(0.0, Reading(decibels=True), None), (-np.inf, Reading(), "dB")], ids=["power", "dB"]
)
def test_what_is_no_power_takes_no_part_in_a_mean(
    blank: float, reading: Reading, unit: str | None, tmp_path: Path
) -> None:
    value = 0.1 if reading.decibels else -10.0
    path = scenes.write(tmp_path / "x_VV.tif", GRID, ["VV"], lambda e, n: np.where(e < scenes.EAST + 90, blank, value))
    found = Scene([path], reading=reading, unit=unit).read(["VV"], GRID.at(20.0))[0]
    assert np.isnan(found[:, :4]).all()
    np.testing.assert_allclose(found[:, 4:], -10.0, atol=1e-4)


def test_what_cannot_be_decibels_is_refused_and_not_averaged(tmp_path: Path) -> None:
    path = scenes.write(tmp_path / "amplitude_VV.tif", GRID, ["VV"], lambda east, north: 0 * east + 4321)
    with pytest.raises(MapexError, match=r"amplitude_VV\.tif holds 4321, which is nothing in decibels.*--decibels"):
        Scene([path], unit="dB").read(["VV"], GRID.at(20.0))


def test_a_declared_scale_is_not_applied_and_said(radar: Path) -> None:
    assert Scene([radar]).remarks == []
    with rasterio.open(radar, "r+") as file:
        file.scales, file.offsets = (0.0001, 0.0001), (-0.1, -0.1)
    assert Scene([radar]).remarks == [f"{radar} declares scale 0.0001 and offset -0.1, which is not applied"]


def test_classes_come_from_the_nearest_pixel_and_nodata_is_ignored(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 4, (32, 32))
    codes[:4] = IGNORED
    raster.write_mask(tmp_path / "classes.tif", codes, GRID.place)
    scene = Scene([tmp_path / "classes.tif"])
    np.testing.assert_array_equal(scene.read_classes(GRID), codes)
    np.testing.assert_array_equal(scene.read_classes(GRID.at(5.0)), codes.repeat(2, 0).repeat(2, 1))
    assert (scene.read_classes(GRID.window(30, 0, 4, 4))[2:] == IGNORED).all()


def test_fractions_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="whole class indexes"):
        Scene([plain(tmp_path / "x.tif")]).read_classes(GRID)


def test_ground_control_points_alone_are_refused_with_a_way_out(tmp_path: Path) -> None:
    points = [GroundControlPoint(row, column, column / 100, -row / 100) for row in (0, 4) for column in (0, 4)]
    profile = {"driver": "GTiff", "count": 1, "height": 4, "width": 4, "dtype": "uint16", "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "grd-vv.tif", "w", gcps=points, **profile) as file:
        file.write(np.ones((1, 4, 4), np.uint16))
    with pytest.raises(MapexError, match=r"ground control points.*Sentinel-1 RTC"):
        _ = Scene([tmp_path / "grd-vv.tif"]).grid


def test_archives_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"archive\. Unpack it"):
        _ = Scene([tmp_path / "product.zip"]).bands
    with pytest.raises(MapexError, match="There is no raster"):
        _ = Scene([tmp_path / "none.tif"]).bands
    with pytest.raises(MapexError, match="one file or more"):
        Scene([])


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = scenes.write(tmp_path / "x_VV.tif", scenes.grid(side=200), ["VV"], lambda e, n: np.sin(e * n))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(MapexError, match=r"x_VV\.tif cannot be (read|opened)"):
        Scene([path]).read(["VV"], scenes.grid(side=200))


def _read(scene: Scene) -> np.ndarray:
    return scene.read(["VV"], GRID)


def test_a_scene_travels_to_other_processes_after_it_was_read(radar: Path) -> None:
    scene = Scene([radar])
    here = _read(scene)
    np.testing.assert_array_equal(_read(pickle.loads(pickle.dumps(scene))), here)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.map(_read, [scene])[0], here)


def test_real_tiles_lie_on_each_other(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("terramind-examples") / "examples"
    radar = sorted((folder / "S1RTC").glob("*.tif"))[0]
    scene = Scene([radar], unnamed=["VV", "VH"])
    height = Scene([folder / "DEM" / radar.name], unnamed=["elevation"])
    assert scene.grid.offset(height.grid) == (0, 0)
    assert scene.read(["VH"], height.grid).shape == (1, 224, 224)
