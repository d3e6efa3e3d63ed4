"""OMBRIA: before and after are sensors of their own, margins are no data, and dark water is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from mapex_lightning.data.sets.ombria import SENSORS, Ombria
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from tests import layouts


def modality(name: str, *bands: str) -> Modality:
    return Modality(name, bands, 10.0, "8-bit", (0.0,) * len(bands), (1.0,) * len(bands))


EVERY = [modality(name, *sensor.bands) for name, sensor in SENSORS.items()]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ombria")
    layouts.ombria(folder / "OMBRIA-main")
    return folder


def test_a_modality_takes_the_pictures_of_its_name(root: Path) -> None:
    images = Ombria(root).read("0001", EVERY).images
    assert {name: image[:, 5, 5].tolist() for name, image in images.items()} == {
        "s1_before": [100], "s1_after": [50], "s2_before": [100, 101, 102], "s2_after": [50, 51, 52]
    }  # fmt: skip


def test_a_name_that_leaves_open_which_picture_is_meant_is_refused(root: Path) -> None:
    with pytest.raises(MapexError, match="more than once, as s2_before and s2_after"):
        Ombria(root).read("0001", [modality("s2", "B11")])


def test_margins_are_nan_and_one_dark_band_is_not(root: Path) -> None:
    for name, image in Ombria(root).read("0001", EVERY).images.items():
        assert np.isnan(image[:, :2]).all(), name
        assert np.isfinite(image[:, 2:-1]).all(), name
    dark = Ombria(root).read("0001", [modality("s2_after", "B11")]).images["s2_after"]
    assert (dark[0, -1, 0], np.isnan(dark).sum()) == (0, 2 * 32)


def test_255_in_a_mask_is_flood(root: Path) -> None:
    mask = Ombria(root).label("0013")
    assert isinstance(mask, np.ndarray)
    assert mask[0].tolist() == [0] * 16 + [1] * 16


def test_the_published_test_is_the_test_and_validation_comes_out_of_training(root: Path) -> None:
    assert [list(Ombria(root).keys(split)) for split in SPLITS] == [["0001", "0002"], ["0014"], ["0013"]]


@pytest.mark.parametrize(
    ("test", "keys"), [("published", ["0013"]), ("2021", ["TIMOR_4"]), ("both", ["0013", "TIMOR_4"])]
)
def test_the_events_of_2021_are_a_test_of_their_own(
    root: Path, test: Literal["published", "2021", "both"], keys: list[str]
) -> None:
    source = Ombria(root, test=test)
    assert list(source.keys("test")) == keys
    assert all(set(source.read(key, EVERY).images) == set(SENSORS) for key in keys)


def test_another_test_is_refused() -> None:
    wrong: Any = "2020"
    with pytest.raises(MapexError, match="no test of OMBRIA '2020'"):
        Ombria(test=wrong)


def test_a_tile_may_lack_pictures_and_still_has_its_mask(tmp_path: Path) -> None:
    layouts.ombria(tmp_path)
    shutil.rmtree(tmp_path / "OmbriaS1" / "train")
    (tmp_path / "OmbriaS2" / "train" / "BEFORE" / "S2_before_0001.png").unlink()
    tile = Ombria(tmp_path).read("0001", EVERY)
    assert set(tile.images) == {"s2_after"}
    assert isinstance(tile.target, np.ndarray)
    assert list(Ombria(tmp_path).keys("train", EVERY[:1])) == []


def test_an_empty_folder_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"Wanted OmbriaS1 and OmbriaS2 of github\.com/geodrak/OMBRIA"):
        Ombria(tmp_path).keys("train")


def test_real_masks_are_the_same_for_both_satellites_and_water_is_dark_in_the_infrared(
    shared_data: Callable[[str], Path],
) -> None:
    root = shared_data("ombria")
    source = Ombria(root)
    infrared = modality("s2_after", "B11")
    dry, flooded = [], []
    for key in source.keys("test")[:20]:
        tile = source.read(key, [infrared])
        assert isinstance(tile.target, np.ndarray)
        for satellite in "12":
            with Image.open(root / f"OmbriaS{satellite}" / "test" / "MASK" / f"S{satellite}_mask_{key}.png") as mask:
                np.testing.assert_array_equal(tile.target, np.asarray(mask) // 255)
        image = tile.images["s2_after"][0]
        dry.append(np.nanmean(image[tile.target == 0]))
        flooded.append(np.nanmean(image[tile.target == 1]))
    assert np.mean(np.array(flooded) < np.array(dry)) > 0.8
