"""Tokens: patch vectors that never forget which sensor they come from.

Axes: B tiles, N tokens, n tokens taken, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import repeat
from torch import Tensor


class Tokens(NamedTuple):
    """A padded batch of tokens. An absent token is padding: nothing may depend on it.

    Attributes:
        values: (B, N, D) float.
        modality: (B, N) int64, an index into the encoder's modalities.
        place: (B, N, 2) float, (y, x) of the patch's centre in metres from the tile's centre.
        present: (B, N) bool.
    """

    values: Tensor
    modality: Tensor
    place: Tensor
    present: Tensor

    def take(self, index: Tensor) -> Tokens:
        """The tokens at `index` (B, n) of each tile, in that order."""
        return Tokens(
            take(self.values, index),
            self.modality.gather(1, index),
            take(self.place, index),
            self.present.gather(1, index),
        )

    def rows(self, index: Tensor) -> Tokens:
        """The tiles at `index`."""
        return Tokens(self.values[index], self.modality[index], self.place[index], self.present[index])

    def pooled(self) -> Tensor:
        """Mean over the tokens that are present: (B, D). A tile without tokens gives zeros."""
        weight = self.present.to(self.values.dtype)
        return torch.einsum("bnd,bn->bd", self.values, weight) / weight.sum(1, keepdim=True).clamp(min=1)

    def only(self, modality: int) -> Tokens:
        """The same tokens with those of every other modality absent."""
        return self._replace(present=self.present & (self.modality == modality))


def take(values: Tensor, index: Tensor) -> Tensor:
    """Picks rows (B, n, X) of `values` (B, N, X) by `index` (B, n)."""
    return values.gather(1, repeat(index, "b n -> b n x", x=values.shape[-1]))


def join(parts: Sequence[Tokens]) -> Tokens:
    """Concatenates tokens of the same tiles along N."""
    return Tokens(*(torch.cat(column, dim=1) for column in zip(*parts, strict=True)))


def position_code(place: Tensor, step: float, width: int) -> Tensor:
    """Sine-cosine code of places in metres: (..., 2) -> (..., width).

    The code of a Vision Transformer (arXiv 2010.11929, as in MAE), of place / step instead of the patch's number, so
    that it depends on the ground and not on the grid (ScaleMAE, arXiv 2212.14532).

    Args:
        place: (..., 2) in metres.
        step: metres per step.
        width: a multiple of 4.
    """
    exponent = torch.arange(width // 4, device=place.device, dtype=torch.float32) / (width // 4)
    angle = (place.float() / step)[..., None] / 10000**exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)
