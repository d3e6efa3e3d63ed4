"""Experts: feed-forwards with stacked parameters, each applied to its own run of rows.

Axes: R rows, D width, E experts, F hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Experts(nn.Module):
    """E feed-forwards, GELU between two linear maps.

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
            (R, D), zeros past the last run.
        """
        device = rows.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        parameters = (self.inner, self.inner_bias, self.outer, self.outer_bias)
        run = grouped_mlp if device == "cuda" and dtype in GROUPED else looped_mlp
        with torch.autocast(device, enabled=False):
            return run(rows.to(dtype), counts, *(parameter.to(dtype) for parameter in parameters))

    def single(self, expert: int, rows: Tensor) -> Tensor:
        """Applies one expert to all rows (R, D): (R, D)."""
        inner = F.gelu(F.linear(rows, self.inner[expert], self.inner_bias[expert]))
        return F.linear(inner, self.outer[expert], self.outer_bias[expert])


def _xavier(count: int, out: int, into: int) -> Tensor:
    bound = (6 / (out + into)) ** 0.5
    return torch.empty(count, out, into).uniform_(-bound, bound)


GROUPED = (torch.bfloat16, torch.float16)
"""What CUDA's grouped matrix product is made for. Other types take the loop, at one host synchronisation a call."""


def looped_mlp(
    rows: Tensor, counts: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor
) -> Tensor:
    """One expert after the other: the plain path, and the fast one on CPUs.

    Args:
        rows: (R, D).
        counts: (E,) int64.
        inner: (E, F, D).
        inner_bias: (E, F).
        outer: (E, D, F).
        outer_bias: (E, D).

    Returns:
        (R, D), zeros past the last run.
    """
    out: Tensor = _LoopedMlp.apply(rows, counts.tolist(), inner, inner_bias, outer, outer_bias)
    return out


class _LoopedMlp(torch.autograd.Function):
    """Written out because autograd is wasteful here.

    Slices of a stacked parameter would each bring a gradient of their own, to be stacked again: here every expert
    writes into its part of the one gradient. And the GELU is computed once more in the backward pass rather than kept,
    which saves R x F numbers for less than a tenth of the time of a matrix product.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], *parameters: Tensor) -> Tensor:
        inner, inner_bias, outer, outer_bias = parameters
        hidden = rows.new_empty(len(rows), inner.shape[1])
        out = torch.empty_like(rows)
        runs = _runs(counts)
        for e, run in enumerate(runs):
            torch.addmm(inner_bias[e], rows[run], inner[e].T, out=hidden[run])
            torch.addmm(outer_bias[e], F.gelu(hidden[run]), outer[e].T, out=out[run])
        out[sum(counts) :] = 0
        ctx.runs = runs
        ctx.save_for_backward(rows, hidden, inner, outer)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, inner, outer = ctx.saved_tensors
        to_rows = torch.zeros_like(rows)
        to_inner, to_outer = torch.empty_like(inner), torch.empty_like(outer)
        to_inner_bias, to_outer_bias = inner.new_empty(inner.shape[:2]), outer.new_empty(outer.shape[:2])
        # One scratch, as long as the longest run: what an expert computes along the way is gone before the next one.
        scratch = hidden.new_empty(max(run.stop - run.start for run in ctx.runs), hidden.shape[1])
        for e, run in enumerate(ctx.runs):
            part = scratch[: run.stop - run.start]
            torch.ops.aten.gelu.out(hidden[run], out=part)
            torch.mm(grad[run].T, part, out=to_outer[e])
            torch.sum(grad[run], 0, out=to_outer_bias[e])
            torch.mm(grad[run], outer[e], out=part)
            torch.ops.aten.gelu_backward.grad_input(part, hidden[run], grad_input=part)
            torch.mm(part.T, rows[run], out=to_inner[e])
            torch.sum(part, 0, out=to_inner_bias[e])
            torch.mm(part, inner[e], out=to_rows[run])
        return to_rows, None, to_inner, to_inner_bias, to_outer, to_outer_bias


def _runs(counts: list[int]) -> list[slice]:
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


def grouped_mlp(
    rows: Tensor, counts: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor
) -> Tensor:
    """All experts in one product, without asking the device how many rows each has.

    Args and value are those of `looped_mlp`; D and F must be multiples of 8 (16 bytes in half precision).
    """
    ends = counts.cumsum(0)
    place = torch.arange(len(rows), device=rows.device)
    inside = (place < ends[-1])[:, None]
    # A bias is added as a product with a one-hot matrix: gathering it would make a slow, contended backward pass.
    expert = torch.searchsorted(ends, place, right=True)
    choice = (expert[:, None] == torch.arange(len(counts), device=rows.device)).to(rows.dtype)
    offsets = ends.to(torch.int32)
    # What a grouped product leaves past the last run, in either direction, is uninitialised memory.
    rows = torch.where(inside, rows, 0.0)
    hidden = F.grouped_mm(rows, rearrange(inner, "e f d -> e d f"), offs=offsets) + choice @ inner_bias
    hidden = torch.where(inside, hidden, 0.0)
    out = F.grouped_mm(F.gelu(hidden), rearrange(outer, "e d f -> e f d"), offs=offsets) + choice @ outer_bias
    return torch.where(inside, out, 0.0)
