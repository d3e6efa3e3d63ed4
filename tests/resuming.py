"""What an interrupted run is compared by with one that was not: its log, its checkpoints and its last weights."""

from __future__ import annotations

import csv
import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import read
from mapex_lightning.train.base import MapexModule
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.pretrain import Pretrain
from tests.workshop import SMALL, TILES

TIMES = ("train/tiles_per_second", "train/waiting")
"""Figures of a log that no two runs share."""

PRETRAIN = ["--config", "pretrain.yaml", "--data.sets", TILES, *SMALL, "--trainer.max_epochs", "2"]
FINETUNE = ["--config", "synthetic.yaml", "--data.sets", TILES.replace("0.2", "0.2, task: multiclass"), *SMALL]
FINETUNE += ["--trainer.max_epochs", "2", "--model.encoder", "nano", "--model.drop_sensors", "0.5"]
FINETUNE += ["--model.drop_path", "0.3"]


def losses(run: Path) -> list[tuple[str, str]]:
    """Step and loss of every line of the metrics that has a loss of training, as it is written."""
    return [(row["step"], row["train/loss"]) for row in _rows(run) if "train/loss" in row]


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "csv/metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if v and k not in TIMES} for row in csv.DictReader(file)]


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "images": 1})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name not in TIMES]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def assert_equal(run: Path, whole: Path) -> None:
    """Two runs took the same steps to the bit, and their logs tell the same."""
    assert losses(run) == losses(whole)
    assert _rows(run) == _rows(whole)
    assert _curves(run) == _curves(whole)
    routing = [folder / "routing.csv" for folder in (run, whole)]
    assert routing[0].exists() == routing[1].exists()
    assert not routing[0].exists() or routing[0].read_text() == routing[1].read_text()
    assert (run / "best.ckpt").exists() == (whole / "best.ckpt").exists()  # there is none without a validation
    for name in ("last.ckpt", "best.ckpt")[: 1 + (whole / "best.ckpt").exists()]:
        mine, other = read(run / name), read(whole / name)
        assert mine["global_step"] == other["global_step"]
        assert _differing(mine["state_dict"], other["state_dict"]) == []
        assert _differing(_moments(mine), _moments(other)) == []


def _moments(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    (state,) = (optimiser["state"] for optimiser in checkpoint["optimizer_states"])
    return {f"{weight}.{name}": value for weight, values in state.items() for name, value in values.items()}


def _differing(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert mine.keys() == other.keys()
    return [name for name in mine if not torch.equal(mine[name], other[name])]


class Moment(NamedTuple):
    """When a run is interrupted.

    Args:
        hook: of the module, which is about to be called.
        stage: of the Trainer.
        step: how many steps have been taken.
        call: how many times the hook has been called since then.
    """

    hook: str
    stage: str
    step: int
    call: int = 0


HOOKS = ("training_step", "validation_step", "on_validation_epoch_end", "on_train_epoch_end", "on_fit_start")


@contextmanager
def moments(
    monkeypatch: pytest.MonkeyPatch, at: Moment | None = None, number: int = signal.SIGTERM
) -> Iterator[list[Moment]]:
    """While this is open, writes down when hooks of a module are called, and sends a signal at one of these moments."""
    came: list[Moment] = []

    def telling(usual: Any, hook: str) -> Any:
        def called(self: MapexModule, *args: Any) -> Any:
            stage = self.trainer.state.stage
            here = Moment(hook, stage.value if stage else "", self.trainer.global_step)
            here = here._replace(call=sum(one._replace(call=0) == here for one in came))
            came.append(here)
            if here == at:
                signal.raise_signal(number)
            return usual(self, *args)

        return called

    with monkeypatch.context() as patch:
        for kind, hook in itertools.product((Pretrain, FineTune), HOOKS):
            patch.setattr(kind, hook, telling(getattr(kind, hook), hook))
        yield came
    assert at is None or at in came


def fit(*words: str) -> int:
    """The exit code of ``mapex fit``."""
    return main(["fit", *words])
