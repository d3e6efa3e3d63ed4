"""What a task adds to an encoder: a classifier or a segmenter.

Axes: B tiles, D width, K classes, h and w the grid of patches, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.tokens import Pool
from mapex_lightning.tiles import Tiles


class Classifier(nn.Module):
    """Logits from one vector per tile, for one class per tile or for several.

    The features are standardised by a batch norm without parameters, as MAE does for linear probes.

    Args:
        width: D.
        classes: K.
        pool: how a tile's tokens become one vector; see `mapex_lightning.model.tokens.Pool`.
    """

    def __init__(self, width: int, classes: int, pool: Pool = "mean") -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, encoder: Encoder, tiles: Tiles) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.linear(self.norm(encoder.pooled(tiles, self.pool)))
        return logits


class Segmenter(nn.Module):
    """Logits per pixel from the feature map: a linear map to sub-patches, then a small convolution over the seams.

    Args:
        width: D.
        classes: K.
        patch: side of a patch in pixels of the finest sensor.
    """

    def __init__(self, width: int, classes: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.channels = max(32, width // 8)
        self.expand = nn.Conv2d(width, self.channels * patch**2, 1)
        self.smooth = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(self.channels, self.channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(self.channels, classes, 1),
        )

    def forward(self, encoder: Encoder, tiles: Tiles) -> Tensor:
        """Logits (B, K, H, W) on the grid of the finest sensor."""
        fine = rearrange(
            self.expand(encoder.feature_map(tiles)), "b (c p q) h w -> b c (h p) (w q)", p=self.patch, q=self.patch
        )
        logits: Tensor = self.smooth(fine)
        return logits


def head_of(config: EncoderConfig, described: Mapping[str, Any]) -> Classifier | Segmenter:
    """The head that fits an encoder and a task, with new weights.

    Args:
        config: the encoder.
        described: ``task``, ``classes`` and ``pool``, as a checkpoint describes its head.
    """
    classes = len(described["classes"])
    if described["task"] == "segmentation":
        return Segmenter(config.width, classes, config.patch)
    return Classifier(config.width, classes, described["pool"])


def probabilities(task: str, logits: Tensor) -> Tensor:
    """Logits to probabilities: per class for multilabel, over the classes otherwise."""
    return torch.sigmoid(logits) if task == "multilabel" else logits.softmax(1)
