"""Features of a scene: an encoder alone, pre-trained, pruned or fine-tuned, that looks at windows."""

from __future__ import annotations

from typing import final

from torch import Tensor

from mapex_lightning.checkpoint import Description
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.base import MapexModule, start
from mapex_lightning.train.optim import Optimiser


@final
class Embed(MapexModule):
    """The features of every patch, for ``Trainer.predict``.

    Args:
        encoder: any checkpoint; its head or decoder is left aside.
    """

    kind = "pretrain"
    monitor = "val/loss"
    mode = "min"

    def __init__(self, encoder: str) -> None:
        built, self.found = start(encoder, None)
        super().__init__(built, self.found.lineage, Optimiser())

    def describe(self) -> Description:
        """The encoder as it was given."""
        return self.found

    def predict_step(self, batch: Tiles, batch_idx: int) -> tuple[tuple[str, ...], Tensor]:
        """Names and features (B, D, h, w) of the windows of a batch, on the grid of the finest sensor's patches."""
        return batch.names, self.encoder.feature_map(batch).float()
