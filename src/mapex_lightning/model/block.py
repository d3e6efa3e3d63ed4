"""A transformer block: attention that all sensors share, then a dense feed-forward or a mixture.

Axes: B tiles, N tokens, D width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from timm.layers import Attention, DropPath, Mlp
from torch import Tensor, nn

from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.lowrank import LowRank
from mapex_lightning.model.mixture import Mixture
from mapex_lightning.model.router import Assignment
from mapex_lightning.model.tokens import Tokens


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection.

    Args:
        config: the encoder's description.
        index: which block this is.
        drop_path: probability of skipping a branch in training (stochastic depth).
    """

    def __init__(self, config: EncoderConfig, index: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, num_heads=config.heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(config.width)
        self.mixture = Mixture(config, index) if config.experts[index] else None
        self.dense = None if config.experts[index] else Mlp(config.width, config.hidden)
        self.low_rank = LowRank(config) if config.low_rank else None
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tokens, mask: Tensor | None) -> tuple[Tokens, Assignment | None]:
        """One block.

        Args:
            tokens: (B, N).
            mask: who may be attended to, as of `attention_mask`.

        Returns:
            The tokens after the block and, from a mixture, who was assigned where; its T is B x N, row by row.
        """
        values = tokens.values
        values = values + self.drop_path(self.attention(self.norm1(values), attn_mask=mask))
        normed = self.norm2(values)
        branch, assignment = self._feed_forward(normed, tokens)
        if self.low_rank is not None:
            branch = branch + self.low_rank(normed, tokens)
        return tokens._replace(values=values + self.drop_path(branch)), assignment

    def _feed_forward(self, values: Tensor, tokens: Tokens) -> tuple[Tensor, Assignment | None]:
        if self.mixture is None:
            assert self.dense is not None
            return self.dense(values), None
        flat, modality, present = (
            rearrange(x, "b n ... -> (b n) ...") for x in (values, tokens.modality, tokens.present)
        )
        mixed, assignment = self.mixture(flat, modality, present)
        return rearrange(mixed, "(b n) d -> b n d", b=values.shape[0]), assignment


def attention_mask(present: Tensor) -> Tensor | None:
    """Who may be attended to: (B, 1, 1, N) bool, or None where every token is known to be present.

    A tile without any token attends to its padding, because a softmax over nothing is NaN; the result is unused. Only
    a CPU is asked whether all are present: elsewhere the host would wait for the device, and an exported graph cannot
    ask.
    """
    if present.device.type == "cpu" and not torch.compiler.is_exporting() and bool(present.all()):
        return None
    return rearrange(present | ~present.any(1, keepdim=True), "b n -> b 1 1 n")
