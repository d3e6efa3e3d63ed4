"""A step whose loss or gradients are not finite is skipped by all ranks, and its tiles are named.

What happens on the device, in the order of a step, without the host waiting for it:

1. A loss that is not finite turns the gradients of its rank into NaN.
2. Gradients are added up over the ranks (DDP, FSDP2) and over batches that share a step. One NaN makes the sum NaN,
   which is how the ranks vote: one against is enough, and all of them find the same.
3. The optimiser skips a step whose gradients have a norm that is not finite: see `mapex_lightning.train.optim.clip`.
   Running statistics of batch norms go back to what they were.

The host learns of it in the next step, when the device has long been done.

With precision 16-mixed gradients overflow now and then, which is ordinary: the gradient scaler skips the step and
scales less. So the ranks vote on the loss itself there, in one small message per step.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed, nn

from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.precision import widest
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.base import MapexModule, tiles_of
from mapex_lightning.train.ranks import Later, every_rank, several

MOST = 3
"""So many steps in a row that are skipped end the run."""

STRANGE = 1000.0
"""A pixel that lies so many standard deviations from the mean of its band is a suspect."""

KEPT = 2**28
"""Bytes of pixels that are kept until the step they belong to has been looked at, those of its last batch at least."""

SHOWN = 8
"""Tiles of a batch that are named."""


class SkippedStepWarning(UserWarning):
    """A step was skipped, since its loss or gradients were not finite."""


class _Part(NamedTuple):
    """A batch of those that share a step.

    Attributes:
        tiles: it; without pixels where they would take much memory.
        bad: whether its loss was not finite on this rank.
    """

    tiles: Tiles
    bad: Later


class _Step(NamedTuple):
    """A step that the optimiser has taken or skipped.

    Attributes:
        number: as in the log.
        parts: its batches on this rank.
        skipped: whether it was skipped, on every rank.
    """

    number: int
    parts: list[_Part]
    skipped: Later


class SkipNonFinite(Callback):
    """Skips steps whose loss or gradients are not finite, says so, and ends the run after `MOST` in a row.

    A step that is skipped counts: the schedule and the order of tiles go on, weights and the optimiser's state are
    those of the step before. What was counted is part of checkpoints.

    Attributes:
        skipped: steps skipped in this run, the part before it was resumed included.
        row: for each of the latest of them that came one after another, a line about it.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self.row: list[str] = []
        self._norms: list[nn.Module] = []
        self._before: list[tuple[Tensor, Tensor]] = []
        self._tiles = Tiles({}, {})
        self._parts: list[_Part] = []
        self._vote: Tensor | None = None
        self._step: _Step | None = None

    def state_dict(self) -> dict[str, Any]:
        """What was counted, the latest step included."""
        self._settle()
        return {"skipped": self.skipped, "row": list(self.row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts on."""
        self.skipped, self.row = int(state_dict["skipped"]), [str(line) for line in state_dict["row"]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds what a batch changes besides the optimiser: running statistics."""
        assert isinstance(pl_module, MapexModule)
        self._trainer, self._module = trainer, pl_module
        self._steps = trainer.global_step
        self._norms = [part for part in pl_module.modules() if getattr(part, "running_mean", None) is not None]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the tiles for their names, and running statistics as they were before the step."""
        self._tiles = tiles_of(batch)
        if not self._parts:
            self._before = [(value, value.clone()) for norm in self._norms for value in norm.buffers()]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Turns gradients of a loss that is not finite into NaN, some of which might be finite otherwise."""
        self._settle()
        bad = ~loss.detach().isfinite()
        loss.register_hook(lambda gradient: gradient.masked_fill(bad, torch.nan))
        self._vote = bad.float() if self._vote is None else torch.maximum(self._vote, bad.float())
        self._parts.append(_Part(self._tiles, Later(bad)))
        taken = 0
        for number, part in reversed(list(enumerate(self._parts))):
            taken += sum(image.nbytes for image in part.tiles.images.values())
            if taken > KEPT and number < len(self._parts) - 1:
                self._parts[number] = part._replace(tiles=Tiles({}, {}, part.tiles.names))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes what the ranks have found, once the batches that share a step are through."""
        if self._vote is None or trainer.global_step == self._steps:
            return
        skipped, self._vote = self._vote if self._module.skipped is None else self._module.skipped, None
        if self._module.skipped is None and several():
            distributed.all_reduce(skipped, distributed.ReduceOp.MAX)
        for value, before in self._before:
            value.copy_(torch.where(skipped.bool(), before, value))
        self._steps = trainer.global_step
        self._step, self._parts = _Step(self._steps - 1, self._parts, Later(skipped)), []

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last step has no next one."""
        self._settle()

    def _settle(self) -> None:
        """Looks at what the latest step has come to."""
        if self._step is not None:
            step, self._step = self._step, None
            if step.skipped.read():
                self._skip(step)
            else:
                self.row.clear()

    def _skip(self, step: _Step) -> None:
        """All ranks come here for the same step, so they can tell each other which tiles it was."""
        self.skipped += 1
        self.row.append(f"step {step.number}: {_told(every_rank(self._found(step)))}")
        for logger in self._trainer.loggers:
            logger.log_metrics({"train/skipped": float(self.skipped)}, step=step.number)
        if len(self.row) >= MOST:
            raise MapexError(
                f"{MOST} steps in a row had a loss or gradients that are not finite; they changed nothing, and the "
                f"checkpoints are as they were. They are {'; '.join(self.row)}. Look at these tiles (mapex doctor "
                "looks at all) and leave damaged ones out. Where they are sound, lower model.optimiser.lr or "
                "trainer.gradient_clip_val, or train with trainer.precision bf16-mixed or 32-true instead of 16-mixed."
            )
        if self._trainer.is_global_zero:
            warnings.warn(
                f"A step was skipped and changed nothing, {self.skipped} so far; {MOST} in a row end the run: "
                f"{self.row[-1]}.",
                SkippedStepWarning,
                stacklevel=2,
            )

    def _found(self, step: _Step) -> _Found:
        """What this rank knows of a step that was skipped."""
        found = vars(self._trainer).get("datamodule")
        data = found if isinstance(found, TileData) else None
        sensors = self._module.encoder.config.modalities
        bad = [named(part.tiles, sensors, data) for part in step.parts if part.bad.read()]
        strange = [named(part.tiles, sensors, data) for part in step.parts if strangest(part.tiles, sensors)]
        return _Found(bad, strange, [named(step.parts[-1].tiles, sensors, data)])


class _Found(NamedTuple):
    """What a rank knows of a step that was skipped: of each of some batches, its tiles.

    Attributes:
        bad: those whose loss was not finite.
        strange: those with pixels that no sensor measures.
        latest: the last one.
    """

    bad: list[str]
    strange: list[str]
    latest: list[str]


def _told(ranks: Sequence[_Found]) -> str:
    """What all ranks have found, as far as it may be the cause."""

    def those(batches: Sequence[list[str]]) -> str:
        of = [f" on rank {rank}" if len(batches) > 1 else "" for rank in range(len(batches))]
        return "; and with ".join(tiles + of[rank] for rank, found in enumerate(batches) for tiles in found)

    if any(rank.bad for rank in ranks):
        return f"a loss that is not finite with {those([rank.bad for rank in ranks])}"
    strange = any(rank.strange for rank in ranks)
    tiles = those([rank.strange if strange else rank.latest for rank in ranks])
    return f"a finite loss whose gradients are not finite, with {tiles}"


def named(tiles: Tiles, modalities: Sequence[Modality], data: TileData | None) -> str:
    """The tiles of a batch by their names, and only those with pixels that no sensor measures where there are some.

    Args:
        tiles: the batch.
        modalities: what pixels are like.
        data: where the tiles come from; names their data set where that is known.
    """
    names = tiles.names or tuple(f"number {row}" for row in range(tiles.batch_size))
    strange = strangest(tiles, modalities)
    if strange:
        shown = [
            f"{names[row]} ({modality} has {value:.3g}, {far:.2g} standard deviations from its mean)"
            for row, (far, modality, value) in sorted(strange.items(), key=lambda item: -item[1][0])
        ]
    else:
        shown = list(names)
    chosen = sorted(strange) if strange else range(len(names))
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    of = _origin([names[row] for row in chosen][:SHOWN], data)
    return f"{'tile' if len(shown) == 1 else 'tiles'} {', '.join(shown[:SHOWN])}{more}{of}"


def strangest(tiles: Tiles, modalities: Sequence[Modality]) -> dict[int, tuple[float, str, float]]:
    """Of tiles with pixels far outside of what their sensor measures the farthest: how far, which sensor, its value."""
    found: dict[int, tuple[float, str, float]] = {}
    for modality in modalities:
        if modality.name not in tiles.images:
            continue
        image = tiles.images[modality.name]
        image = image.to(widest(image.device))
        mean, std = (image.new_tensor(values)[:, None, None] for values in (modality.mean, modality.std))
        far = ((image - mean) / std).abs().nan_to_num(0.0, 0.0, 0.0)
        far = far.masked_fill(~tiles.present[modality.name][:, None, None, None], 0.0).flatten(1)
        most, at = far.max(1)
        values = image.flatten(1).gather(1, at[:, None])[:, 0]
        for row in (most > STRANGE).nonzero()[:, 0].tolist():
            if row not in found or most[row] > found[row][0]:
                found[row] = float(most[row]), modality.name, float(values[row])
    return found


def _origin(names: Sequence[str], data: TileData | None) -> str:
    """The data sets that tiles come from; nothing where looking them up would take long."""
    parts = () if data is None else data.members("train").parts
    if len(parts) > 1:
        parts = tuple(part for part in parts if len(part[1]) <= 100_000 and any(name in part[1] for name in names))
    kinds = list(dict.fromkeys(type(source).__name__ for source, _ in parts))
    return f" of {' or '.join(kinds)}" if kinds else ""
