"""The tile pass of pruning: one look at real tiles that refreshes the census."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from torch import Tensor

from mapex_lightning.checkpoint import ENCODER, KEY, Description, read
from mapex_lightning.pruning import Policy, Report, prune
from mapex_lightning.runs import find_checkpoint
from mapex_lightning.train.base import Batch, MapexModule, start, tiles_of
from mapex_lightning.train.optim import Optimiser


@final
class Prune(MapexModule):
    """Counts which experts the tiles of a data set use, on every rank, and prunes by that.

    Run with ``Trainer.validate``; then `pruned` holds the result on every rank.

    Args:
        encoder: the checkpoint to prune.
        keep: names of modalities.
        policy: which experts stay; by default `Policy.standard`.
    """

    kind = "prune"
    monitor = "val/loss"
    mode = "min"

    def __init__(self, encoder: str, keep: Sequence[str], policy: Policy | None = None) -> None:
        built, self.found = start(encoder, None)
        super().__init__(built, self.found.lineage, Optimiser())
        self.path, self.keep, self.policy = encoder, tuple(keep), policy
        self.pruned: tuple[dict[str, Any], Report] | None = None

    def describe(self) -> Description:
        """The encoder as it was given."""
        return self.found

    def on_validation_epoch_start(self) -> None:
        """Begins a census."""
        self.start_census()

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One unmasked pass."""
        return self.encoder.pooled(tiles_of(batch))

    def on_validation_epoch_end(self) -> None:
        """Adds the ranks up and prunes."""
        self.end_census()
        checkpoint = read(find_checkpoint(self.path))
        for block, mixture in self.encoder.mixtures.items():
            checkpoint["state_dict"][f"{ENCODER}blocks.{block}.mixture.census"] = mixture.census.cpu()
        checkpoint[KEY]["lineage"].append("census refreshed on tiles")
        self.pruned = prune(checkpoint, self.keep, self.policy)
