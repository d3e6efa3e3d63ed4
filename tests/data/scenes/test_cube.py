"""Cubes as rioxarray, odc-stac and others write them: bands by name, placed by the CF conventions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.scenes.scene import Reading, Scene
from mapex_lightning.errors import MapexError
from tests import scenes

pytest.importorskip("netCDF4", reason="the extra cubes is not installed")
pytest.importorskip("zarr", reason="the extra cubes is not installed")

GRID = scenes.grid(10.0, 12, width=9)
PIXELS = np.arange(108, dtype=np.float32).reshape(12, 9)

Write = Callable[[xarray.Dataset, Path], Path]


def netcdf(cube: xarray.Dataset, folder: Path) -> Path:
    path = folder / f"cube{len(list(folder.iterdir()))}.nc"  # one that is open cannot be written
    cube.to_netcdf(path, engine="netcdf4")
    return path


def zarr_of(version: int) -> Write:
    def write(cube: xarray.Dataset, folder: Path) -> Path:
        cube.to_zarr(folder / "cube.zarr", zarr_format=version, consolidated=version == 2)
        return folder / "cube.zarr"

    return write


def cube(
    grid: Grid = GRID, upward: bool = False, names: tuple[str, str] = ("y", "x"), **variables: tuple[Any, np.ndarray]
) -> xarray.Dataset:
    """Variables over the middles of pixels, with the grid mapping as a coordinate."""
    a, _, c, _, e, f = grid.transform
    y = f + e * (np.arange(grid.height) + 0.5)
    coordinates = {names[0]: y[::-1] if upward else y, names[1]: c + a * (np.arange(grid.width) + 0.5)}
    mapping = xarray.DataArray(0, attrs={"crs_wkt": grid.crs})
    made = xarray.Dataset(dict(variables), {**coordinates, "spatial_ref": mapping})
    for variable in made.data_vars.values():
        variable.attrs["grid_mapping"] = "spatial_ref"
    return made


@pytest.mark.parametrize("write", [netcdf, zarr_of(2), zarr_of(3)], ids=["NetCDF", "Zarr 2", "Zarr 3"])
def test_variables_are_bands_on_the_grid_of_the_coordinates(write: Write, tmp_path: Path) -> None:
    path = write(cube(B04=(("y", "x"), PIXELS), B08=(("y", "x"), PIXELS + 500)), tmp_path)
    scene = Scene([path])
    assert scene.bands == ("B04", "B08")
    assert scene.grid[1:] == GRID[1:]
    np.testing.assert_array_equal(scene.read(["B08", "B04"], GRID), [PIXELS + 500, PIXELS])
    np.testing.assert_array_equal(scene.read(["B04"], GRID.window(3, 2, 4, 5))[0], PIXELS[3:7, 2:7])


def test_rows_that_run_northward_are_turned(tmp_path: Path) -> None:
    scene = Scene([netcdf(cube(upward=True, B04=(("y", "x"), PIXELS[::-1])), tmp_path)])
    assert scene.grid[1:] == GRID[1:]
    np.testing.assert_array_equal(scene.read(["B04"], GRID.window(3, 2, 4, 5))[0], PIXELS[3:7, 2:7])


def test_a_text_coordinate_names_bands_and_a_single_time_is_no_matter(tmp_path: Path) -> None:
    made = cube(reflectance=(("time", "band", "x", "y"), np.stack([PIXELS.T, PIXELS.T + 500])[None]))
    scene = Scene([netcdf(made.assign_coords(band=["B04", "B08"], time=[3]), tmp_path)])
    assert scene.bands == ("B04", "B08")
    np.testing.assert_array_equal(scene.read(["B08"], GRID)[0], PIXELS + 500)


def test_packing_and_fill_values_are_undone(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[2, 3] = np.nan
    made = cube(t=(("y", "x"), pixels))
    made["t"].encoding = {"dtype": "int16", "scale_factor": 0.5, "add_offset": 20.0, "_FillValue": -9}
    np.testing.assert_array_equal(Scene([netcdf(made, tmp_path)]).read(["t"], GRID)[0], pixels)


@pytest.mark.parametrize("write", [netcdf, zarr_of(2), zarr_of(3)], ids=["NetCDF", "Zarr 2", "Zarr 3"])
@pytest.mark.parametrize(
    "encoding",
    [
        {},
        {"_FillValue": 9},
        {"dtype": "int16"},
        {"dtype": "uint16", "_FillValue": 9},
        {"dtype": "int16", "scale_factor": 0.1, "add_offset": 0.3},
        {"dtype": "int16", "scale_factor": 0.1, "_FillValue": 9},
    ],
    ids=["fractions", "and a fill value", "whole numbers", "and a fill value", "packed", "and a fill value"],
)
def test_given_and_plainly_declared_nodata_are_stored_values(
    write: Write, encoding: dict[str, Any], tmp_path: Path
) -> None:
    stored = PIXELS.astype(encoding.get("dtype", "float32"))
    made = cube(t=(("y", "x"), stored), u=(("y", "x"), stored))
    made["t"].attrs = {**made["t"].attrs, **{key: its for key, its in encoding.items() if key != "dtype"}}
    made["t"].attrs["nodata"] = 5
    path = write(made, tmp_path)
    wanted = np.isin(PIXELS, [5, 7, *([9] if "_FillValue" in encoding else [])])
    found = Scene([path], reading=Reading(nodata=7)).read(["t", "u"], GRID)
    np.testing.assert_array_equal(np.isnan(found), [wanted, PIXELS == 7])
    kept = PIXELS * np.float32(encoding.get("scale_factor", 1)) + np.float32(encoding.get("add_offset", 0))
    np.testing.assert_allclose(found[0][~wanted], kept[~wanted], rtol=1e-6)


@pytest.mark.parametrize("nodata", ["none", np.nan, 70_000, 0.5, "NaN"])
def test_nodata_that_no_stored_value_can_be_is_no_matter(nodata: float | str, tmp_path: Path) -> None:
    made = cube(t=(("y", "x"), PIXELS.astype("uint16")))
    made["t"].attrs["nodata"] = nodata
    scene = Scene([netcdf(made, tmp_path)], reading=Reading(nodata=-9999.0))
    np.testing.assert_array_equal(scene.read(["t"], GRID)[0], PIXELS)


def test_latitude_and_longitude_in_degrees_are_wgs_84(tmp_path: Path) -> None:
    grid = scenes.grid(0.25, 12, 7.0, 47.0, 4326, width=9)
    made = cube(grid, names=("latitude", "longitude"), t=(("latitude", "longitude"), PIXELS)).drop_vars("spatial_ref")
    made["latitude"].attrs["units"], made["longitude"].attrs["units"] = "degrees_north", "degrees_east"
    scene = Scene([netcdf(made, tmp_path)])
    assert scene.grid.offset(grid) == (0, 0)
    np.testing.assert_array_equal(scene.read(["t"], grid)[0], PIXELS)


def test_a_cube_is_warped_like_any_other_source(tmp_path: Path) -> None:
    place = scenes.grid(10.0, 60)
    scene = Scene([netcdf(cube(place, height=(("y", "x"), scenes.values(place))), tmp_path)])
    grid = scenes.beside(10.0, 20, scenes.EAST + 150, scenes.NORTH - 150, 32633)
    np.testing.assert_allclose(scene.read(["height"], grid)[0], scenes.values(grid), atol=1e-3)


def refused(made: xarray.Dataset, folder: Path) -> str:
    scene = Scene([netcdf(made, folder)])
    with pytest.raises(MapexError) as caught:
        scene.read(scene.bands, scene.grid)
    return str(caught.value)


def test_what_cannot_be_placed_or_named_is_refused_in_a_sentence(tmp_path: Path) -> None:
    whole = cube(B04=(("y", "x"), PIXELS))
    assert "cube0.nc has no coordinate system" in refused(whole.drop_vars("spatial_ref"), tmp_path)
    assert "no coordinates of a map" in refused(whole.drop_vars(["y", "x"]), tmp_path)
    crooked = whole.assign_coords(y=whole["y"].to_numpy() - np.arange(12) ** 2)
    assert "y is not evenly spaced" in refused(crooked, tmp_path)
    times = cube(B04=(("time", "y", "x"), np.stack([PIXELS] * 3)))
    assert "3 entries along time, which does not name bands. Choose one" in refused(times, tmp_path)
    whole["spatial_ref"].attrs["crs_wkt"] = "nonsense"
    assert "'nonsense', which is none" in refused(whole, tmp_path)


def test_missing_and_damaged_cubes_are_named(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="There is no cube"):
        _ = Scene([tmp_path / "none.nc"]).bands
    (tmp_path / "bad.nc").write_bytes(b"no cube at all")
    with pytest.raises(MapexError, match=r"bad\.nc cannot be opened"):
        _ = Scene([tmp_path / "bad.nc"]).bands
