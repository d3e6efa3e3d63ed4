"""CaBuAr: images in an HDF5 file, folds that turn, and patches without an image from before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest

from mapex_lightning.data.sets.cabuar import SENSORS, CaBuAr
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import S2_BANDS, Modality
from tests import layouts


def modality(name: str, *bands: str) -> Modality:
    return Modality(name, bands, 20.0, "reflectance x 10000", (0.0,) * len(bands), (1.0,) * len(bands))


EVERY = [modality(name, *S2_BANDS) for name in SENSORS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cabuar")
    layouts.cabuar(folder)
    return folder


def folds(source: CaBuAr) -> list[list[str]]:
    """The folds of each split; the name of a written patch tells its own."""
    return [[key.rpartition("_")[2] for key in source.keys(split)] for split in SPLITS]


def test_bands_come_by_name_and_what_is_0_in_all_of_them_is_nan(root: Path) -> None:
    source = CaBuAr(root)
    images = source.read(source.keys("test")[0], [*EVERY[:1], modality("s2_after", "B12", "B01")]).images
    assert images["s2_before"][:, 5, 5].tolist() == list(range(100, 112))
    assert images["s2_after"][:, 5, 5].tolist() == [511, 500]
    assert images["s2_after"][:, -1, 5].tolist() == [511, 0]
    assert np.isnan(images["s2_after"][:, 0]).all()
    assert images["s2_after"].dtype == np.float32


def test_the_mask_is_burnt_or_not(root: Path) -> None:
    source = CaBuAr(root)
    mask = source.label(source.keys("test")[0])
    assert isinstance(mask, np.ndarray)
    assert mask.dtype == np.int64
    assert mask[0].tolist() == [0] * 16 + [1] * 16


@pytest.mark.parametrize(
    ("test", "found"),
    [
        (0, [["2", "3", "4"], ["1"], ["0"]]),
        (4, [["1", "2", "3"], ["0"], ["4"]]),
        ("chabud", [["1", "2", "3", "4"], ["0"], ["9"]]),
    ],
)
def test_the_folds_turn(root: Path, test: Literal[0, 4, "chabud"], found: list[list[str]]) -> None:
    assert folds(CaBuAr(root, test)) == found


def test_a_patch_without_an_image_from_before_keeps_the_other(root: Path) -> None:
    source = CaBuAr(root, test=3)
    assert set(source.read(source.keys("test")[0], EVERY).images) == {"s2_after"}
    assert folds(CaBuAr(root, test=3, require=["s2_before"])) == [["0", "1", "2"], ["4"], []]


def test_the_file_of_the_challenge_is_the_same_under_another_name(tmp_path: Path) -> None:
    layouts.cabuar(tmp_path)
    (tmp_path / "512x512.hdf5").rename(tmp_path / "train_eval.hdf5")
    assert folds(CaBuAr(tmp_path)) == [["2", "3", "4"], ["1"], ["0"]]


def test_a_patch_says_nothing_about_where_it_lies(root: Path) -> None:
    source = CaBuAr(root)
    assert source.georeference(source.keys("test")[0]) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    layouts.cabuar(tmp_path)
    (tmp_path / "512x512.hdf5").write_bytes(b"not found")
    with pytest.raises(MapexError, match=r"512x512\.hdf5 cannot be read as HDF5"):
        CaBuAr(tmp_path).keys("train")


def test_a_patch_that_is_not_what_it_should_be_is_named(tmp_path: Path) -> None:
    layouts.cabuar(tmp_path)
    with h5py.File(tmp_path / "512x512.hdf5", "a") as file:
        key = sorted(file)[0]
        del file[key]["mask"], file[key]["post_fire"]
        file[key]["post_fire"] = np.zeros((8, 8, 3), np.uint16)
    source = CaBuAr(tmp_path)
    with pytest.raises(MapexError, match=r"rows, columns and bands at 0328d12a.*/mask; found nothing"):
        source.label(key)
    with pytest.raises(MapexError, match=r"has 3 bands at 0328d12a.*/post_fire where 12 are expected"):
        source.read(key, EVERY[1:])
    with h5py.File(tmp_path / "512x512.hdf5", "a") as file:
        file[key].attrs["fold"] = 9
    with pytest.raises(MapexError, match=r"its fold is one of .*; found 9"):
        CaBuAr(tmp_path).keys("train")


def test_the_challenge_without_its_file_is_refused(tmp_path: Path) -> None:
    layouts.cabuar(tmp_path)
    (tmp_path / "chabud_test.h5").unlink()
    with pytest.raises(MapexError, match=r"no chabud_test\.h5"):
        CaBuAr(tmp_path, test="chabud").keys("train")


def test_an_empty_folder_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"Wanted 512x512\.hdf5 or train_eval\.hdf5"):
        CaBuAr(tmp_path).keys("train")


def test_another_fold_is_refused() -> None:
    wrong: Any = 5
    with pytest.raises(MapexError, match="no test of CaBuAr '5'"):
        CaBuAr(test=wrong)
