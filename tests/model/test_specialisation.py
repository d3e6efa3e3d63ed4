"""What routing is judged by."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mapex_lightning.model.specialisation import entropy, specialisation
from tests.builders import steady

tables = st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=2, max_size=5).map(torch.tensor)


def test_entropy_is_between_certainty_and_chance() -> None:
    found = entropy(torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    torch.testing.assert_close(found, torch.tensor([0.0, math.log(4)]))


def test_the_slope_of_entropy_is_finite_where_a_probability_is_zero() -> None:
    probability = torch.tensor([0.0, 0.25, 0.75], requires_grad=True)
    entropy(probability).backward()
    assert probability.grad is not None
    torch.testing.assert_close(probability.grad, torch.tensor([0.0, math.log(4) - 1, math.log(4 / 3) - 1]))


@steady
@given(tables)
def test_specialisation_stays_within_its_bounds(counts: Tensor) -> None:
    found = specialisation(counts)
    here = counts.sum(1) > 0
    assert found["nmi"].isnan() if here.sum() < 2 else 0 <= found["nmi"] <= 1
    assert found["effective"][~here].isnan().all()
    assert ((found["effective"][here] >= 1 - 1e-9) & (found["effective"][here] <= 4 + 1e-9)).all()
    assert found["dead"] == (counts.sum(0) == 0).sum()


@steady
@given(tables, st.integers(2, 9))
def test_specialisation_is_about_shares(counts: Tensor, factor: int) -> None:
    one, other = specialisation(counts), specialisation(counts * factor)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], equal_nan=True)


def test_experts_of_their_own_are_full_specialisation() -> None:
    found = specialisation(torch.tensor([[9, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 5]]))
    torch.testing.assert_close(found["nmi"], torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(found["effective"], torch.tensor([1.0, 2, 1], dtype=torch.float64))


def test_identical_usage_is_no_specialisation() -> None:
    found = specialisation(torch.tensor([[1, 2, 3, 0], [2, 4, 6, 0]]))
    torch.testing.assert_close(found["nmi"], torch.tensor(0.0, dtype=torch.float64), atol=1e-9, rtol=0)
    assert found["dead"] == 1


def test_a_sensor_without_tokens_does_not_change_specialisation() -> None:
    counts = torch.tensor([[5, 1, 0, 0], [0, 2, 2, 0]])
    empty = torch.cat([counts, torch.zeros(1, 4, dtype=torch.int64)])
    torch.testing.assert_close(specialisation(counts)["nmi"], specialisation(empty)["nmi"])
