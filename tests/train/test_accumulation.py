"""Gradients of several batches make one step: the same step as one large batch where the loss is a plain mean."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from mapex_lightning.train.callbacks import Throughput
from mapex_lightning.train.optim import Optimiser, schedule
from tests.ranks_at_work import train


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of `accumulated` is logged."""
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def accumulated(logs: Path) -> dict[str, Any]:
    """Two epochs of segmentation, two batches of four tiles to a step."""
    logger = CSVLogger(logs, name="", version="")
    rest: dict[str, Any] = {"logger": logger, "log_every_n_steps": 1, "further": [Throughput()]}
    return train("ddp", 1, 4, task="segmentation", accumulate_grad_batches=2, **rest)


def test_two_batches_of_four_make_the_steps_of_one_of_eight(accumulated: dict[str, Any]) -> None:
    # Lightning hands out each as its share of the step.
    whole, losses = train("ddp", 1, 8, task="segmentation"), accumulated["losses"]
    means = [one + other for one, other in zip(losses[::2], losses[1::2], strict=True)]
    assert means == pytest.approx(whole["losses"], rel=1e-5)
    assert accumulated["steps"] == whole["steps"] == 4
    assert accumulated["val"] == pytest.approx(whole["val"], rel=1e-5)


def test_the_schedule_counts_optimiser_steps(accumulated: dict[str, Any]) -> None:
    # The rate is noted after a batch: every second batch makes a step, after which the next rate holds.
    factors = [schedule(step, 4, Optimiser().warmup) for step in (0, 1, 1, 2, 2, 3, 3, 4)]
    first = accumulated["rates"][0]
    assert accumulated["rates"] == pytest.approx([first * factor / factors[0] for factor in factors], abs=1e-12)


def test_logs_count_optimiser_steps(accumulated: dict[str, Any], logs: Path) -> None:
    with (logs / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(accumulated["steps"]))
    last = [float(row["train/loss"]) / 2 for row in rows if row["train/loss"]]
    assert last == pytest.approx(accumulated["losses"][1::2], rel=1e-5)  # of the batches of a step the last one's
    assert len([row for row in rows if row["train/tiles_per_second"]]) == accumulated["steps"]


def test_throughput_is_logged_once_in_as_many_optimiser_steps_as_are_asked_for(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    rest: dict[str, Any] = {"logger": logger, "log_every_n_steps": 2, "further": [Throughput()]}
    train("ddp", 1, 2, task="segmentation", epochs=1, accumulate_grad_batches=2, **rest)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/tiles_per_second"]]
    assert [int(row["step"]) for row in rows] == [2, 4]
