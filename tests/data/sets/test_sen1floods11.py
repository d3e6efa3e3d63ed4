"""Sen1Floods11: the published lists, the bands that the files call otherwise, and Bolivia kept apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from mapex_lightning.data.sets.sen1floods11 import BANDS, Sen1Floods11
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, Modality
from mapex_lightning.tiles import IGNORED
from tests import layouts

S1, S2 = MODALITIES["s1"], MODALITIES["s2"]
L1C = Modality("l1c", BANDS, 10.0, "reflectance x 10000", (0.0,) * 13, (1.0,) * 13)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sen1floods11")
    layouts.sen1floods11(folder)
    return folder


def test_splits_are_the_published_lists(root: Path) -> None:
    assert [list(Sen1Floods11(root).keys(split)) for split in SPLITS] == [
        ["Ghana_1", "Ghana_2"], ["Spain_3"], ["Spain_4"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("test", "keys"), [("published", ["Spain_4"]), ("bolivia", ["Bolivia_5"]), ("both", ["Spain_4", "Bolivia_5"])]
)
def test_bolivia_is_a_test_of_its_own(
    root: Path, test: Literal["published", "bolivia", "both"], keys: list[str]
) -> None:
    assert list(Sen1Floods11(root, test).keys("test")) == keys


def test_bands_come_by_name_and_nodata_is_nan(root: Path) -> None:
    images = Sen1Floods11(root).read("Spain_3", [S1, S2, L1C]).images
    assert images["s1"][:, -1, -1].tolist() == [-12, -11]
    assert images["l1c"][:, -1, -1].tolist() == list(range(1000, 1013))
    assert images["s2"][:, -1, -1].tolist() == [1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1011, 1012]
    assert np.isnan(images["s1"][:, 0]).all()
    assert np.isnan(images["s2"][:, 1]).all()


def test_minus_one_in_a_mask_does_not_count(root: Path) -> None:
    mask = Sen1Floods11(root).label("Spain_3")
    assert isinstance(mask, np.ndarray)
    assert mask[0].tolist() == [IGNORED] * 16 + [1] * 16


def test_weak_labels_join_the_training_and_bolivia_stays_out(root: Path) -> None:
    for weak, first in (("s1", 0), ("s2", 1)):
        source = Sen1Floods11(root, weak="s1" if weak == "s1" else "s2")
        assert list(source.keys("train")) == ["Ghana_1", "Ghana_2", "India_6"]
        assert [len(source.keys(split)) for split in ("val", "test")] == [1, 1]
        tile = source.read("India_6", [S1, S2])
        assert isinstance(tile.target, np.ndarray)
        assert (set(tile.images), tile.target[0, 0]) == ({"s1", "s2"}, first)


def test_weak_labels_that_are_not_there_are_named(tmp_path: Path) -> None:
    layouts.sen1floods11(tmp_path)
    weakly = tmp_path / "v1.1" / "data" / "flood_events" / "WeaklyLabeled"
    (weakly / "S2IndexLabelWeak").rename(tmp_path / "elsewhere")
    with pytest.raises(MapexError, match="S2IndexLabelWeak"):
        Sen1Floods11(tmp_path, weak="s2").keys("train")


def test_a_chip_says_where_it_lies(root: Path) -> None:
    found = Sen1Floods11(root).georeference("Spain_3")
    assert found is not None
    assert found.transform[0] == 8.98e-5


def test_the_folder_v1_1_itself_is_a_root_too(root: Path) -> None:
    assert len(Sen1Floods11(root / "v1.1").keys("train")) == 2
    assert len(Sen1Floods11(root.parent / root.name / "v1.1" / "..").keys("train")) == 2


def test_a_list_that_is_missing_is_named(tmp_path: Path) -> None:
    layouts.sen1floods11(tmp_path)
    (tmp_path / "v1.1" / "splits" / "flood_handlabeled" / "flood_valid_data.csv").unlink()
    with pytest.raises(MapexError, match=r"flood_valid_data\.csv, which says"):
        Sen1Floods11(tmp_path).keys("train")


def test_an_empty_folder_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"Wanted S1Hand in .*fetch gs://sen1floods11/v1\.1"):
        Sen1Floods11(tmp_path).keys("train", [S1])


def test_other_words_are_refused() -> None:
    wrong: Any = "peru"
    with pytest.raises(MapexError, match="no test of Sen1Floods11 'peru'"):
        Sen1Floods11(test=wrong)
    with pytest.raises(MapexError, match="no weak label of Sen1Floods11 'peru'"):
        Sen1Floods11(weak=wrong)
