"""The benchmark of maps counts what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import maps
from mapex_lightning.tiles import IGNORED
from tests.workshop import SMALL, finetune


def test_the_truth_is_right_everywhere_and_changes_where_it_does() -> None:
    cover = np.zeros((128, 192), dtype=np.int64)
    cover[:, 64:] = 1
    cover[:, 130] = 2
    cover[100:] = IGNORED
    found = maps.quality(cover, cover)
    assert (found.right, found.border) == (1.0, 1.0)
    assert (found.at_windows, found.at_patches) == (0.5, 0.0)
    assert found.elsewhere == pytest.approx(2 / 168)


def test_borders_of_windows_are_their_two_outermost_pixels() -> None:
    cover = np.zeros((64, 64), dtype=np.int64)
    found = cover.copy()
    found[2:-2, 2:-2] = 1
    assert maps.quality(found, cover).border == 1.0
    assert maps.quality(found, cover).right == pytest.approx(1 - 60**2 / 64**2)


def test_the_command_prints_a_line_per_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(maps, "SIDE", 48)
    finetune("--model.encoder", "nano", config="segment.yaml", task="segmentation", run="segment")
    maps.main(["--places", "1", "2", "--overlaps", "0", "0.5", *SMALL])
    printed = capsys.readouterr().out
    for title in ("the truth", "overlap 0", "overlap 0.5"):
        assert f"| {title} | " in printed
