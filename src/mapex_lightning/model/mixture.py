"""The mixture of experts: a router assigns tokens to experts, and a census remembers who used whom.

Axes: T tokens, D width, E experts, K experts per token, F hidden, M modalities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mapex_lightning.model.config import EncoderConfig, RouterMode

CENSUS = ("tokens", "gate", "contribution")
"""What a census counts: tokens routed, sum of gates, sum of gate x |expert's output|.

A census is (3, M, E + 1): the last column holds what went to experts that pruning has cut away since, so that shares of
the whole stay shares of the whole.
"""


class Assignment(NamedTuple):
    """Which experts each token uses.

    Attributes:
        expert: (T, K) int64.
        weight: (T, K) float32, the gates.
        logits: (T, E) float32, minus infinity for experts that are not allowed.
        modality: (T,) int64.
    """

    expert: Tensor
    weight: Tensor
    logits: Tensor
    modality: Tensor


class Router(nn.Module):
    """Chooses experts for tokens, knowing the sensor of each.

    The modes, where h is a token and m its modality:

    * ``conditioned``: logit = W [h ; r_m] + b with a learned router vector r_m (M3ViT's task embedding).
    * ``free``: logit = W_m h + b_m, a router of its own for every modality (M3ViT's multi-gate).
    * ``grouped``: as conditioned, inside a fixed set of experts per modality (VLMo, RingMoE).
    * ``blind``: logit = W h + b; the ablation.

    The gate is the sigmoid of the chosen logit for K = 1 and the softmax over the chosen logits for K > 1: it depends
    on chosen experts alone, which is what makes pruning exact.

    Args:
        config: the encoder's description.
        block: which block this is.
    """

    allowed: Tensor

    def __init__(self, config: EncoderConfig, block: int) -> None:
        super().__init__()
        self.mode: RouterMode = config.router
        experts, modalities = config.experts[block], len(config.modalities)
        self.top_k = min(config.top_k, experts)
        self.single = config.top_k == 1
        """Which gate: of the description, so that a block pruned to one expert keeps the gate it was trained with."""
        copies = modalities if self.mode == "free" else 1
        bound = (config.width + config.router_dim) ** -0.5
        self.weight = nn.Parameter(torch.empty(copies, experts, config.width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(copies, experts))
        if self.mode in ("conditioned", "grouped"):
            self.vectors = nn.Parameter(torch.randn(modalities, config.router_dim))
            self.vector_weight = nn.Parameter(torch.empty(experts, config.router_dim).uniform_(-bound, bound))
        self.register_buffer("allowed", torch.ones(modalities, experts, dtype=torch.bool), persistent=False)
        if config.allowed:
            self.restrict(config.allowed[block])

    def restrict(self, allowed: tuple[tuple[int, ...], ...]) -> None:
        """Keeps every modality's routing inside the given experts, from now on."""
        self.allowed.fill_(False)
        for modality, experts in enumerate(allowed):
            self.allowed[modality, list(experts)] = True

    def logits(self, tokens: Tensor, modality: Tensor) -> Tensor:
        """Logits (T, E) of tokens (T, D), in float32 or wider whatever the autocast."""
        with torch.autocast(tokens.device.type, enabled=False):
            wide = tokens.to(self.weight.dtype)
            every = F.linear(wide, rearrange(self.weight, "m e d -> (m e) d"), self.bias.flatten())
            if self.mode == "free":
                by_modality = rearrange(every, "t (m e) -> t m e", m=len(self.weight))
                return by_modality[torch.arange(len(tokens), device=tokens.device), modality]
            if self.mode == "blind":
                return every
            return every + F.linear(self.vectors, self.vector_weight)[modality]

    def forward(self, tokens: Tensor, modality: Tensor) -> Assignment:
        """Assigns tokens (T, D) of modalities (T,) to their experts."""
        logits = self.logits(tokens, modality).masked_fill(~self.allowed[modality], -torch.inf)
        chosen, expert = logits.topk(self.top_k, dim=-1)
        weight = chosen.sigmoid() if self.single else chosen.softmax(dim=-1)
        return Assignment(expert, weight, logits, modality)


class Experts(nn.Module):
    """E feed-forwards with stacked parameters, each applied to its own rows.

    The first axis of every parameter is the expert, so pruning is one index_select and an idle expert has a zero
    gradient rather than none, which plain DDP needs.

    Args:
        count: E.
        width: D.
        hidden: F.
    """

    def __init__(self, count: int, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(_xavier(count, hidden, width))
        self.inner_bias = nn.Parameter(torch.zeros(count, hidden))
        self.outer = nn.Parameter(_xavier(count, width, hidden))
        self.outer_bias = nn.Parameter(torch.zeros(count, width))

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Applies expert e to the e-th run of rows.

        Args:
            rows: (R, D), sorted by expert.
            counts: (E,) int64, rows per expert; every expert is called, maybe on no row.

        Returns:
            (R, D).
        """
        # unbind once: indexing a stacked parameter in a loop makes a full-size zero gradient per slice.
        parameters = zip(*(p.unbind() for p in (self.inner, self.inner_bias, self.outer, self.outer_bias)), strict=True)
        runs = [rows] if len(counts) == 1 else rows.split(counts.tolist())
        return torch.cat(
            [F.linear(F.gelu(F.linear(run, w, b)), v, c) for run, (w, b, v, c) in zip(runs, parameters, strict=True)]
        )


def _xavier(count: int, out: int, into: int) -> Tensor:
    bound = (6 / (out + into)) ** 0.5
    return torch.empty(count, out, into).uniform_(-bound, bound)


class Mixture(nn.Module):
    """A feed-forward in which every token uses K of E experts; no token is dropped.

    Args:
        config: the encoder's description.
        block: which block this is.
    """

    census: Tensor

    def __init__(self, config: EncoderConfig, block: int) -> None:
        super().__init__()
        count = config.experts[block]
        hidden = config.hidden // 2 if config.shared else config.hidden
        self.router = Router(config, block)
        self.experts = Experts(count, config.width, hidden)
        self.shared = Experts(1, config.width, hidden) if config.shared else None
        self.register_buffer("census", torch.zeros(len(CENSUS), len(config.modalities), count + 1))
        self.observing = False
        """While True, every forward pass adds to the census."""

    def forward(self, tokens: Tensor, modality: Tensor) -> tuple[Tensor, Assignment]:
        """Mixes tokens (T, D) of modalities (T,); returns (T, D) and who was chosen."""
        assignment = self.router(tokens, modality)
        order = assignment.expert.flatten().argsort(stable=True)
        counts = assignment.expert.flatten().bincount(minlength=len(self.experts.inner))
        rows = self.experts(tokens[order // assignment.expert.shape[1]], counts)
        # Where each (token, choice) went. embedding_bag is the weighted gather that is fast in both directions.
        slot = order.argsort().view_as(assignment.expert)
        mixed = F.embedding_bag(slot, rows, per_sample_weights=assignment.weight.to(rows.dtype), mode="sum")
        if self.observing:
            self._observe(assignment, rows[slot].norm(dim=-1))
        if self.shared is not None:
            mixed = mixed + self.shared(tokens, counts.sum()[None])
        return mixed, assignment

    @torch.no_grad()
    def _observe(self, assignment: Assignment, size: Tensor) -> None:
        """Adds a batch to the census; `size` (T, K) is the norm of each chosen expert's output."""
        _, modalities, columns = self.census.shape
        cell = (assignment.modality[:, None] * columns + assignment.expert).flatten()
        gate = assignment.weight.flatten()
        used = (gate > 0).to(self.census)  # a disallowed expert fills up top-k with weight 0
        for row, amount in enumerate((used, gate, gate * size.flatten())):
            total = torch.bincount(cell, weights=amount.float(), minlength=modalities * columns)
            self.census[row] += total.view(modalities, columns).to(self.census)
