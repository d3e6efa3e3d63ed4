"""The mixture of experts: tokens go to the experts that a router assigned, and a census remembers who used whom.

Axes: T tokens, D width, E experts, K experts per token, M modalities.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.experts import Experts
from mapex_lightning.model.router import Assignment, Router

CENSUS = ("tokens", "gate", "contribution", "probability")
"""What a census counts: tokens routed, sum of gates, sum of gate x |expert's output|, sum of the router's softmax.

A census is (4, M, E + 1): the last column holds what went to experts that pruning has cut away since, so that shares of
the whole stay shares of the whole.
"""


class Mixture(nn.Module):
    """A feed-forward in which every token uses K of E experts; no token is dropped.

    Args:
        config: the encoder's description.
        block: which block this is.
    """

    census: Tensor
    counted: Tensor

    def __init__(self, config: EncoderConfig, block: int) -> None:
        super().__init__()
        count = config.experts[block]
        hidden = config.hidden // 2 if config.shared else config.hidden
        self.router = Router(config, block)
        self.experts = Experts(count, config.width, hidden)
        self.shared = Experts(1, config.width, hidden) if config.shared else None
        self.register_buffer("census", torch.zeros(len(CENSUS), len(config.modalities), count + 1))
        # What a census that is being taken has counted so far: half of one belongs in no checkpoint.
        self.register_buffer("counted", torch.zeros_like(self.census), persistent=False)
        self.observing = False
        """While True, every forward pass adds to `counted`."""

    def forward(self, tokens: Tensor, modality: Tensor, present: Tensor) -> tuple[Tensor, Assignment]:
        """Mixes tokens (T, D) of modalities (T,), as far as they are present (T,).

        Returns:
            (T, D), zeros for absent tokens, and who was assigned where.
        """
        assignment: Assignment = self.router(tokens, modality, present)
        if torch.compiler.is_exporting():
            return self._exported(tokens, assignment), assignment
        slot, rows = self._dispatch(tokens, assignment)
        # The weighted gather that is fast in both directions.
        mixed = F.embedding_bag(slot, rows, per_sample_weights=assignment.weight.to(rows.dtype), mode="sum")
        if self.observing:
            self._observe(assignment, rows[slot].to(assignment.weight.dtype).norm(dim=-1))
        if self.shared is not None:
            every = self.shared(tokens, torch.full((1,), len(tokens), device=tokens.device))
            mixed = mixed + every.masked_fill(~present[:, None], 0.0)
        return mixed, assignment

    def _exported(self, tokens: Tensor, assignment: Assignment) -> Tensor:
        """The same mixture in the plain operations that torch.export and ONNX know: one expert after the other.

        Sorted runs need sizes that a graph cannot have before it is run. Here every expert gathers the tokens that are
        its own, whatever their number, so a token still costs K experts. A token without a gate is nobody's.
        """
        weight = assignment.weight.to(tokens.dtype)
        gate = weight.new_zeros(tokens.shape[0], len(self.experts.inner)).scatter(1, assignment.expert, weight)
        if gate.shape[1] == 1:
            mixed = self.experts.single(0, tokens) * gate
        else:
            mixed = torch.zeros_like(tokens)
            for expert, share in enumerate(gate.unbind(1)):
                mine = share.nonzero()[:, 0]
                rows = self.experts.single(expert, tokens[mine]) * share[mine, None]
                mixed = mixed.index_put((mine,), rows, accumulate=True)
        if self.shared is not None:
            mixed = mixed + self.shared.single(0, tokens).masked_fill(~assignment.present[:, None], 0.0)
        return mixed

    def _dispatch(self, tokens: Tensor, assignment: Assignment) -> tuple[Tensor, Tensor]:
        """What the experts make of their tokens, (T x K, D), and where each choice (T, K) finds it.

        Absent tokens are in a last run that belongs to no expert. No shape and no branch depends on the data, so the
        host never waits for the device.
        """
        count, k = len(self.experts.inner), assignment.expert.shape[1]
        if count == 1:  # pruned to one expert: a plain feed-forward, and nothing to sort
            rows = self.experts(tokens, torch.full((1,), len(tokens), device=tokens.device))
            return torch.arange(len(tokens), device=tokens.device)[:, None], rows
        expert = assignment.expert.masked_fill(~assignment.present[:, None], count).flatten()
        order = expert.argsort(stable=True)
        place = torch.arange(len(order), device=order.device)
        slot = torch.empty_like(order).scatter_(0, order, place)
        counts = torch.zeros(count + 1, dtype=torch.int64, device=order.device)
        counts = counts.scatter_add_(0, expert, torch.ones_like(expert))[:-1]
        rows = self.experts(tokens.index_select(0, order // k), counts)
        return rearrange(slot, "(t k) -> t k", k=k), rows

    @torch.no_grad()
    def _observe(self, assignment: Assignment, size: Tensor) -> None:
        """Counts a batch, in float32; `size` (T, K) is the norm of each chosen expert's output."""
        gate = assignment.weight
        # A disallowed expert fills up top-k with weight 0 and is not used.
        amounts = torch.stack([(gate > 0).to(gate.dtype), gate, gate * size])
        each = amounts.new_zeros(*amounts.shape[:2], len(self.experts.inner))
        each = each.scatter(2, assignment.expert.expand_as(amounts), amounts)
        each = torch.cat([each, assignment.logits.softmax(-1)[None].to(each)])
        members = assignment.members(self.counted.shape[1]).to(each)
        with torch.autocast(members.device.type, enabled=False):
            self.counted[..., :-1] += torch.einsum("mt,rte->rme", members, each).to(self.counted)
