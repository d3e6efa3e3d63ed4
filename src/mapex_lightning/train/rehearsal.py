"""One training step on a few tiles, to see whether a model and its data go together and what memory they take."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mapex_lightning.data.module import BadTileWarning, TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.train.base import MapexModule, tiles_of

TILES = 8
"""Tiles of the step; memory grows with them, so a few tell what many will take."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes at its worst moment, as an estimate.

    What operations need for a moment is left out, and what is freed during the backward pass before all gradients are
    there is counted. So the true peak is 0.7 to 1.25 times the estimate, by `tests/train/test_rehearsal.py`.

    Args:
        parameters: weights and other stored numbers of the model.
        gradients: of the weights that are trained.
        optimiser: its state.
        per_tile: what is kept of a tile until the backward pass, its pixels among it.
    """

    parameters: int
    gradients: int
    optimiser: int
    per_tile: int

    def of(self, tiles: int) -> int:
        """Bytes with batches of so many tiles."""
        return self.parameters + self.gradients + self.optimiser + self.per_tile * tiles

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
    """Notes loss and gradients of a step, and counts what is kept for its backward pass."""

    def __init__(self) -> None:
        self.loss = self.gradient = float("nan")
        self.tiles = self.kept = self.optimiser = 0
        self._hooks = ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        tiles = tiles_of(batch)
        self.tiles = tiles.batch_size
        self.kept = sum(image.numel() * image.element_size() for image in tiles.images.values())
        seen = {weight.untyped_storage().data_ptr() for weight in pl_module.parameters()}
        seen |= {image.untyped_storage().data_ptr() for image in tiles.images.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                self.kept += storage.nbytes()
            return tensor

        self._hooks.enter_context(saved_tensors_hooks(keep, lambda tensor: tensor))

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
    weights = list(model.parameters())
    stored = [*weights, *model.buffers()]
    memory = Memory(
        parameters=sum(value.numel() * value.element_size() for value in stored),
        gradients=sum(value.numel() * value.element_size() for value in weights if value.requires_grad),
        optimiser=observer.optimiser,
        per_tile=-(-observer.kept // observer.tiles),
    )
    return Rehearsal(observer.tiles, observer.loss, observer.gradient, memory, trainer.strategy.root_device)
