"""Low-rank experts: small corrections of a block for the sensors at hand, trained on a frozen encoder.

Axes: B tiles, N tokens, D width, M modalities, J dynamic experts, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.tokens import Tokens

DYNAMIC = 4
"""Experts that the patterns of present sensors share, whatever the number of sensors: pruning leaves them all."""


class LowRank(nn.Module):
    """What a block adds for a token, given its sensor and which sensors its tile has.

    After MaMOL (arXiv 2511.11460), where missing sensors are a matter of routing between adapters: a static expert per
    sensor, and dynamic experts that are weighed by the pattern of present sensors. For a token h of sensor m in a tile
    with sensors p it is ``up_m down_m h + sum_j softmax(sum_{i in p} gate_i)_j up_j down_j h``. Every ``up`` starts at
    zero, so that fresh experts change nothing. Where MaMOL adapts single matrices, this runs beside the whole
    feed-forward: one place, whatever the feed-forward is made of.

    What belongs to a sensor has it as its first axis, so pruning is a slice, and an exact one: a sensor that is gone
    was in no pattern.

    Args:
        config: the encoder's description, of which `low_rank` is r.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        sensors, width, rank = len(config.modalities), config.width, config.low_rank
        self.sensor_down = nn.Parameter(_uniform(sensors, rank, width))
        self.sensor_up = nn.Parameter(torch.zeros(sensors, width, rank))
        self.gate = nn.Parameter(torch.randn(sensors, DYNAMIC))
        self.pattern_down = nn.Parameter(_uniform(DYNAMIC, rank, width))
        self.pattern_up = nn.Parameter(torch.zeros(DYNAMIC, width, rank))

    def forward(self, values: Tensor, tokens: Tokens) -> Tensor:
        """The correction (B, N, D) of values (B, N, D) of the same tokens; zeros for absent ones."""
        members = tokens.members(len(self.gate))
        share = (members.any(1).to(self.gate.dtype) @ self.gate).softmax(-1)
        # One product for all experts: each token's weight of each expert stands between down and up.
        weight = torch.cat([members.to(share.dtype), share[:, None] * tokens.present[..., None]], dim=-1)
        down, up = (
            torch.cat(pair) for pair in ((self.sensor_down, self.pattern_down), (self.sensor_up, self.pattern_up))
        )
        inner = torch.einsum("bnd,ird->bnir", values, down)
        return torch.einsum("bnir,idr->bnd", inner * weight[..., None].to(inner.dtype), up)


def _uniform(count: int, out: int, into: int) -> Tensor:
    return torch.empty(count, out, into).uniform_(-(into**-0.5), into**-0.5)
