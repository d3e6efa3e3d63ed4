"""What pre-training, fine-tuning and pruning have in common: an encoder, its description and an optimiser."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from mapex_lightning.checkpoint import (
    ENCODER,
    KEY,
    Description,
    Kind,
    check_buildable,
    describe,
    grow,
    load_weights,
    read,
    weights,
)
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality, modalities
from mapex_lightning.model.config import PRESETS, EncoderConfig, preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.runs import find_checkpoint
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.optim import Optimiser, clip, configure
from mapex_lightning.train.sharded import FullySharded

Batch = Tiles | tuple[Tiles, Tensor]

OWN = ("encoder.patchify.embed", "encoder.patchify.norm", "decoder.heads")
"""Where each sensor has weights of its own, which nothing but its tiles gives a gradient."""


def tiles_of(batch: Batch) -> Tiles:
    """The tiles of a batch, with or without labels."""
    return batch if isinstance(batch, Tiles) else batch[0]


def logging_interval(trainer: Trainer) -> int:
    """Steps between two lines of a log; the Trainer has the attribute but does not declare it."""
    return int(vars(trainer)["log_every_n_steps"])


def ends_step(trainer: Trainer) -> bool:
    """Whether the batch at hand is the last of those that share an optimiser step."""
    batches = trainer.fit_loop.batch_idx + 1
    return batches % trainer.accumulate_grad_batches == 0 or batches == trainer.num_training_batches


def fold(*parts: int | str) -> int:
    """A seed made of parts: the same parts give the same seed on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


