"""What published sets share: files that are found where people unpack them, and radar in dB."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mapex_lightning.data.sets.published import beneath, decibels


def test_files_are_found_in_the_root_or_one_level_below_and_the_root_comes_first(tmp_path: Path) -> None:
    assert beneath(tmp_path / "absent", "lists/a.csv") is None
    deep, below, here = (tmp_path / folder / "lists" / "a.csv" for folder in ("x/y", "x", "."))
    for file, found in ((deep, None), (below, below), (here, here)):
        file.parent.mkdir(parents=True)
        file.touch()
        assert beneath(tmp_path, "lists/a.csv") == found


def test_decibels_of_what_is_no_power_are_nan() -> None:
    np.testing.assert_array_equal(decibels(np.array([100.0, 1.0, 0.1, 0.0, -1.0])), [20, 0, -10, np.nan, np.nan])
