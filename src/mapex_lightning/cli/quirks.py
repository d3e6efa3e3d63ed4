"""What Lightning and jsonargparse would say or read otherwise than a user of mapex expects."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import get_args

import lightning.pytorch as pl

NO_NEWS = (
    ".*does not have many workers.*",  # reading in the training process is faster for packed and synthetic tiles
    ".*`srun` command is available.*",
    ".*GPU available but not used.*",
    "Checkpoint directory .* exists and is not empty.*",  # the settings are written there first
    "The dirpath has changed.*",  # a resumed run has a folder of its own
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # what is logged has been added up over the ranks before
    ".*isinstance.treespec, LeafSpec.* is deprecated.*",  # inside Lightning 2.6
    ".*could not find the monitored key in the returned metrics.*",  # a run without any validation has no best
    "Be aware that when using `ckpt_path`, callbacks.*",  # they may differ in a run that goes on
    "Detected call of `lr_scheduler.step.* before `optimizer.step.*",  # the scaler of 16-mixed skips first steps
)
"""Warnings that are left out."""

PACKAGE = Path(__file__).parents[1]
"""Where our own code lies."""


def whole_numbers_first() -> None:
    """Makes the Trainer's options that take a number or a share read 1 as the number.

    Python keeps one of ``Union[int, float]`` and ``Union[float, int]``, whichever a program makes first. scikit-learn
    makes the latter; with it imported, ``--trainer.limit_train_batches 1`` would be 1.0, which is all batches.
    """
    hints = vars(pl.Trainer)["__init__"].__annotations__
    for name, hint in hints.items():
        types = get_args(hint)
        if {int, float} <= set(types) <= {int, float, type(None)}:
            hints[name] = int | float | None if type(None) in types else int | float


_usual = warnings.formatwarning


def _plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of ours as a sentence, without the place in the code that others are shown with."""
    if Path(filename).is_relative_to(PACKAGE):
        return f"mapex: {message}\n"
    return _usual(message, category, filename, lineno, line)


def quiet() -> None:
    """Leaves out what is no news to users: hints of Lightning, what it has to mend itself, and where warnings arise."""
    warnings.formatwarning = _plain
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in NO_NEWS:
        warnings.filterwarnings("ignore", pattern)
