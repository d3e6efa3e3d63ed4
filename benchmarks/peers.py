"""Other ways to run the same experts on the same routing, as people write them elsewhere.

Axes: T tokens, D width, E experts, K experts per token, F hidden, C rows set aside per expert, G groups of S tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from mapex_lightning.model.experts import Experts
from mapex_lightning.model.router import Assignment


class Peer(NamedTuple):
    """Experts that another way runs.

    Attributes:
        run: from tokens (T, D) and their assignment to (T, D).
        parameters: what it is trained by: the four stacked ones of `Experts`, or those of each expert in turn.
    """

    run: Callable[[Tensor, Assignment], Tensor]
    parameters: list[nn.Parameter]

    def stacked(self, gradients: list[Tensor]) -> list[Tensor]:
        """Gradients of `parameters` in the shape of those of `Experts`."""
        if len(gradients) == 4:
            return gradients
        return [torch.stack(gradients[part::4]) for part in range(4)]


class NotInstalled(Exception):
    """A peer's package is not there; the message says how to get it."""


def mask_loop(experts: Experts) -> Peer:
    """A loop over experts, each of which picks its tokens with a boolean mask."""

    def run(tokens: Tensor, assignment: Assignment) -> Tensor:
        out = torch.zeros_like(tokens)
        for e in range(len(experts.inner)):
            chosen = assignment.expert == e
            mine = chosen.any(1)
            gate = (assignment.weight * chosen).sum(1)[mine].to(tokens.dtype)
            hidden = F.gelu(F.linear(tokens[mine], experts.inner[e], experts.inner_bias[e]))
            done = gate[:, None] * F.linear(hidden, experts.outer[e], experts.outer_bias[e])
            out.index_put_((mine,), done, accumulate=True)
        return out

    return Peer(run, _parameters(experts))


def one_hot(experts: Experts, group: int = 256) -> Peer:
    """Dispatch and combine as products with one-hot tensors, in groups of tokens (GShard, Switch, V-MoE).

    The capacity is the largest number of a group's tokens that any expert is chosen by: no token is dropped, so that
    the function is the same.
    """

    def run(tokens: Tensor, assignment: Assignment) -> Tensor:
        size = math.gcd(len(tokens), group)
        grouped = rearrange(tokens, "(g s) d -> g s d", s=size)
        choice = F.one_hot(rearrange(assignment.expert, "(g s) k -> g (s k)", s=size), len(experts.inner))
        capacity = int(choice.sum(1).max())
        place = (choice.cumsum(1) * choice).sum(-1) - 1
        slot = choice[..., None] * F.one_hot(place, capacity)[..., None, :]
        slot = rearrange(slot, "g (s k) e c -> g s k e c", s=size).to(tokens.dtype)
        gate = rearrange(assignment.weight, "(g s) k -> g s k", s=size).to(tokens.dtype)
        rows = einsum(slot.sum(2), grouped, "g s e c, g s d -> e g c d")
        done = _batched(experts, rearrange(rows, "e g c d -> e (g c) d"))
        done = rearrange(done, "e (g c) d -> e g c d", c=capacity)
        combine = einsum(slot, gate, "g s k e c, g s k -> g s e c")
        return rearrange(einsum(combine, done, "g s e c, e g c d -> g s d"), "g s d -> (g s) d")

    return Peer(run, _parameters(experts))


def padded(experts: Experts) -> Peer:
    """All experts in one batched product, each with as many rows as the busiest."""

    def run(tokens: Tensor, assignment: Assignment) -> Tensor:
        count, k = len(experts.inner), assignment.expert.shape[1]
        place, most = _places(assignment.expert, count)
        slot = assignment.expert * most + place
        source = torch.full((count * most,), len(tokens), device=tokens.device)
        every = torch.arange(len(tokens), device=tokens.device)[:, None].expand(-1, k)
        source = source.scatter(0, slot.flatten(), every.flatten())
        rows = torch.cat([tokens, tokens.new_zeros(1, tokens.shape[1])])[source]
        done = _batched(experts, rearrange(rows, "(e c) d -> e c d", e=count))
        picked = rearrange(done, "e c d -> (e c) d")[slot]
        return (picked * assignment.weight[..., None].to(picked.dtype)).sum(1)

    return Peer(run, _parameters(experts))


