"""What routing is judged by."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mapex_lightning.model.router import Assignment
from mapex_lightning.model.specialisation import (
    Tally,
    added,
    distances,
    effective_experts,
    entropy,
    mutual_information,
    shares,
    specialisation,
    tally,
)
from tests.builders import steady

tables = st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=2, max_size=5).map(torch.tensor)
full_tables = st.lists(st.lists(st.integers(1, 50), min_size=4, max_size=4), min_size=3, max_size=5).map(torch.tensor)


def wide(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assignment_of(logits: Tensor, modality: list[int], top_k: int = 1, present: Tensor | None = None) -> Assignment:
    chosen, expert = logits.topk(top_k, dim=-1)
    present = torch.ones(len(logits), dtype=torch.bool) if present is None else present
    return Assignment(expert, chosen.softmax(-1), logits, torch.tensor(modality), present)


def assert_equal(one: Tally, other: Tally) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs)


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
def test_specialisation_stays_within_its_bounds(table: Tensor) -> None:
    found = specialisation(table)
    here = table.sum(1) > 0
    assert found["nmi"].isnan() if here.sum() < 2 else 0 <= found["nmi"] <= 1
    assert found["effective"][~here].isnan().all()
    assert ((found["effective"][here] >= 1 - 1e-9) & (found["effective"][here] <= 4 + 1e-9)).all()
    assert found["dead"] == (table.sum(0) == 0).sum()
    assert ((found["distance"][here][:, here] >= 0) & (found["distance"][here][:, here] <= 1)).all()
    torch.testing.assert_close(found["share"].sum(1), here.double())


@steady
@given(tables, st.integers(2, 9))
def test_specialisation_is_about_shares(table: Tensor, factor: int) -> None:
    one, other = specialisation(table), specialisation(table * factor)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], equal_nan=True)


@steady
@given(tables, st.permutations(range(4)))
def test_the_numbers_of_experts_mean_nothing(table: Tensor, order: list[int]) -> None:
    one, other = specialisation(table), specialisation(table[:, order])
    for name in ("nmi", "effective", "distance", "dead"):
        # Sums in another order differ in the last digit, of which a distance takes the root.
        torch.testing.assert_close(one[name], other[name], equal_nan=True, atol=1e-7, rtol=1e-7)


@steady
@given(full_tables)
def test_the_distance_is_a_metric(table: Tensor) -> None:
    found = distances(table)
    torch.testing.assert_close(found, found.T)
    assert not found.diagonal().any()
    detour = (found[:, :, None] + found[None]).min(1).values
    assert (found <= detour + 1e-9).all()


def test_the_distance_has_known_values() -> None:
    found = distances(torch.tensor([[1, 0, 0], [0, 5, 0], [1, 1, 0]]))
    assert found[0, 1] == 1
    # Between (1, 0) and (1/2, 1/2): half of log 4/3, a quarter of log 2/3 and a quarter of log 2.
    half = math.sqrt((math.log(4 / 3) / 2 + math.log(2 / 3) / 4 + math.log(2) / 4) / math.log(2))
    torch.testing.assert_close(found[0, 2], torch.tensor(half, dtype=torch.float64))


def test_experts_of_their_own_are_full_specialisation() -> None:
    found = specialisation(torch.tensor([[9, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 5]]))
    torch.testing.assert_close(found["nmi"], wide(1.0)[0])
    torch.testing.assert_close(found["effective"], wide(1, 2, 1))
    torch.testing.assert_close(found["distance"], 1 - torch.eye(3, dtype=torch.float64))


def test_identical_usage_is_no_specialisation() -> None:
    found = specialisation(torch.tensor([[1, 2, 3, 0], [2, 4, 6, 0]]))
    torch.testing.assert_close(found["nmi"], wide(0.0)[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(found["distance"], torch.zeros(2, 2, dtype=torch.float64), atol=1e-7, rtol=0)
    assert found["dead"] == 1


def test_mutual_information_has_a_known_value_between() -> None:
    # Sensor 0 uses expert 0 alone, sensor 1 both alike.
    table = torch.tensor([[4, 0], [3, 3]])
    expected = (entropy(wide(0.75, 0.25)) - math.log(2) / 2) / math.log(2)
    torch.testing.assert_close(mutual_information(table), expected)


def test_a_sensor_with_many_tokens_counts_no_more_than_one_with_few() -> None:
    torch.testing.assert_close(
        mutual_information(torch.tensor([[3, 1], [1, 2]])), mutual_information(torch.tensor([[300, 100], [1, 2]]))
    )


def test_a_sensor_without_tokens_does_not_change_specialisation() -> None:
    table = torch.tensor([[5, 1, 0, 0], [0, 2, 2, 0]])
    empty = torch.cat([table, torch.zeros(1, 4, dtype=torch.int64)])
    torch.testing.assert_close(mutual_information(table), mutual_information(empty))
    torch.testing.assert_close(distances(empty)[:2, :2], distances(table))
    assert distances(empty)[2].isnan().all()
    assert effective_experts(empty)[2].isnan()
    assert not shares(empty)[2].any()


def test_hard_and_soft_agree_where_the_router_is_certain() -> None:
    found = tally(assignment_of(torch.eye(4)[[0, 3, 3, 1]] * 200, [0, 1, 1, 0]), 2)
    torch.testing.assert_close(found.hard, found.soft)
    torch.testing.assert_close(found.token_entropy, wide(0, 0))


def test_hard_counts_choices_while_soft_sums_probabilities() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.3]])
    found = tally(assignment_of(logits, [0, 0, 1]), 2)
    assert found.hard.tolist() == [[1, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(found.soft, torch.stack([logits[:2].softmax(-1).sum(0), logits[2].softmax(-1)]).double())
    torch.testing.assert_close(found.token_entropy[1], entropy(logits[2].double().softmax(-1)))


def test_every_choice_of_a_token_counts() -> None:
    found = tally(assignment_of(torch.tensor([[3.0, 2.0, 1.0]]), [0], top_k=2), 1)
    assert found.hard.tolist() == [[1, 1, 0]]


def test_a_forbidden_expert_that_fills_up_the_choices_is_not_used() -> None:
    found = tally(assignment_of(torch.tensor([[3.0, -torch.inf, -torch.inf]]), [0], top_k=2), 1)
    assert found.hard.tolist() == [[1, 0, 0]]
    torch.testing.assert_close(found.token_entropy, wide(0))


def test_absent_tokens_count_for_nothing_even_if_they_are_poison() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    alone = tally(assignment_of(logits[:4], [0, 1, 1, 0]), 2)
    poisoned = logits.clone()
    poisoned[4:] = torch.nan
    present = torch.tensor([True] * 4 + [False] * 2)
    assert_equal(alone, tally(assignment_of(poisoned, [0, 1, 1, 0, 0, 1], present=present), 2))


def test_batches_add_up() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    parts = [tally(assignment_of(logits[:2], [0, 1]), 2), tally(assignment_of(logits[2:], [1, 1, 0, 0]), 2)]
    assert_equal(added(parts), tally(assignment_of(logits, [0, 1, 1, 1, 0, 0]), 2))


def test_a_modality_without_tokens_has_no_token_entropy() -> None:
    found = tally(assignment_of(torch.zeros(1, 4), [0]), 2).token_entropy
    assert found[0] == pytest.approx(math.log(4))
    assert found[1].isnan()
