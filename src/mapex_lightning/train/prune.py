"""The tile pass of pruning: one look at real tiles that refreshes the census."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch

from mapex_lightning.checkpoint import ENCODER, KEY, Description, read
from mapex_lightning.pruning import Policy, Report, prune
from mapex_lightning.runs import find_checkpoint
from mapex_lightning.train.base import Batch, MapexModule, start, tiles_of
from mapex_lightning.train.optim import Optimiser


@final
class Prune(MapexModule):
    """Counts which experts the tiles of a data set use, on every rank, and prunes by that.

    The tiles show the kept sensors alone, as the pruned model will see them: attention to others would change which
    experts their tokens choose. What the checkpoint has counted of the others stays as it was.

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

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """One unmasked pass."""
        tiles = tiles_of(batch).only(self.keep)
        if tiles.images:
            self.encoder(tiles)

    def on_validation_epoch_end(self) -> None:
        """Adds the ranks up and prunes."""
        self.end_census()
        checkpoint = read(find_checkpoint(self.path))
        state, names = checkpoint["state_dict"], self.encoder.config.names
        kept = torch.tensor([names.index(name) for name in names if name in self.keep], dtype=torch.int64)
        for block, mixture in self.encoder.mixtures.items():
            name = f"{ENCODER}blocks.{block}.mixture.census"
            state[name] = state[name].index_copy(1, kept, mixture.census.to(state[name])[:, kept])
        checkpoint[KEY]["lineage"].append("census refreshed on tiles")
        self.pruned = prune(checkpoint, self.keep, self.policy)
