"""What routing is trained by and judged by."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mapex_lightning.model.mixture import Assignment
from mapex_lightning.model.routing import Auxiliary, auxiliary_losses, entropy, specialisation, total, usage
from tests.builders import steady

NOTHING = Auxiliary(mutual=0, cap=0, z=0, pooled=0)


def assignment_of(logits: Tensor, modality: list[int]) -> Assignment:
    return Assignment(logits.argmax(1, keepdim=True), torch.ones(len(logits), 1), logits, torch.tensor(modality))


def sure(experts: list[int], modality: list[int], count: int = 4) -> Assignment:
    """Tokens that are certain of their experts."""
    return assignment_of(torch.eye(count)[experts] * 200, modality)


tables = st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=2, max_size=5).map(torch.tensor)


def test_entropy_is_between_certainty_and_chance() -> None:
    found = entropy(torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    torch.testing.assert_close(found, torch.tensor([0.0, math.log(4)]))


def test_the_slope_of_entropy_is_finite_where_a_probability_is_zero() -> None:
    probability = torch.tensor([0.0, 0.25, 0.75], requires_grad=True)
    entropy(probability).backward()
    assert probability.grad is not None
    torch.testing.assert_close(probability.grad, torch.tensor([0.0, math.log(4) - 1, math.log(4 / 3) - 1]))


def test_usage_is_the_mean_probability_of_each_sensors_tokens() -> None:
    logits = torch.randn(6, 4)
    found = usage(assignment_of(logits, [0, 2, 0, 2, 2, 0]), 3)
    torch.testing.assert_close(found[2], logits[[1, 3, 4]].softmax(-1).mean(0))
    assert not found[1].any()


def test_perfectly_split_experts_tell_all_about_the_sensor() -> None:
    losses = auxiliary_losses({0: sure([0, 0, 1, 1], [0, 0, 1, 1])}, 2)
    torch.testing.assert_close(losses["mutual"], torch.tensor(-math.log(2)))


def test_experts_that_all_sensors_use_alike_tell_nothing() -> None:
    losses = auxiliary_losses({0: sure([0, 1, 0, 1], [0, 0, 1, 1])}, 2)
    torch.testing.assert_close(losses["mutual"], torch.tensor(0.0), atol=1e-6, rtol=0)


def test_a_sensor_with_many_tokens_counts_no_more_than_one_with_few() -> None:
    few = auxiliary_losses({0: sure([0, 1], [0, 1])}, 2)
    many = auxiliary_losses({0: sure([0] * 99 + [1], [0] * 99 + [1])}, 2)
    torch.testing.assert_close(few["mutual"], many["mutual"])


def test_a_sensor_without_tokens_does_not_count() -> None:
    logits = torch.randn(6, 4)
    two = auxiliary_losses({0: assignment_of(logits, [0, 0, 0, 1, 1, 1])}, 2)
    three = auxiliary_losses({0: assignment_of(logits, [0, 0, 0, 2, 2, 2])}, 3)
    assert three["entropy"].isnan().tolist() == [False, True, False]
    for name in ("mutual", "z", "pooled"):
        torch.testing.assert_close(two[name], three[name])
    torch.testing.assert_close(total(two, Auxiliary(effective=1.0)), total(three, Auxiliary(effective=1.0)))


@pytest.mark.parametrize("name", ["mutual", "cap", "z", "pooled"])
def test_gradients_are_finite_where_sensors_are_absent_and_experts_forbidden(name: str) -> None:
    logits = torch.randn(6, 4, requires_grad=True)
    forbidden = torch.tensor([[False, True, True, False]]).expand(6, 4).clone()
    forbidden[3:] = ~forbidden[3:]
    found = assignment_of(logits.masked_fill(forbidden, -torch.inf), [0, 0, 0, 2, 2, 2])
    weights = Auxiliary(**{"mutual": 0, "cap": 0, "z": 0, "pooled": 0, "effective": 1.0, name: 1.0})
    loss = total(auxiliary_losses({0: found}, 3), weights)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[forbidden].any()
    assert logits.grad.any() or name == "mutual"


def test_the_cap_costs_nothing_below_its_limit() -> None:
    losses = auxiliary_losses({0: sure([0, 1, 2, 3], [0, 0, 1, 1])}, 2)
    assert total(losses, Auxiliary(mutual=0, cap=1, z=0, effective=2.01)) == 0


def test_the_cap_costs_the_excess_above_its_limit() -> None:
    losses = auxiliary_losses({0: sure([0, 1, 2, 3, 0], [0, 0, 0, 0, 1])}, 2)
    found = total(losses, Auxiliary(mutual=0, cap=1, z=0, effective=2.0))
    torch.testing.assert_close(found, torch.tensor((math.log(4) - math.log(2)) / 2))


def test_the_pooled_loss_is_least_for_equal_shares() -> None:
    equal = auxiliary_losses({0: sure([0, 1, 2, 3], [0, 0, 0, 0])}, 1)["pooled"]
    unequal = auxiliary_losses({0: sure([0, 0, 0, 3], [0, 0, 0, 0])}, 1)["pooled"]
    torch.testing.assert_close(equal, torch.tensor(1.0))
    assert unequal > equal


def test_larger_logits_cost_more() -> None:
    small, large = (auxiliary_losses({0: assignment_of(s * torch.eye(4), [0] * 4)}, 1)["z"] for s in (1, 10))
    assert large > small


def test_losses_are_means_over_mixtures() -> None:
    one, other = sure([0, 1], [0, 1]), sure([0, 0], [0, 1])
    both = auxiliary_losses({0: one, 4: other}, 2)
    for name, value in both.items():
        apart = torch.stack([auxiliary_losses({0: a}, 2)[name] for a in (one, other)])
        torch.testing.assert_close(value, apart.mean(0))


def test_without_mixtures_or_tokens_nothing_is_added() -> None:
    assert total(auxiliary_losses({}, 2), Auxiliary()) == 0
    assert auxiliary_losses({0: assignment_of(torch.zeros(0, 4), [])}, 2) == {}


def test_a_loss_of_no_weight_costs_nothing() -> None:
    losses = auxiliary_losses({0: sure([0, 1, 2, 3], [0, 0, 1, 1])}, 2)
    assert total(losses, NOTHING) == 0


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
