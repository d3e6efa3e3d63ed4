"""The benchmark of the Trainer takes the same steps with it and without."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.trainer import bare, main, model, through_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`:UserWarning",
    "ignore:The number of training batches:UserWarning",
)


def test_every_step_ends_once(tmp_path: Path) -> None:
    assert len(bare(3, time.perf_counter, tmp_path)) == 3
    assert len(through_trainer(3, 1, time.perf_counter, tmp_path)) == 3


def test_all_figures_of_every_step_are_logged(tmp_path: Path) -> None:
    through_trainer(2, 1, time.perf_counter, tmp_path)
    (log,) = tmp_path.rglob("metrics.csv")
    lines = log.read_text().splitlines()
    for figure in ("train/loss", "train/loss/dem", "train/mutual", "train/z"):
        assert figure in lines[0].split(",")
    assert {line.split(",")[lines[0].split(",").index("step")] for line in lines[1:]} >= {"0", "1"}


def test_the_model_has_a_mixture(tmp_path: Path) -> None:
    assert model(tmp_path).encoder.config.mixtures == (0,)


def test_the_command_prints_what_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--steps", "7", "--rounds", "1"])
    printed = capsys.readouterr().out
    for way in ("bare loop", "Trainer, logs nothing", "Trainer, logs every step"):
        assert f"| {way} | " in printed
