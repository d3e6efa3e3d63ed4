"""When `last.ckpt` is written: after every epoch, every so many minutes, and when the run is told to stop.

All three leave a state from which a run goes on exactly, and that is at three places only: between two optimiser steps
of an epoch, before a validation, which then is run as a whole, and after an epoch.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed

from mapex_lightning.data.loader import EpochLoader
from mapex_lightning.errors import MapexError
from mapex_lightning.signals import told_to_stop
from mapex_lightning.train.callbacks import data_of
from mapex_lightning.train.log import lengths
from mapex_lightning.train.preemption import leave
from mapex_lightning.train.ranks import Later

GO_ON, SAVE, STOP = range(3)
"""What a process may want between two steps; the largest wish of all of them is done."""


class Sharing(NamedTuple):
    """How the tiles of an optimiser step are shared out.

    Args:
        world: number of processes.
        batch_size: tiles of one process at a time.
        accumulate: batches of a step.
    """

    world: int
    batch_size: int
    accumulate: int


class Last(Checkpoint):
    """Keeps the latest state of a run, so that it can go on from there as if nothing had been.

    Args:
        path: of the checkpoint, in the folder of the run.
        minutes: between two saves within an epoch.
        named: whether the command gives the run its name; see `mapex_lightning.train.preemption.leave`.

    Raises:
        MapexError: the minutes are less than 0.

    Attributes:
        amid: whether a time limit has ended the run within an epoch, whose state is kept.
    """

    def __init__(self, path: Path, minutes: float = 30.0, named: bool = True) -> None:
        if not minutes >= 0:  # NaN is none either
            raise MapexError(f"--save_minutes is a number of minutes, 0 to save after every step; found {minutes:g}.")
        self.path, self.minutes, self.named = path, minutes, named
        self.due = math.inf
        self._asked: Later | None = None
        self.before_validation = False
        self.amid = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keeps Lightning from handling signals itself, and from going on differently where steps are counted.

        Its handler of SIGTERM talks to other processes from within whatever was interrupted and ends the run without
        a checkpoint; every step it asks rank 0 whether that has come, for which the vote of all ranks stands in here.
        With ``max_steps`` it would end an epoch that is over once more when a run goes on.
        """
        trainer._signal_connector.__dict__["register_signal_handlers"] = _nothing
        trainer.fit_loop.epoch_loop.__dict__["_broadcast_sigterm_tensor"] = _nothing
        trainer.fit_loop.__dict__["_iteration_based_training"] = _never

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was told to stop before its first step has nothing to keep."""
        self._wait()
        if self._vote(trainer) == STOP:
            self._leave(trainer, "stopped before the first step")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: not while gradients are gathered, and not where the epoch or a validation follows.

        A time limit (Lightning's Timer) has to wait for such a place, too: after it Lightning passes over the rest of
        the epoch, which the run that goes on must not.
        """
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        self.amid = False
        over = trainer.should_stop and loop._can_stop_early  # min_epochs and min_steps come first
        if over:
            trainer.should_stop = trainer.is_last_batch
        if (
            (batch_idx + 1) % trainer.accumulate_grad_batches
            or trainer.is_last_batch
            or trainer.global_step == trainer.max_steps
            or loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        ):
            return
        if over:
            self.amid = trainer.should_stop = True
            self._save(trainer)
        if trainer.world_size == 1:
            self._obey(trainer, self._wish())
            return
        asked, self._asked = self._asked, None
        self._obey(trainer, int(asked.read()) if asked else GO_ON)
        self._asked = self._ask(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before a validation."""
        begun = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
        if begun.ready != begun.completed:  # from a checkpoint that was written here
            begun.reset()
        self._obey(trainer, self._vote(trainer))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation may be long: what is kept is the state before it."""
        loader, limit = trainer.val_dataloaders, trainer.limit_val_batches
        assert isinstance(loader, EpochLoader)
        if batch_idx < int(loader.common * (limit if isinstance(limit, float) else 1.0)):
            self._obey(trainer, self._vote(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After an epoch, and after the best model was kept: checkpoints are the last to be called, in their order."""
        if not self.amid:
            self._save(trainer)
        if self._vote(trainer) == STOP and not trainer.fit_loop.done:
            self._leave(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes where the log is and how tiles are shared out.

        Before a validation, lets Lightning think that the first batch of it had begun: it then begins again.
        """
        for logger in trainer.loggers:
            logger.save()
        sharing = Sharing(trainer.world_size, data_of(trainer).batch_size, trainer.accumulate_grad_batches)
        noted = {"log": lengths(self.path.parent), "sharing": sharing._asdict()}
        checkpoint["callbacks"][self.state_key] = noted
        if self.before_validation:
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = {"total": dict(begun), "current": dict(begun), "is_last_batch": False}
            checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = progress

    def _obey(self, trainer: pl.Trainer, wish: int) -> None:
        """Does what the processes want."""
        if wish == STOP and trainer.sanity_checking:
            self._leave(trainer, "stopped before the first step")
        if wish == GO_ON or trainer.sanity_checking:
            return
        self.before_validation = trainer.validating
        try:
            if not self.before_validation or not self.amid:
                self._save(trainer)
        finally:
            self.before_validation = False
        if wish == STOP:
            self._leave(trainer)

    def _wish(self) -> int:
        """What this process wants."""
        return STOP if told_to_stop() else SAVE if time.monotonic() >= self.due else GO_ON

    def _vote(self, trainer: pl.Trainer) -> int:
        """What all want; they wait for each other."""
        self._asked = None
        return self._wish() if trainer.world_size == 1 else int(self._ask(trainer).read())

    def _ask(self, trainer: pl.Trainer) -> Later:
        """Asks all what they want. Between two steps nobody waits for the answer, which is read after the next one.

        The device has only just been given the step, and the host would wait for all of it. That is also why the number
        is made there: to copy it would wait, too, and so does a strategy's own ``reduce``.
        """
        wish = torch.full((), float(self._wish()), device=trainer.strategy.root_device)
        distributed.all_reduce(wish, distributed.ReduceOp.MAX)
        return Later(wish)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._wait()

    def _wait(self) -> None:
        self.due = time.monotonic() + 60 * self.minutes

    def _leave(self, trainer: pl.Trainer, kept: str = "") -> None:
        kept = kept or f"stopped after step {trainer.global_step}, whose state is in {self.path}"
        leave(trainer, kept, self.path.parent.name, self.named)


def _nothing() -> None: ...


def _never() -> bool:
    return False
