"""Tokens: patch vectors that never forget which sensor they come from.

Axes: B tiles, N tokens, n tokens taken, D width, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F

Pool = Literal["mean", "redundancy"]
"""How the tokens of a tile become one vector: see `Tokens.pooled` and `Tokens.pooled_by_redundancy`."""


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
        return self._means(self.present[..., None])[:, 0]

    def members(self, modalities: int) -> Tensor:
        """Which modality each token counts for: (B, N, M) bool, False throughout for absent tokens."""
        index = torch.arange(modalities, device=self.modality.device)
        return (self.modality[..., None] == index) & self.present[..., None]

    def pooled_by_modality(self, modalities: int) -> Tensor:
        """Mean over the present tokens of each sensor: (B, M, D); zeros where a tile has none."""
        return self._means(self.members(modalities))

    def _means(self, members: Tensor) -> Tensor:
        """Means (B, M, D) over the tokens of each group (B, N, M), in float32 or wider: half precision overflows."""
        with torch.autocast(self.values.device.type, enabled=False):
            values = self.values.to(torch.promote_types(self.values.dtype, torch.float32))
            weight = members.to(values.dtype)
            return torch.einsum("bnd,bnm->bmd", values, weight) / weight.sum(1).clamp(min=1)[..., None]

    def pooled_by_redundancy(self, modalities: int) -> Tensor:
        """Mean over the sensors of a tile, where one that says what the others say counts less: (B, D) in float32.

        A sensor's weight is the softmax over the tile's sensors of minus its redundancy, the mean cosine between its
        own mean token and those of the others. It has no parameter. One sensor alone gives the mean of its tokens; two
        are always equally redundant and count the same.
        """
        each, here = self.pooled_by_modality(modalities), self.members(modalities).any(1)
        with torch.autocast(self.values.device.type, enabled=False):
            unit = F.normalize(each, dim=-1)
            alike = torch.einsum("bmd,bnd->bmn", unit, unit)
            others = here[:, None] & ~torch.eye(modalities, dtype=torch.bool, device=here.device)
            redundancy = (alike * others).sum(-1) / others.sum(-1).clamp(min=1)
            # Absent sensors get nothing; a tile without any sensor has zeros to weigh, whatever the weights.
            weight = (-redundancy).masked_fill(~here & here.any(1, keepdim=True), -torch.inf).softmax(-1)
            return torch.einsum("bm,bmd->bd", weight, each)

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
