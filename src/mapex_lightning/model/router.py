"""The router: which experts a token uses, told by its content and by its sensor.

Axes: T tokens, D width, M modalities, R rows of the router, E experts, K experts per token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from mapex_lightning.model.config import EncoderConfig, RouterMode


class Assignment(NamedTuple):
    """Which experts each token uses.

    A forward hook on a `Router` may return another one: that is how an analysis sends tokens elsewhere.

    Attributes:
        expert: (T, K) int64.
        weight: (T, K) float32, the gates; zeros for an absent token.
        logits: (T, E) float32, minus infinity for experts that are not allowed.
        modality: (T,) int64.
        present: (T,) bool, False for padding: it has an assignment only so that no shape depends on the data.
    """

    expert: Tensor
    weight: Tensor
    logits: Tensor
    modality: Tensor
    present: Tensor

    def members(self, modalities: int) -> Tensor:
        """Which modality each token counts for: (M, T) float32, zeros for absent tokens."""
        index = torch.arange(modalities, device=self.modality.device)
        return ((self.modality == index[:, None]) & self.present).float()


class Router(nn.Module):
    """Chooses experts for tokens, knowing the sensor of each.

    The modes, where h is a token and m its modality:

    * ``conditioned``: logit = W [h ; r_m] + b with a learned router vector r_m (M3ViT's task embedding).
    * ``free``: logit = W_m h + b_m, a router of its own for every modality (M3ViT's multi-gate).
    * ``grouped``: as conditioned, inside a fixed set of experts per modality (VLMo, RingMoE).
    * ``blind``: logit = W h + b; the ablation.

    The gate is the sigmoid of the chosen logit for K = 1 and the softmax over the chosen logits for K > 1: it depends
    on chosen experts alone, which is what makes pruning exact.

    Each row of W leads to an expert of its own, unless `EncoderConfig.routes` says otherwise: after pruning with merged
    experts, rows of experts that are gone lead to those that took them in, and an expert's logit is that of its best
    row.

    Args:
        config: the encoder's description.
        block: which block this is.
    """

    allowed: Tensor
    routes: Tensor

    def __init__(self, config: EncoderConfig, block: int) -> None:
        super().__init__()
        self.mode: RouterMode = config.router
        routes, modalities = config.routes_of(block), len(config.modalities)
        self.experts = config.experts[block]
        self.top_k = min(config.top_k, self.experts)
        self.single = config.top_k == 1
        """Which gate: of the description, so that a block pruned to one expert keeps the gate it was trained with."""
        copies, rows = modalities if self.mode == "free" else 1, len(routes)
        bound = (config.width + config.router_dim) ** -0.5
        self.weight = nn.Parameter(torch.empty(copies, rows, config.width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(copies, rows))
        if self.mode in ("conditioned", "grouped"):
            self.vectors = nn.Parameter(torch.randn(modalities, config.router_dim))
            self.vector_weight = nn.Parameter(torch.empty(rows, config.router_dim).uniform_(-bound, bound))
        self.merged = routes != tuple(range(self.experts))
        self.register_buffer("routes", torch.tensor(routes), persistent=False)
        self.register_buffer("allowed", torch.ones(modalities, rows, dtype=torch.bool), persistent=False)
        if config.allowed:
            self.restrict(config.allowed[block])

    def restrict(self, allowed: tuple[tuple[int, ...], ...]) -> None:
        """Keeps every modality's routing inside the given rows, from now on."""
        self.allowed.fill_(False)
        for modality, rows in enumerate(allowed):
            self.allowed[modality, list(rows)] = True

    def logits(self, tokens: Tensor, modality: Tensor) -> Tensor:
        """Logits (T, R) of tokens (T, D), in float32 or wider whatever the autocast."""
        with torch.autocast(tokens.device.type, enabled=False):
            wide = tokens.to(self.weight.dtype)
            every = F.linear(wide, rearrange(self.weight, "m r d -> (m r) d"), self.bias.flatten())
            if self.mode == "free":
                own = repeat(modality, "t -> t 1 r", r=len(self.routes))
                return rearrange(every, "t (m r) -> t m r", m=len(self.weight)).gather(1, own)[:, 0]
            if self.mode == "blind":
                return every
            return every + F.embedding(modality, F.linear(self.vectors, self.vector_weight))

    def ranked(self, tokens: Tensor, modality: Tensor) -> Tensor:
        """Logits (T, E) of every expert, whether or not a token's modality may use it."""
        return self._by_expert(self.logits(tokens, modality))

    def gate(self, chosen: Tensor) -> Tensor:
        """Gates (T, K) of chosen logits (T, K)."""
        return chosen.sigmoid() if self.single else chosen.softmax(dim=-1)

    def forward(self, tokens: Tensor, modality: Tensor, present: Tensor) -> Assignment:
        """Assigns tokens (T, D) of modalities (T,), as far as they are present (T,), to their experts."""
        logits = self._by_expert(self.logits(tokens, modality).masked_fill(~self.allowed[modality], -torch.inf))
        chosen, expert = logits.topk(self.top_k, dim=-1)
        return Assignment(expert, self.gate(chosen).masked_fill(~present[:, None], 0.0), logits, modality, present)

    def _by_expert(self, logits: Tensor) -> Tensor:
        """Logits (T, E) of experts from those of rows (T, R): of rows that lead to one expert, the best counts."""
        if not self.merged:
            return logits
        best = logits.new_full((logits.shape[0], self.experts), -torch.inf)
        return best.scatter_reduce(1, self.routes.expand_as(logits), logits, "amax")