class MapexModule(LightningModule, ABC):
    """An encoder in training. Abstract: `Pretrain`, `FineTune` and `Prune` are final.

    Args:
        encoder: the encoder that is trained.
        lineage: what was done to it before.
        optimiser: see `mapex_lightning.train.optim.Optimiser`.
        seed: of all noise in training.
    """

    kind: ClassVar[Kind]
    passes: ClassVar[tuple[str, ...]] = ()
    """The methods, beside ``forward``, that are a pass through the weights; see `FullySharded`."""
    monitor: str
    """The figure by which the best checkpoint is chosen."""
    mode: str
    """Whether the best is the ``min`` or the ``max``."""
    noted: Mapping[str, float]
    """The latest figures of a training step that were logged."""
    skipped: Tensor | None
    """Whether the latest step was skipped, as `clip` returns it; None where a gradient scaler decides."""

    def __init__(self, encoder: Encoder, lineage: Sequence[str], optimiser: Optimiser, seed: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.lineage = tuple(lineage)
        self.optimiser = optimiser
        self.seed = seed
        self.noted = {}
        self.skipped = None
        self._observing = ExitStack()
        self.routing: dict[int, dict[str, Tensor]] = {}
        """Figures of specialisation per mixture block, of the last census of pre-training."""

    @abstractmethod
    def describe(self) -> Description:
        """What a checkpoint of this module says of itself."""

    def freeze_unseen(self, sensors: Sequence[str | Modality] | None) -> None:
        """Leaves the weights of sensors without data untrained: plain DDP wants a gradient for all that are trained.

        Args:
            sensors: those of the data; by default all of the encoder's.

        Raises:
            MapexError: the encoder does not read one of them.
        """
        known = self.encoder.config.names
        seen = [sensor if isinstance(sensor, str) else sensor.name for sensor in sensors or known]
        if missing := [name for name in seen if name not in known]:
            raise MapexError(
                f"The encoder does not read {', '.join(missing)}; it reads {', '.join(known)}. "
                "Set data.modalities to some of these, or prune with --keep so that it still does."
            )
        unseen = tuple(f"{place}.{name}." for place in OWN for name in known if name not in seen)
        for name, weight in self.named_parameters():
            if name.startswith(unseen):
                weight.requires_grad_(False)

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> Any:
        """Not offered: Lightning's way may fetch addresses and unpickle what it gets.

        Raises:
            MapexError: always.
        """
        raise MapexError(
            "Lightning's load_from_checkpoint is not safe; load with mapex_lightning.checkpoint.load(PATH)."
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the description."""
        checkpoint[KEY] = self.describe().plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the sealed sets over from a run that is resumed.

        Raises:
            MapexError: the checkpoint belongs to another encoder than the config describes.
        """
        found = describe(checkpoint)
        if found.encoder.allowed:
            self.encoder.seal(found.encoder.allowed)
        if found.encoder != self.encoder.config:
            raise MapexError("The checkpoint to resume holds another encoder than the config describes; use its own.")
        self.lineage = found.lineage[:-1]

    @property
    def fitting(self) -> bool:
        """Whether what happens is part of training; the check before it, that a validation works, is not."""
        return self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking

    @property
    def sharded(self) -> bool:
        """Whether the weights are shared out over the processes, which must then make the same passes."""
        return isinstance(self.trainer.strategy, FullySharded) and self.trainer.state.fn == TrainerFn.FITTING

    def configure_model(self) -> None:
        """Shares the weights out over the processes where the Trainer's strategy says so."""
        if isinstance(self.trainer.strategy, FullySharded) and self.sharded:
            self.trainer.strategy.shard(self, self.passes)

    def configure_optimizers(self) -> Any:
        """AdamW and a schedule per step.

        Raises:
            MapexError: the run has no last step.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise MapexError(
                "The learning rate falls until the last step, so a run needs one: set trainer.max_epochs or "
                "trainer.max_steps. With trainer.max_time it may end before."
            )
        # A scaler of float16's gradients has to look at them, and so they be clipped, before the optimiser does.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        optimiser, scheduler = configure(self, self.optimiser, self.encoder.config.depth, int(steps), fused=not scaled)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips, and skips steps whose gradients are not finite; with 16-mixed the gradient scaler does the latter."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            self.skipped = None
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            self.skipped = clip(optimizer, gradient_clip_val, by_value=gradient_clip_algorithm == "value")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Makes what layers draw by themselves, as stochastic depth does, a function of seed, step and rank, too."""
        torch.manual_seed(fold(self.seed, "layers", self.trainer.global_step, batch_idx, self.global_rank))

    def generator(self, *parts: int | str) -> torch.Generator:
        """Randomness that is a function of the seed and the parts, on the module's device."""
        return torch.Generator(self.device).manual_seed(fold(self.seed, *parts))

    def start_census(self) -> None:
        """Counts from now on; until `end_census` the census is the old one, in checkpoints too."""
        self._observing.enter_context(self.encoder.observe())

    def end_census(self) -> None:
        """Stops counting and adds the ranks' counts up."""
        self._observing.close()
        for mixture in self.encoder.mixtures.values():
            mixture.census.copy_(self.trainer.strategy.reduce(mixture.census, reduce_op="sum"))

    def note(self, figures: Mapping[str, Tensor]) -> None:
        """Gives figures of one training step to the loggers, at the Trainer's interval, and keeps them in `noted`.

        Not by ``self.log``, which keeps, averages and moves every figure by itself: half a millisecond each. Here all
        of them wait for the device once. Of the batches that share an optimiser step the last one's are taken.
        """
        step = self.trainer.global_step
        if (step + 1) % logging_interval(self.trainer) == 0 and ends_step(self.trainer):
            values = torch.stack([figure.detach().float() for figure in figures.values()]).tolist()
            self.noted = dict(zip(figures, values, strict=True))
            for logger in self.trainer.loggers:
                logger.log_metrics({**self.noted, "epoch": self.trainer.current_epoch}, step=step)


def start(
    encoder: str,
    sensors: Sequence[str | Modality | dict[str, Any]] | None,
    pretrained: bool = True,
    drop_path: float = 0.0,
    low_rank: int = 0,
    **shape: Any,
) -> tuple[Encoder, Description]:
    """The encoder to begin with: of a preset, with random weights, or out of a checkpoint.

    Args:
        encoder: a preset's name, or a checkpoint.
        sensors: the modalities of a preset; a checkpoint brings its own.
        pretrained: False draws new weights in the shape of the checkpoint, the control that pre-training must beat: of
            what was learned, its sealed sets are not taken over either.
        drop_path: see `Encoder`.
        low_rank: rank of the low-rank experts to begin with; a checkpoint that has some brings its own.
        shape: further arguments of `preset`.

    Returns:
        The encoder, and the description of where it comes from.

    Raises:
        MapexError: the name is neither, or a preset lacks modalities.
    """
    if encoder in PRESETS:
        if not sensors:
            raise MapexError(f"The preset {encoder} needs modalities, such as data.modalities: [s1, s2].")
        config = replace(preset(encoder, modalities(sensors), **shape), low_rank=low_rank)
        return Encoder(config, drop_path), Description("pretrain", config, ())
    if not encoder.endswith(".ckpt") and not Path(encoder).exists():
        raise MapexError(
            f"model.encoder must be a checkpoint (*.ckpt) or a preset ({', '.join(PRESETS)}); found {encoder!r}."
        )
    path = find_checkpoint(encoder)
    checkpoint = read(path)
    description = describe(checkpoint)
    fresh = low_rank > 0 and not description.encoder.low_rank
    config = replace(description.encoder, low_rank=low_rank) if fresh else description.encoder
    check_buildable(lambda: Encoder(description.encoder), weights(checkpoint, ENCODER), str(path))
    if not pretrained:
        # Which sensor uses whom was learned, too, but for a router whose sets are part of it.
        config = config if config.router == "grouped" else replace(config, allowed=())
        lineage = (f"new weights in the shape of a checkpoint: {shape_of(config)}",)
        return Encoder(config, drop_path), Description("pretrain", config, lineage)
    built = Encoder(config, drop_path)
    (grow if fresh else load_weights)(built, weights(checkpoint, ENCODER), str(path))
    return built, description


def shape_of(config: EncoderConfig) -> str:
    """An encoder in a few words, for lineages and progress."""
    mixtures = f", mixtures of {max(config.experts)}" if config.mixtures else ""
    return f"{config.width} wide, {config.depth} blocks{mixtures}, sensors {', '.join(config.names)}"
