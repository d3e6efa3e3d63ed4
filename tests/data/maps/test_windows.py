"""Windows of a scene: what each sensor saw there, on its own pixels, and nothing beyond."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from mapex_lightning.data import raster
from mapex_lightning.data.maps.windows import Cell, Windows
from mapex_lightning.data.scenes.scene import Scene
from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from tests.builders import HEIGHT, OPTICAL, RADAR

UTM = rasterio.CRS.from_epsg(32632).to_wkt()
ROWS, COLUMNS = 40, 60


def write(folder: Path, modality: Modality, gsd: float | None = None) -> Scene:
    """A file of 400 m x 600 m whose values tell row and column, with the first 16 rows and columns of 10 m empty."""
    gsd = gsd or modality.gsd
    y, x = np.mgrid[0 : ROWS * 10 : gsd, 0 : COLUMNS * 10 : gsd]
    image = np.stack([1000.0 * band + y + x / 1000 for band in range(len(modality.bands))]).astype(np.float32)
    image[:, (y < 160) & (x < 160)] = np.nan
    place = GeoReference(UTM, (gsd, 0.0, 500_000.0, 0.0, -gsd, 5_000_000.0))
    raster.write(folder / f"{modality.name}.tif", image, modality.bands, place)
    return Scene([folder / f"{modality.name}.tif"])


@pytest.fixture
def scenes(tmp_path: Path) -> dict[str, Scene]:
    """Radar and optical images of 10 m, and heights of 20 m."""
    return {modality.name: write(tmp_path, modality) for modality in (RADAR, OPTICAL, HEIGHT)}


def windows_of(scenes: dict[str, Scene], cell: Cell = "pixel", overlap: float = 0.5, *modalities: Modality) -> Windows:
    return Windows(scenes, modalities or (RADAR, OPTICAL, HEIGHT), 16, overlap, cell, 8)


def test_the_grid_is_that_of_the_finest_sensor(scenes: dict[str, Scene]) -> None:
    windows = windows_of(scenes)
    assert (windows.grid, windows.cells) == (scenes["s1"].grid, scenes["s1"].grid)
    assert windows_of({"dem": scenes["dem"]}, "pixel", 0.5, HEIGHT).grid == scenes["dem"].grid


def test_without_the_finest_sensor_the_grid_is_as_fine_as_what_the_model_reads(scenes: dict[str, Scene]) -> None:
    assert windows_of({"dem": scenes["dem"]}).grid == scenes["s1"].grid


def test_a_window_is_its_part_of_every_sensor_in_that_sensors_pixels(scenes: dict[str, Scene]) -> None:
    windows = windows_of(scenes)
    number = next(n for n in range(len(windows)) if windows.plan.corner(n) == (8, 24))
    tile = windows[number]
    assert tile.name == str(number)
    assert tile.images["s2"][1, 0, 0] == pytest.approx(1000 + 80 + 0.24)
    assert tile.images["dem"].shape == (1, 8, 8)
    assert tile.images["dem"][0, -1, -1] == pytest.approx(80 + 140 + 0.24 + 0.14)


def test_what_lies_beyond_the_scene_is_invalid(scenes: dict[str, Scene]) -> None:
    windows = Windows(scenes, (RADAR, OPTICAL, HEIGHT), 64, 0.5, "pixel", 8)
    assert len(windows) == 1
    valid = np.isfinite(windows[0].images["s1"][0])
    assert not valid[40:].any()
    assert not valid[:, 60:].any()
    assert valid[16:40, :60].all()


def test_a_window_that_nothing_was_seen_of_is_left_out(scenes: dict[str, Scene]) -> None:
    windows = windows_of(scenes)
    assert windows[0].images == {}
    assert windows.batch([windows[0], windows[2]]).names == ("2",)
    alone = windows.batch([windows[0]])
    assert alone.names == ("0",)
    assert not any(image.isfinite().any() and alone.present[name].any() for name, image in alone.images.items())


def test_a_sensor_without_files_is_absent(scenes: dict[str, Scene]) -> None:
    del scenes["s1"]
    windows = windows_of(scenes)
    batch = windows.batch([windows[2], windows[3]])
    assert {name: here.tolist() for name, here in batch.present.items()} == {
        "s1": [False, False],
        "s2": [True, True],
        "dem": [True, True],
    }
    assert torch.equal(batch.images["s1"], torch.zeros(2, 2, 16, 16))


def test_features_have_a_cell_per_patch(scenes: dict[str, Scene]) -> None:
    windows = windows_of(scenes, "patch")
    assert windows.cells.transform == (80.0, 0.0, 500_000.0, 0.0, -80.0, 5_000_000.0)
    assert (windows.cells.height, windows.cells.width) == (5, 8)
    assert (windows.plan.side, windows.plan.tops, windows.plan.lefts) == (2, (0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6))


def test_labels_have_a_cell_in_the_middle_of_each_window(scenes: dict[str, Scene]) -> None:
    windows = windows_of(scenes, "window")
    assert (windows.step, windows.margin) == (8, 4)
    assert (windows.cells.height, windows.cells.width) == (5, 8)
    image = windows[8 + 3].images["s1"][0]
    assert image[windows.margin, windows.margin] == pytest.approx(80 + 0.24)
    assert not np.isfinite(windows[7].images["s1"][0][:4]).any()


def test_windows_begin_where_pixels_of_all_sensors_begin(scenes: dict[str, Scene]) -> None:
    windows = windows_of(scenes, "pixel", 0.55)
    assert all(start % 2 == 0 for start in (*windows.plan.tops, *windows.plan.lefts))
    assert windows.plan.tops[1] == 4


@pytest.mark.parametrize(("side", "overlap", "stride"), [(32, 0.5, 12), (24, 0.25, 12), (16, 0.0, 16), (16, 0.9, 2)])
def test_windows_with_a_class_per_pixel_begin_between_patches(
    scenes: dict[str, Scene], side: int, overlap: float, stride: int
) -> None:
    windows = Windows(scenes, (RADAR, OPTICAL, HEIGHT), side, overlap, "pixel", 8)
    assert windows.plan.lefts[1] == stride


@pytest.mark.parametrize(
    ("gsd", "coarse", "side", "patch", "overlap", "stride"),
    [
        (10.0, 240.0, 72, 8, 0.5, 24),
        (0.5, 10.0, 100, 4, 0.5, 40),
        (10.0, 300.0, 120, 8, 0.3, 60),
        (10.0, 80.0, 8, 4, 0.5, 8),
    ],
)
def test_windows_leave_no_gap_where_a_coarse_pixel_is_larger_than_a_patch(
    gsd: float, coarse: float, side: int, patch: int, overlap: float, stride: int, tmp_path: Path
) -> None:
    fine, heights = replace(OPTICAL, gsd=gsd), replace(HEIGHT, gsd=coarse)
    windows = Windows({"s2": write(tmp_path, fine)}, (fine, heights), side, overlap, "pixel", patch)
    plan = windows.plan
    unit = round(coarse / gsd)
    for starts, length in ((plan.tops, windows.grid.height), (plan.lefts, windows.grid.width)):
        assert starts[0] == 0
        assert starts[-1] + side >= length
        assert {0 < after - start <= stride and start % unit == 0 for start, after in pairwise(starts)} <= {True}
    assert len(plan.lefts) == 1 or plan.lefts[1] == stride


def test_pixels_of_another_size_than_the_model_reads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"s2\.tif has pixels of 20 m, and the model reads s2 at 10 m"):
        windows_of({"s2": write(tmp_path, OPTICAL, 20.0)})


def test_a_sensor_that_does_not_give_the_grid_is_warped_onto_it(tmp_path: Path) -> None:
    scenes = {"s1": write(tmp_path, RADAR), "dem": write(tmp_path, HEIGHT, 40.0)}  # the model reads heights at 20 m
    windows = windows_of(scenes, "pixel", 0.5, RADAR, HEIGHT)
    number = next(n for n in range(len(windows)) if windows.plan.corner(n) == (16, 24))
    found = windows[number].images["dem"][0]
    assert found.shape == (8, 8)
    # Each pixel of 40 m holds its first corner, 20 m before its middle; the middles here are 10 m after the corners.
    y, x = np.mgrid[160:320:20.0, 240:400:20.0] + 10.0 - 20.0
    np.testing.assert_allclose(found, y + x / 1000, atol=1e-2)


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_an_overlap_is_a_share(scenes: dict[str, Scene], overlap: float) -> None:
    with pytest.raises(MapexError, match="from 0 to less than 1"):
        windows_of(scenes, "pixel", overlap)
