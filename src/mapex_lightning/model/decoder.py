"""The decoder: from the encoder's visible tokens to the pixels of every modality. Pre-training drops it afterwards.

Axes: B tiles, N tokens asked for, n visible tokens, D encoder width, d decoder width, P numbers per patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from mapex_lightning.errors import MapexError
from mapex_lightning.model.block import attention_mask
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.target import target_size
from mapex_lightning.model.tokens import Tokens, position_code


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder.

    Args:
        width: d, a multiple of 4 and of `heads`.
        depth: blocks.
        heads: attention heads.

    Raises:
        MapexError: the width does not fit.
    """

    width: int
    depth: int
    heads: int

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.depth) < 1 or self.width % 4 or self.width % self.heads:
            raise MapexError(f"A decoder needs depth >= 1 and a width that 4 and heads={self.heads} divide.")


def decoder_for(encoder: EncoderConfig) -> DecoderConfig:
    """Half as wide as the encoder and two blocks deep: it decodes many more tokens than the encoder sees."""
    heads = max(1, encoder.width // 64)
    return DecoderConfig(width=encoder.width // 2 // (4 * heads) * 4 * heads, depth=2, heads=heads)


class CrossBlock(nn.Module):
    """Queries look at the visible tokens, then a feed-forward; queries do not see each other.

    The decoder of CrossMAE (arXiv 2401.14391), which needs no bookkeeping of masked positions: what is asked for is
    told by modality and place alone.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_query = nn.LayerNorm(config.width)
        self.norm_memory = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dense = Mlp(config.width, 4 * config.width)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (B, N, d), memory (B, n, d), mask as of `attention_mask`: (B, N, d)."""
        query = rearrange(self.query(self.norm_query(queries)), "b n (h d) -> b h n d", h=self.heads)
        key, value = rearrange(
            self.key_value(self.norm_memory(memory)), "b n (two h d) -> two b h n d", two=2, h=self.heads
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        queries = queries + self.out(rearrange(seen, "b h n d -> b n (h d)"))
        out: Tensor = queries + self.dense(self.norm(queries))
        return out


class Decoder(nn.Module):
    """Predicts the target of any patch of any modality from the visible tokens.

    Args:
        encoder: the description of the encoder whose tokens it reads.
        config: its own shape.
    """

    def __init__(self, encoder: EncoderConfig, config: DecoderConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.embed = nn.Linear(encoder.width, config.width)
        self.modality = nn.Parameter(0.02 * torch.randn(len(encoder.modalities), config.width))
        self.blocks = nn.ModuleList(CrossBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.heads = nn.ModuleDict(
            {m.name: nn.Linear(config.width, target_size(m, encoder.patch)) for m in encoder.modalities}
        )

    def forward(self, queries: Tokens, memory: Tokens, counts: Mapping[str, int]) -> dict[str, Tensor]:
        """Predicts every query.

        Args:
            queries: (B, N) tokens, those of each modality together; only modality and place are read.
            memory: (B, n) encoded visible tokens.
            counts: how many queries each modality has, in their order.

        Returns:
            Per modality of `counts` (B, its N, P).
        """
        asked = self._place(queries) + self.modality[queries.modality]
        seen = self.embed(memory.values) + self._place(memory) + self.modality[memory.modality]
        mask = attention_mask(memory.present)
        for block in self.blocks:
            asked = block(asked, seen, mask)
        asked = self.norm(asked)
        parts = asked.split(list(counts.values()), dim=1)
        return {name: self.heads[name](part) for name, part in zip(counts, parts, strict=True)}

    def _place(self, tokens: Tokens) -> Tensor:
        return position_code(tokens.place, self.encoder.step, self.config.width).to(tokens.values.dtype)