def transformers(implementation: str) -> Callable[[Experts], Peer]:
    """The experts of Hugging Face transformers, ``eager`` or ``grouped_mm``.

    Their switch (`use_experts_implementation`) around experts without gated units, as in their NemotronH, with a
    bias. The eager loop is that model's.
    """

    def build(experts: Experts) -> Peer:
        if find_spec("transformers") is None:
            raise NotInstalled("not installed: pip install mapex-lightning[bench]")
        from transformers.integrations.moe import use_experts_implementation

        class HuggingExperts(nn.Module):
            def __init__(self, config: SimpleNamespace) -> None:
                super().__init__()
                self.num_experts = len(experts.inner)
                self.up_proj, self.up_proj_bias = experts.inner, experts.inner_bias
                self.down_proj, self.down_proj_bias = experts.outer, experts.outer_bias
                self.act_fn = F.gelu

            def forward(self, states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
                out = torch.zeros_like(states, dtype=weights.dtype)
                with torch.no_grad():
                    mask = rearrange(F.one_hot(index, self.num_experts), "t k e -> e k t")
                    hit = (mask.sum((-1, -2)) > 0).nonzero()[:, 0]
                for e in hit.tolist():
                    choice, token = torch.where(mask[e])
                    hidden = self.act_fn(F.linear(states[token], self.up_proj[e], self.up_proj_bias[e]))
                    done = F.linear(hidden, self.down_proj[e], self.down_proj_bias[e])
                    out.index_add_(0, token, (done * weights[token, choice, None]).to(out.dtype))
                return out.to(states.dtype)

        switched = use_experts_implementation(HuggingExperts, has_gate=False, has_bias=True)
        module = switched(SimpleNamespace(_experts_implementation=implementation))

        def run(tokens: Tensor, assignment: Assignment) -> Tensor:
            out: Tensor = module(tokens, assignment.expert, assignment.weight)
            return out

        return Peer(run, _parameters(experts))

    return build


def deepspeed(experts: Experts) -> Peer:
    """DeepSpeed's MoE layer on one process, with a gate that says what our router has said and drops no token."""
    if find_spec("deepspeed") is None:
        raise NotInstalled("not installed: DeepSpeed comes as source only; pip install wheel deepspeed")
    from deepspeed.moe.experts import Experts as DeepSpeedExperts
    from deepspeed.moe.sharded_moe import MOELayer

    count, hidden, width = experts.inner.shape
    said: list[Assignment] = []

    class Gate(nn.Module):
        def forward(self, *_: Any) -> tuple[Any, ...]:
            assignment = said.pop()
            place, most = _places(assignment.expert, count)
            columns = (assignment.expert.int(), place.int(), assignment.weight)
            return None, most, count, *(rearrange(column, "t k -> k t") for column in columns), None

    single = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)).to(experts.inner)
    many = DeepSpeedExperts(single, count)
    layer = MOELayer(Gate(), many, "one process", 1, count)
    parameters = list(many.parameters())
    with torch.no_grad():
        for part, stacked in enumerate(_parameters(experts)):
            for copy, ours in zip(parameters[part::4], stacked, strict=True):
                copy.copy_(ours)

    def run(tokens: Tensor, assignment: Assignment) -> Tensor:
        said.append(assignment)
        out: Tensor = layer(tokens, None)
        return out

    return Peer(run, parameters)


PEERS: dict[str, Callable[[Experts], Peer]] = {
    "mask loop": mask_loop,
    "one-hot": one_hot,
    "padded": padded,
    "transformers eager": transformers("eager"),
    "transformers grouped": transformers("grouped_mm"),
    "deepspeed": deepspeed,
}
"""How to build each peer on given experts, whose parameters it shares or copies."""


def _parameters(experts: Experts) -> list[nn.Parameter]:
    return [experts.inner, experts.inner_bias, experts.outer, experts.outer_bias]


def _batched(experts: Experts, rows: Tensor) -> Tensor:
    """Rows (E, C, D) through their experts: (E, C, D)."""
    inner, outer = rearrange(experts.inner, "e f d -> e d f"), rearrange(experts.outer, "e d f -> e f d")
    hidden = F.gelu(torch.baddbmm(experts.inner_bias[:, None], rows, inner))
    return torch.baddbmm(experts.outer_bias[:, None], hidden, outer)


def _places(expert: Tensor, count: int) -> tuple[Tensor, int]:
    """Which row of its expert each choice (T, K) takes, and how many the busiest expert has."""
    flat = rearrange(expert, "t k -> (t k)")
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=count)
    first = counts.cumsum(0) - counts
    place = torch.empty_like(flat)
    place[order] = torch.arange(len(flat), device=flat.device) - first[flat[order]]
    return place.view_as(expert), int(reduce(counts, "e -> ", "max"))
