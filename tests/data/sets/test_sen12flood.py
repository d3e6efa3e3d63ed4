"""SEN12-FLOOD: which images make a tile, radar on the optical grid in dB, and places that stay together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.vrt import WarpedVRT

from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.sets.published import Warped
from mapex_lightning.data.sets.sen12flood import Sen12Flood
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, S2_BANDS
from tests import layouts

S1, S2 = MODALITIES["s1"], MODALITIES["s2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sen12flood")
    layouts.sen12flood(folder / "SEN12FLOOD")
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """One place for the test to change."""
    layouts.sen12flood(tmp_path, ["0001"])
    return tmp_path


def pairs(source: Sen12Flood, place: str = "0001") -> list[str]:
    """The days of the optical and of the radar image of every tile of a place; -- where there is none."""
    found = []
    for key, entry in source.listed().items():
        optical, radar = entry.files.get("s2"), entry.files.get("s1")
        assert optical is None or isinstance(optical, dict)
        assert radar is None or isinstance(radar, Warped)
        # S2_2019-01-04_B02.tif and S1B_IW_GRDH_1SDV_20190105T030823_..._corrected_VV.tif
        days = "--" if optical is None else optical["B02"].name[8:13].replace("-", "")
        days += " --" if radar is None else f" {radar.files['VV'].name[21:25]}"
        found += [days] if key.startswith(f"{place}_") else []
    return sorted(found)


def test_an_optical_image_takes_the_nearest_radar_image_that_agrees_and_the_rest_stand_alone(root: Path) -> None:
    # 0122 is as near to 0124 as 0126 is, but says that there is no flood yet.
    assert pairs(Sen12Flood(root)) == ["-- 0102", "-- 0122", "-- 0220", "0104 0105", "0124 0126"]


@pytest.mark.parametrize(("days", "paired"), [(0, []), (1, ["0104 0105"]), (40, ["0104 0105", "0124 0126"])])
def test_images_are_paired_within_so_many_days(root: Path, days: int, paired: list[str]) -> None:
    every = pairs(Sen12Flood(root, days))
    assert [pair for pair in every if "--" not in pair] == paired
    assert {day for pair in every for day in pair.split()} - {"--"} == {
        day[5:].replace("-", "") for day in (*layouts.OPTICAL_DAYS, *layouts.RADAR_DAYS)
    }


def test_pairs_alone_are_had_by_requiring_both(root: Path) -> None:
    source = Sen12Flood(root, require=["s1", "s2"])
    assert [key[:18] for key in source.keys("train") if key.startswith("0001")] == [
        "0001_S2_2019-01-04", "0001_S2_2019-01-24"
    ]  # fmt: skip


def test_the_label_is_that_of_the_day(root: Path) -> None:
    source = Sen12Flood(root)
    labels = {key: source.label(key) for key in source.keys("train") if key.startswith("0001_S2")}
    assert labels == {"0001_S2_2019-01-04": 0, "0001_S2_2019-01-24": 1}


def test_radar_is_warped_onto_the_optical_grid_and_in_decibels(root: Path) -> None:
    images = Sen12Flood(root).read("0001_S2_2019-01-04", [S1, S2]).images
    assert images["s2"][:, -1, 0].tolist() == [1000 + number for number, _ in enumerate(S2_BANDS)]
    assert images["s1"].shape == (2, 32, 32)
    assert images["s1"].dtype == np.float32
    np.testing.assert_allclose(images["s1"][:, -1, :], [[-10.0] * 32, [-20.0] * 32], atol=1e-3)


def test_what_was_not_measured_is_nan(root: Path) -> None:
    images = Sen12Flood(root).read("0001_S2_2019-01-04", [S1, S2]).images
    assert np.isnan(images["s2"][:, :2]).all()
    # The radar image begins 100 m north of the tile, is 520 m high, and measures nothing in its first quarter.
    assert np.isnan(images["s1"][:, :2]).all()
    assert np.isfinite(images["s1"][:, 4:]).all()
    # Nor is it mixed into the rows beside it.
    np.testing.assert_allclose(images["s1"][0][np.isfinite(images["s1"][0])], -10.0, atol=1e-3)


def test_a_radar_image_alone_lies_on_the_optical_grid_too(root: Path) -> None:
    source = Sen12Flood(root)
    key = next(key for key in source.keys("train") if key.startswith("0001_S1B_IW_GRDH_1SDV_20190220"))
    assert {name: image.shape for name, image in source.read(key, [S1, S2]).images.items()} == {"s1": (2, 32, 32)}
    found = source.georeference(key)
    assert found is not None
    assert found.transform == tuple(layouts.UTM["transform"])[:6]


@pytest.mark.parametrize(
    "lost", ["S2_2019-01-04_B02", "S1B_IW_GRDH_1SDV_20190105T030823_015607_01D42A_6D09_corrected_VH"]
)
def test_an_image_that_does_not_say_where_it_lies_is_named(own: Path, lost: str) -> None:
    layouts.tiff(own / "0001" / f"{lost}.tif", np.ones((1, 48, 48), np.float32), place={})
    with pytest.raises(MapexError, match=rf"{lost}\.tif has no coordinate system"):
        Sen12Flood(own).read("0001_S2_2019-01-04", [S1])


@pytest.mark.parametrize(
    "name", ["S2_2019-01-04_B02", "S1B_IW_GRDH_1SDV_20190105T030823_015607_01D42A_6D09_corrected_VH"]
)
def test_a_raster_that_points_to_another_is_not_followed(own: Path, name: str) -> None:
    file = own / "0001" / f"{name}.tif"
    file.rename(own / "secret.tif")
    with rasterio.open(own / "secret.tif") as source, WarpedVRT(source) as points:
        rasterio.shutil.copy(points, file, driver="VRT")
    assert Grid.of(file) == Grid.of(own / "secret.tif")
    with pytest.raises(MapexError, match=rf"{name}\.tif holds no pixels itself"):
        Sen12Flood(own).read("0001_S2_2019-01-04", [S1])


def test_a_folder_in_the_place_of_a_raster_is_no_cube(own: Path) -> None:
    (file,) = (own / "0001").glob("S1B*20190105*_VH.tif")
    file.unlink()
    (file / ".zgroup").mkdir(parents=True)
    with pytest.raises(MapexError, match=r"_VH\.tif is a folder, not a raster"):
        Sen12Flood(own).read("0001_S2_2019-01-04", [S1])


def test_radar_of_a_place_without_an_optical_grid_is_left_out(own: Path) -> None:
    for file in (own / "0001").glob("S2_*"):
        file.unlink()
    with pytest.raises(MapexError, match="No SEN12-FLOOD tiles"):
        Sen12Flood(own).keys("train")


def test_places_stay_together_and_those_of_four_digits_are_for_training(root: Path) -> None:
    places = [{key.partition("_")[0] for key in Sen12Flood(root).keys(split)} for split in SPLITS]
    assert places == [{"0001", "0003"}, {"0014"}, {"7"}]


def test_images_that_cover_a_part_are_taken_only_if_asked_for(own: Path) -> None:
    described = json.loads((own / "S2list.json").read_text())
    described["0001"]["2"]["FULL-DATA-COVERAGE"] = False
    (own / "S2list.json").write_text(json.dumps(described))
    assert pairs(Sen12Flood(own)) == ["-- 0102", "-- 0122", "-- 0126", "-- 0220", "0104 0105"]
    assert "0124 0126" in pairs(Sen12Flood(own, partial=True))


def test_only_files_that_are_there_are_listed(own: Path) -> None:
    for file in (own / "0001").glob("S1B*20190105*"):
        file.unlink()
    assert pairs(Sen12Flood(own)) == ["-- 0122", "-- 0220", "0104 0102", "0124 0126"]


def test_a_band_that_is_missing_is_named(own: Path) -> None:
    (own / "0001" / "S2_2019-01-04_B11.tif").unlink()
    with pytest.raises(MapexError, match=r"no raster .*S2_2019-01-04_B11\.tif"):
        Sen12Flood(own).read("0001_S2_2019-01-04", [S2])


@pytest.mark.parametrize("text", ["{", "[]", '{"0001": 3}', '{"0001": {"1": {"date": "2019-01-04"}}}'])
def test_a_list_that_is_damaged_is_named(own: Path, text: str) -> None:
    (own / "S2list.json").write_text(text)
    with pytest.raises(MapexError, match=r"S2list\.json"):
        Sen12Flood(own).keys("train")


def test_an_empty_folder_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"Wanted S1list\.json, S2list\.json"):
        Sen12Flood(tmp_path).keys("train")


def test_days_below_zero_are_refused() -> None:
    with pytest.raises(MapexError, match="found -1"):
        Sen12Flood(days=-1)
