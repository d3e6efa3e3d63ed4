"""One training step on a few tiles, to see whether a model and its data go together and what memory they take."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mapex_lightning.data.cuts import BadTileWarning
from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.base import MapexModule, tiles_of

TILES = 8
"""Tiles of the step; memory grows with them, so a few tell what many will take."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes at its worst moment, as an estimate.

    What operations need for a moment is left out, and what is freed during the backward pass before all gradients are
    there is counted. `tests/train/test_rehearsal.py` measures true peaks, which are within a factor of 1.5 of it. With
    bf16-mixed it errs to the safe side, by up to a half: casts of the experts look as if tiles had made them.

    Args:
        parameters: weights and other stored numbers of the model.
        gradients: of the weights that are trained.
        optimiser: its state.
        per_tile: what is kept of a tile until the backward pass, its pixels among it.
        fixed: what is kept until the backward pass however many tiles there are, such as weights of experts in a row.
    """

    parameters: int
    gradients: int
    optimiser: int
    per_tile: int
    fixed: int = 0

    def of(self, tiles: int) -> int:
        """Bytes with batches of so many tiles."""
        return self.parameters + self.gradients + self.optimiser + self.fixed + self.per_tile * tiles

    def most_tiles(self, limit: int) -> int:
        """The largest batch that stays within so many bytes; 0 where none does."""
        return max(0, (limit - self.of(0)) // self.per_tile)


@dataclass(frozen=True)
class Rehearsal:
    """What a training step has shown.

    Args:
        tiles: in the batch of the step.
        loss: before the step.
        gradient: the norm of all gradients.
        memory: an estimate.
        device: where it ran.
    """

    tiles: int
    loss: float
    gradient: float
    memory: Memory
    device: torch.device

    @property
    def finite(self) -> bool:
        """Whether loss and gradients are numbers."""
        return isfinite(self.loss) and isfinite(self.gradient)


class _Observer(Callback):
    """Notes loss and gradients of a step, and counts what is kept for its backward pass, and for that of half of it."""

    def __init__(self) -> None:
        self.loss = self.gradient = float("nan")
        self.tiles = self.optimiser = 0
        self.kept: list[tuple[int, _Count]] = []
        """Tiles, and the bytes that were kept of them."""
        self._hooks = ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        tiles = tiles_of(batch)
        self.tiles, half = tiles.batch_size, tiles.batch_size // 2
        if half > 1:
            part = tiles.rows(torch.arange(half, device=pl_module.device))
            with trainer.precision_plugin.train_step_context(), _counted(pl_module, part) as count:
                pl_module.training_step(part if batch is tiles else (part, batch[1][:half]), index)
            self.kept.append((half, count))
        self.kept.append((self.tiles, self._hooks.enter_context(_counted(pl_module, tiles))))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._hooks.close()
        self.loss = float(loss.detach())

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        norms = [weight.grad.norm() for weight in pl_module.parameters() if weight.grad is not None]
        self.gradient = float(torch.stack(norms).norm()) if norms else 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        states = (state for optimiser in trainer.optimizers for state in optimiser.state.values())
        self.optimiser = sum(
            value.numel() * value.element_size()
            for state in states
            for value in state.values()
            if torch.is_tensor(value)
        )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._hooks.close()


class _Count:
    """Bytes that are kept for a backward pass, each storage once."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def _counted(module: pl.LightningModule, tiles: Tiles) -> Iterator[_Count]:
    """Counts what is kept of a forward pass beside the weights; the pixels themselves are counted from the start."""
    count = _Count()
    seen = {value.untyped_storage().data_ptr() for value in (*module.parameters(), *tiles.images.values())}
    count.bytes = sum(image.nbytes for image in tiles.images.values())

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            count.bytes += storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield count


def before(model: MapexModule) -> Memory:
    """What training takes before there is any tile: known without a step, with the two moments of Adam."""
    weights = list(model.parameters())
    gradients = sum(value.nbytes for value in weights if value.requires_grad)
    stored = sum(value.nbytes for value in (*weights, *model.buffers()))
    return Memory(parameters=stored, gradients=gradients, optimiser=2 * gradients, per_tile=0)


def rehearse(model: MapexModule, data: TileData, **settings: Any) -> Rehearsal:
    """Takes one training step with a few tiles of the training split. The weights of the model change; nothing is kept.

    Args:
        model: the model.
        data: the tiles.
        settings: of the Trainer: accelerator and precision.

    Raises:
        MapexError: model and tiles do not go together, or no step could be taken; the sentence says why.
    """
    observer, size, workers = _Observer(), data.batch_size, data.workers
    data.batch_size, data.workers = min(size, TILES), 0
    try:
        trainer = pl.Trainer(
            **settings,
            devices=1,
            max_steps=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            callbacks=[observer],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BadTileWarning)  # whether tiles can be read is asked elsewhere
            trainer.fit(model, datamodule=data)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, MisconfigurationException) as error:
        line = str(error).strip().splitlines()
        raise MapexError(f"A training step fails: {type(error).__name__}: {line[0] if line else ''}") from error
    finally:
        data.batch_size, data.workers = size, workers
    if not observer.tiles:
        raise MapexError("No training step could be taken: there is no whole batch of training tiles.")
    (few, little), (many, much) = observer.kept[0], observer.kept[-1]
    per_tile = max(1, (much.bytes - little.bytes) // (many - few) if many > few else much.bytes // many)
    memory = replace(
        before(model),
        optimiser=observer.optimiser,
        per_tile=per_tile,
        fixed=max(0, much.bytes - per_tile * many),
    )
    return Rehearsal(observer.tiles, observer.loss, observer.gradient, memory, trainer.strategy.root_device)
