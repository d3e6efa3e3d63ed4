"""What published sets share: files that are found where people unpack them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mapex_lightning.data.sets import CaBuAr, Sen1Floods11
from mapex_lightning.data.sets.published import beneath
from mapex_lightning.modality import MODALITIES, Modality
from tests import layouts


def test_files_are_found_in_the_root_or_one_level_below_and_the_root_comes_first(tmp_path: Path) -> None:
    assert beneath(tmp_path / "absent", "lists/a.csv") is None
    deep, below, here = (tmp_path / folder / "lists" / "a.csv" for folder in ("x/y", "x", "."))
    for file, found in ((deep, None), (below, below), (here, here)):
        file.parent.mkdir(parents=True)
        file.touch()
        assert beneath(tmp_path, "lists/a.csv") == found


@pytest.mark.parametrize(("pattern", "changes"), [("*_S1Hand.tif", True), ("*_LabelHand.tif", True), ("*_S2*", False)])
def test_a_fingerprint_is_of_the_files_of_the_sensors_and_of_the_masks(
    pattern: str, changes: bool, tmp_path: Path
) -> None:
    layouts.sen1floods11(tmp_path)
    before = Sen1Floods11(tmp_path).fingerprint([MODALITIES["s1"]])
    assert Sen1Floods11(tmp_path).fingerprint([MODALITIES["s1"]]) == before
    os.utime(next(tmp_path.rglob(pattern)), ns=(1, 1))
    assert (Sen1Floods11(tmp_path).fingerprint([MODALITIES["s1"]]) != before) == changes


def test_a_fingerprint_is_of_the_settings() -> None:
    sensor = Modality("s2_after", ("B04",), 20.0, "reflectance x 10000", (0.0,), (1.0,))
    assert len({CaBuAr("absent", test=fold).fingerprint([sensor]) for fold in (0, 1, 0)}) == 2
