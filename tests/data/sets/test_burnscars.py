"""HLS burn scars: Landsat's band names, the authors' validation as test, and tiles that stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mapex_lightning.data.sets.burnscars import BurnScars
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES
from mapex_lightning.tiles import IGNORED
from tests import layouts

LANDSAT = MODALITIES["landsat"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("burnscars")
    layouts.burnscars(folder / "hls_burn_scars")
    return folder


def test_it_is_read_as_landsat(root: Path) -> None:
    image = BurnScars(root).read("HLS.S30.T10SDH.2020248.v1.4", [LANDSAT]).images["landsat"]
    np.testing.assert_allclose(image[:, -1, -1], [0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert np.isnan(image[:, 0]).all()


def test_minus_one_in_a_mask_does_not_count(root: Path) -> None:
    mask = BurnScars(root).label("HLS.S30.T10SDH.2020248.v1.4")
    assert isinstance(mask, np.ndarray)
    assert mask[0].tolist() == [IGNORED] * 16 + [1] * 16


def test_the_authors_validation_is_the_test_and_ours_comes_out_of_training(root: Path) -> None:
    tiles = [[key.split(".")[2] for key in BurnScars(root).keys(split)] for split in SPLITS]
    assert tiles == [["T10SDH", "T10SFF"], ["T10SEH"], ["T14SMC"]]


def test_scenes_of_one_tile_are_in_one_split(tmp_path: Path) -> None:
    layouts.burnscars(tmp_path)
    for file in list((tmp_path / "training").glob("*T10SEH*")):
        for day in range(100, 120):
            file.with_name(file.name.replace("2018190", f"2019{day}")).symlink_to(file)
    assert len(BurnScars(tmp_path).keys("val")) == 21
    assert len(BurnScars(tmp_path).keys("train")) == 2


def test_a_scene_without_its_mask_is_named(tmp_path: Path) -> None:
    layouts.burnscars(tmp_path)
    next((tmp_path / "validation").glob("*.mask.tif")).unlink()
    with pytest.raises(MapexError, match=r"no raster .*T14SMC\.2018213\.v1\.4\.mask\.tif"):
        BurnScars(tmp_path).label("HLS.S30.T14SMC.2018213.v1.4")


def test_an_empty_folder_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="Wanted training and validation"):
        BurnScars(tmp_path).keys("train")
