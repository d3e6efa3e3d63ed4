"""A score says what an expert is worth, a rule draws the line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from mapex_lightning.errors import MapexError
from mapex_lightning.model.mixture import CENSUS
from mapex_lightning.pruning import Kept, Policy, choose, cover, mass
from mapex_lightning.pruning.choice import Score
from tests.builders import config_of, steady

CONFIG = config_of((4,))


def census_of(**rows: list[float]) -> Tensor:
    """A census of one sensor, s1, with the given rows; the others are as in the first."""
    first = next(iter(rows.values()))
    values = torch.tensor([rows.get(name, first) for name in CENSUS])
    return torch.stack([values, torch.ones_like(values), torch.ones_like(values)], dim=1)


def chosen(policy: Policy, census: Tensor, *keep: str) -> tuple[int, ...]:
    """By a rule that needs no sizes; every expert counts 10 parameters, the rest 100."""

    def size_of(kept: Kept) -> int:
        return 100 + 10 * sum(map(len, kept.values()))

    return choose(CONFIG, {0: census}, keep or ["s1"], policy, size_of)[0]


@steady
@given(st.lists(st.integers(0, 9), min_size=2, max_size=7), st.floats(0.01, 1))
def test_the_smallest_set_that_covers_is_found(scores: list[int], coverage: float) -> None:
    amount = torch.tensor([*scores, 0.0], dtype=torch.float64)
    assume(amount.sum() > 0)
    kept = cover(amount, amount, coverage)
    carried = float(amount[list(kept)].sum())
    assert carried >= coverage * float(amount.sum()) * (1 - 1e-9)
    best_of_fewer = float(amount.sort(descending=True).values[: len(kept) - 1].sum())
    assert len(kept) == 1 or best_of_fewer < coverage * float(amount.sum())


def test_of_equal_experts_the_lower_number_is_kept() -> None:
    amount = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0])
    assert cover(amount, amount, 0.5) == (1, 2)


def test_mass_that_is_already_gone_cannot_be_covered() -> None:
    amount = torch.tensor([1.0, 0.0, 3.0, 96.0])
    assert cover(amount, amount, 0.9) == (0, 2)


@pytest.mark.parametrize(("score", "best"), [("frequency", 0), ("gate", 1), ("contribution", 2), ("activation", 3)])
def test_every_score_has_a_favourite_of_its_own(score: Score, best: int) -> None:
    census = census_of(tokens=[50.0, 20, 20, 2, 0], gate=[5.0, 9, 8, 1, 0], contribution=[10.0, 20, 40, 8, 0])
    assert chosen(Policy("top", 1, score), census) == (best,)


def test_activation_orders_and_contribution_is_what_it_covers() -> None:
    census = census_of(tokens=[10.0, 1, 1, 1, 0], contribution=[90.0, 10, 0, 0, 0])
    assert chosen(Policy("coverage", 0.1, "activation"), census) == (1,)
    assert chosen(Policy("coverage", 0.5, "activation"), census) == (0, 1)
    assert torch.equal(mass(census, "activation"), mass(census, "contribution"))


@pytest.mark.parametrize(
    ("policy", "experts"),
    [
        (Policy("coverage", 0.7), (0, 1)),
        (Policy("coverage", 0.71), (0, 1, 2)),
        (Policy("threshold", 0.2), (0, 1, 2)),
        (Policy("threshold", 0.21), (0, 1)),
        (Policy("threshold", 0.9), (0,)),
        (Policy("top", 2), (0, 1)),
        (Policy("top", 9), (0, 1, 2, 3)),
        (Policy("size", 1.0), (0, 1, 2, 3)),
        (Policy("size", 139), (0, 1, 2)),
        (Policy("size", 120), (0, 1)),
        (Policy("size", 0.79), (0,)),
    ],
)
def test_every_rule_draws_its_line(policy: Policy, experts: tuple[int, ...]) -> None:
    assert chosen(policy, census_of(tokens=[40.0, 30, 20, 10, 0])) == experts


def test_what_is_kept_is_the_union_over_the_kept_sensors() -> None:
    census = census_of(tokens=[4.0, 1, 0, 0, 0])
    census[:, 2] = torch.tensor([0.0, 0, 1, 4, 0])
    assert chosen(Policy("top", 1), census, "s1") == (0,)
    assert chosen(Policy("top", 1), census, "s1", "dem") == (0, 3)


def test_a_size_that_no_choice_of_experts_has_is_refused_with_the_smallest() -> None:
    with pytest.raises(MapexError, match="at least 110 parameters"):
        chosen(Policy("size", 109), census_of(tokens=[40.0, 30, 20, 10, 0]))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("coverage", 0.0), "Coverage is a share"),
        (("coverage", -0.1), "Coverage is a share"),
        (("coverage", 1.1), "Coverage is a share"),
        (("threshold", float("nan")), "Threshold is a share"),
        (("top", 0.5), "Top is a number of experts"),
        (("top", 0), "Top is a number of experts"),
        (("size", 0), "Size is a number of parameters"),
        (("covrage", 0.5), "Did you mean 'coverage'"),
        (("top", 1, "gates"), "Did you mean 'gate'"),
        (("top", 1, "gate", "merge"), "Did you mean 'merged'"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(words: Any, sentence: str) -> None:
    with pytest.raises(MapexError, match=sentence):
        Policy(*words)


def test_sealed_sets_of_a_model_that_has_none_are_refused() -> None:
    with pytest.raises(MapexError, match="no sealed sets"):
        chosen(Policy("sealed"), census_of(tokens=[40.0, 30, 20, 10, 0]))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy("sealed"), ""),
        (Policy("coverage", 0.99), "--coverage 0.99"),
        (Policy("top", 2, "gate", "merged"), "--top 2 --score gate --fallback merged"),
    ],
)
def test_a_policy_is_told_in_the_words_of_the_command(policy: Policy, words: str) -> None:
    assert policy.words() == words
