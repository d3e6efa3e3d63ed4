"""The benchmark of endurance counts what a run lost, and what it holds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import endurance

SMALL = ["--data.sets", "[{class_path: Synthetic, init_args: {train: 64, val: 8, test: 8, size: 16}}]"]
SMALL += ["--data.size", "16", "--data.batch_size", "4", "--trainer.precision", "32-true"]


@pytest.mark.parametrize(
    ("steps", "found"), [([0, 1, 2], (0, 0)), ([0, 2], (1, 0)), ([0, 1, 1, 2], (0, 1)), ([], (0, 0))]
)
def test_missing_and_doubled_steps_are_counted(steps: list[int], found: tuple[int, int]) -> None:
    assert endurance.faults(steps) == found


def test_the_log_holds_steps_beside_lines_of_other_figures(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n0,1.5,\n0,,2.5\n1,1.25,\n")
    assert endurance.logged(tmp_path / "metrics.csv") == [0, 1]


def test_memory_is_compared_between_the_second_third_and_the_last() -> None:
    rising = endurance.Stretch("SIGTERM", 75, 1.0, (900, 900, 900, 100, 110, 120, 200, 210, 220))
    assert rising.thirds == (110, 210)


def test_what_a_process_holds_grows_with_what_it_takes() -> None:
    before = endurance.held(os.getpid())
    taken = np.ones(100_000_000 // 8)
    assert endurance.held(os.getpid()) - before == pytest.approx(taken.nbytes / 2**20, rel=0.2)


@pytest.mark.slow
def test_a_run_that_is_pre_empted_goes_on_without_a_lost_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endurance.main(["--minutes", "1", "--every", "0.5", "--out", str(tmp_path), "--settings", *SMALL])
    printed = capsys.readouterr().out
    assert "| 1 | SIGUSR1 | 75 | " in printed
    assert "| 2 | SIGTERM | 75 | " in printed
    assert " steps in the log: 0 missing, 0 more than once." in printed
    assert len(endurance.logged(tmp_path / "runs/endurance/csv/metrics.csv")) > 20
