"""Experts are feed-forwards on runs of rows, by whichever path they are run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mapex_lightning.model.experts import Experts, grouped_mlp, looped_mlp
from tests.builders import steady

WIDTH, HIDDEN = 16, 32

runs = st.lists(st.integers(0, 5), min_size=1, max_size=5)


def parameters_of(experts: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    """Of experts whose biases are not zero."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((experts, HIDDEN, WIDTH), (experts, HIDDEN), (experts, WIDTH, HIDDEN), (experts, WIDTH))
    return tuple((torch.randn(s, generator=generator) / 4).to(dtype).requires_grad_() for s in shapes)


def rows_of(counts: list[int], absent: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(counts) + absent, WIDTH, generator=generator).to(dtype).requires_grad_()


def one_by_one(rows: Tensor, counts: Tensor, *parameters: Tensor) -> Tensor:
    """What is meant: a dense feed-forward per run, zeros past the last."""
    out, parts = torch.zeros_like(rows), rows[: int(counts.sum())].split(counts.tolist())
    each = [F.linear(F.gelu(F.linear(run, w, b)), v, c) for run, w, b, v, c in zip(parts, *parameters, strict=True)]
    return torch.cat([*each, out[int(counts.sum()) :]])


@pytest.mark.parametrize("path", [looped_mlp, grouped_mlp])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@steady
@given(counts=runs, absent=st.integers(0, 4), seed=st.integers(0, 9))
def test_every_path_gives_the_values_and_gradients_of_dense_feed_forwards(
    path: object, dtype: torch.dtype, tolerance: float, counts: list[int], absent: int, seed: int
) -> None:
    found = []
    for run in (path, one_by_one):
        assert callable(run)
        rows, parameters = rows_of(counts, absent, dtype, seed), parameters_of(len(counts), dtype)
        out = run(rows, torch.tensor(counts), *parameters)
        out.square().sum().backward()
        found.append([out, rows.grad, *(p.grad for p in parameters)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("counts", [[3, 0, 2], [0, 0], [4]])
def test_the_loops_gradient_is_that_of_the_function(counts: list[int]) -> None:
    rows, parameters = rows_of(counts, 2, torch.float64), parameters_of(len(counts), torch.float64)

    def run(rows: Tensor, *parameters: Tensor) -> Tensor:
        return looped_mlp(rows, torch.tensor(counts), *parameters)

    assert torch.autograd.gradcheck(run, (rows, *parameters))


@pytest.mark.parametrize("path", [looped_mlp, grouped_mlp])
def test_rows_past_the_last_run_give_zeros_and_get_no_gradient(path: object) -> None:
    assert callable(path)
    rows = torch.full((5, WIDTH), torch.nan)
    rows[:2] = 1
    rows.requires_grad_()
    out = path(rows, torch.tensor([1, 1]), *parameters_of(2, torch.float32))
    out.sum().backward()
    assert rows.grad is not None
    assert out.isfinite().all()
    assert rows.grad.isfinite().all()
    assert not out[2:].any()
    assert not rows.grad[2:].any()


def test_the_pre_activations_are_all_that_is_kept_for_the_backward_pass() -> None:
    experts, rows = Experts(2, WIDTH, HIDDEN), torch.randn(64, WIDTH)
    kept: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        experts(rows, torch.tensor([30, 34]))
    assert [shape for shape in kept if len(shape) == 2] == [(64, WIDTH), (64, HIDDEN)]


def test_autocast_decides_the_type() -> None:
    experts = Experts(2, WIDTH, HIDDEN)
    with torch.autocast("cpu", torch.bfloat16):
        assert experts(torch.randn(4, WIDTH), torch.tensor([2, 2])).dtype == torch.bfloat16
    assert experts(torch.randn(4, WIDTH), torch.tensor([2, 2])).dtype == torch.float32
