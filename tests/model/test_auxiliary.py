"""What routing is trained by."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total, usage
from mapex_lightning.model.router import Assignment

NOTHING = Auxiliary(mutual=0, balance=0, cap=0, z=0)


def assignment_of(logits: Tensor, modality: list[int]) -> Assignment:
    count = len(logits)
    here = torch.ones(count, dtype=torch.bool)
    return Assignment(logits.argmax(1, keepdim=True), torch.ones(count, 1), logits, torch.tensor(modality), here)


def sure(experts: list[int], modality: list[int], count: int = 4) -> Assignment:
    """Tokens that are certain of their experts."""
    return assignment_of(torch.eye(count)[experts] * 200, modality)


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
    for name in ("mutual", "balance", "z", "pooled", "within"):
        torch.testing.assert_close(two[name], three[name])
    torch.testing.assert_close(total(two, Auxiliary(effective=1.0)), total(three, Auxiliary(effective=1.0)))


@pytest.mark.parametrize("name", ["mutual", "balance", "cap", "z", "pooled", "within"])
def test_gradients_are_finite_where_sensors_are_absent_and_experts_forbidden(name: str) -> None:
    logits = torch.randn(6, 4, requires_grad=True)
    forbidden = torch.tensor([[False, True, True, False]]).expand(6, 4).clone()
    forbidden[3:] = ~forbidden[3:]
    found = assignment_of(logits.masked_fill(forbidden, -torch.inf), [0, 0, 0, 2, 2, 2])
    weights = replace(NOTHING, effective=1.0, **{name: 1.0})
    loss = total(auxiliary_losses({0: found}, 3), weights)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[forbidden].any()
    assert logits.grad.any() or name == "mutual"


def test_absent_tokens_do_not_count() -> None:
    logits, modality = torch.randn(9, 4), [0, 0, 0, 1, 1, 1, 0, 1, 2]
    padded = assignment_of(logits, modality)
    padded.present[6:] = False
    alone = assignment_of(logits[:6], modality[:6])
    for name, value in auxiliary_losses({0: alone}, 3).items():
        torch.testing.assert_close(auxiliary_losses({0: padded}, 3)[name], value, equal_nan=True)
    torch.testing.assert_close(usage(padded, 3), usage(alone, 3))


def test_the_cap_costs_nothing_below_its_limit() -> None:
    losses = auxiliary_losses({0: sure([0, 1, 2, 3], [0, 0, 1, 1])}, 2)
    assert total(losses, replace(NOTHING, cap=1.0, effective=2.01)) == 0


def test_the_cap_costs_the_excess_above_its_limit() -> None:
    losses = auxiliary_losses({0: sure([0, 1, 2, 3, 0], [0, 0, 0, 0, 1])}, 2)
    found = total(losses, replace(NOTHING, cap=1.0, effective=2.0))
    torch.testing.assert_close(found, torch.tensor((math.log(4) - math.log(2)) / 2))


def test_the_pooled_loss_is_least_for_equal_shares() -> None:
    equal = auxiliary_losses({0: sure([0, 1, 2, 3], [0, 0, 0, 0])}, 1)["pooled"]
    unequal = auxiliary_losses({0: sure([0, 0, 0, 3], [0, 0, 0, 0])}, 1)["pooled"]
    torch.testing.assert_close(equal, torch.tensor(1.0))
    assert unequal > equal


def test_balance_costs_nothing_where_sensors_have_divided_all_experts_up() -> None:
    divided = auxiliary_losses({0: sure([0, 1, 2, 3], [0, 0, 1, 1])}, 2)
    torch.testing.assert_close(divided["balance"], torch.tensor(0.0), atol=1e-6, rtol=0)
    half = auxiliary_losses({0: sure([0, 0, 2, 2], [0, 0, 1, 1])}, 2)
    torch.testing.assert_close(half["balance"], torch.tensor(math.log(2)))
    torch.testing.assert_close(half["mutual"], divided["mutual"])


def test_balance_counts_sensors_and_not_tokens() -> None:
    few, many = (auxiliary_losses({0: sure([0] * n + [1], [0] * n + [1], count=2)}, 2)["balance"] for n in (1, 99))
    torch.testing.assert_close(few, many)


def test_the_loss_within_modalities_is_least_where_every_sensor_uses_every_expert() -> None:
    everywhere = auxiliary_losses({0: sure([0, 1, 0, 1], [0, 0, 1, 1], count=2)}, 2)["within"]
    divided = auxiliary_losses({0: sure([0, 0, 1, 1], [0, 0, 1, 1], count=2)}, 2)
    torch.testing.assert_close(everywhere, torch.tensor(1.0))
    torch.testing.assert_close(divided["within"], torch.tensor(2.0))
    torch.testing.assert_close(divided["pooled"], torch.tensor(1.0))


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
