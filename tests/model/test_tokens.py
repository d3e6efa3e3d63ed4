"""Tokens never forget their sensor, their place and whether they are there."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mapex_lightning.model.tokens import Tokens, join, position_code, take


def tokens_of(tiles: int = 2, count: int = 5, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens(
        torch.randn(tiles, count, 4, generator=generator),
        torch.randint(0, 2, (tiles, count), generator=generator),
        torch.randn(tiles, count, 2, generator=generator),
        torch.rand(tiles, count, generator=generator) < 0.5,
    )


def same(one: Tokens, other: Tokens) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_token_that_is_taken_takes_everything_along() -> None:
    tokens = tokens_of()
    taken = tokens.take(torch.tensor([[3, 0], [1, 1]]))
    for field, picked in zip(tokens, taken, strict=True):
        assert torch.equal(picked[0], field[0, [3, 0]])
        assert torch.equal(picked[1], field[1, [1, 1]])


def test_taking_all_in_order_changes_nothing() -> None:
    tokens = tokens_of()
    assert same(tokens.take(torch.arange(5).expand(2, 5)), tokens)


def test_taking_values_picks_rows() -> None:
    values = torch.arange(6.0).view(1, 3, 2)
    assert take(values, torch.tensor([[2, 0]])).tolist() == [[[4, 5], [0, 1]]]


def test_rows_are_tiles() -> None:
    tokens = tokens_of(3)
    assert torch.equal(tokens.rows(torch.tensor([2])).values[0], tokens.values[2])


def test_joined_tokens_come_apart_again() -> None:
    one, other = tokens_of(2, 3), tokens_of(2, 4, seed=1)
    joined = join([one, other])
    assert same(joined.take(torch.arange(3).expand(2, 3)), one)
    assert same(joined.take(torch.arange(3, 7).expand(2, 4)), other)


def test_the_mean_is_over_present_tokens() -> None:
    tokens = tokens_of()
    for tile in range(2):
        torch.testing.assert_close(tokens.pooled()[tile], tokens.values[tile, tokens.present[tile]].mean(0))


def test_a_tile_without_tokens_gives_zeros() -> None:
    tokens = tokens_of()._replace(present=torch.zeros(2, 5, dtype=torch.bool))
    assert not tokens.pooled().any()


def test_each_sensor_has_a_mean_of_its_own() -> None:
    tokens = tokens_of(6)
    for modality in range(2):
        torch.testing.assert_close(tokens.pooled_by_modality(2)[:, modality], tokens.only(modality).pooled())


def redundant(vectors: Tensor) -> Tensor:
    """One tile whose sensors have the given mean tokens (M, D), pooled by their redundancy: (D,)."""
    count = len(vectors)
    tokens = Tokens(vectors[None], torch.arange(count)[None], torch.zeros(1, count, 2), torch.ones(1, count) > 0)
    return tokens.pooled_by_redundancy(count)[0]


def test_a_sensor_counts_less_the_more_it_says_what_the_others_say() -> None:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    pooled = redundant(torch.stack([east, 2 * east, north]))
    twins, other = math.exp(-0.5), 1.0  # mean cosines with the other two: 1/2, 1/2 and 0
    expected = (3 * twins * east + other * north) / (2 * twins + other)
    torch.testing.assert_close(pooled, expected)


def test_redundancy_changes_nothing_for_one_sensor_and_between_two() -> None:
    tokens = tokens_of(6)
    one = tokens.only(1)
    torch.testing.assert_close(one.pooled_by_redundancy(2), one.pooled())
    vectors = torch.randn(2, 4)
    torch.testing.assert_close(redundant(vectors), vectors.mean(0))


def test_absent_sensors_make_nobody_redundant() -> None:
    tokens = tokens_of(6)
    torch.testing.assert_close(tokens.pooled_by_redundancy(5), tokens.pooled_by_redundancy(2))


@pytest.mark.parametrize("present", [0, 1, 5])
def test_weighing_by_redundancy_has_a_gradient_however_few_sensors_there_are(present: int) -> None:
    tokens = tokens_of()._replace(present=(torch.arange(5) < present).expand(2, 5))
    values = tokens.values.requires_grad_()
    pooled = tokens.pooled_by_redundancy(2)
    pooled.square().sum().backward()
    assert pooled.any() == (present > 0)
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert values.grad.any() == (present > 0)


def test_weighing_by_redundancy_keeps_its_precision_in_half_precision() -> None:
    tokens = tokens_of(6)
    with torch.autocast("cpu", torch.bfloat16):
        found = tokens.pooled_by_redundancy(2)
    assert torch.equal(found, tokens.pooled_by_redundancy(2))


def test_only_one_sensor_leaves_the_others_absent() -> None:
    tokens = tokens_of()
    assert torch.equal(tokens.only(1).present, tokens.present & (tokens.modality == 1))


def test_the_position_code_depends_on_the_ground_and_not_on_the_unit_of_a_step() -> None:
    place = torch.randn(7, 2)
    torch.testing.assert_close(position_code(place * 30, 30.0, 16), position_code(place, 1.0, 16))


def test_the_centre_has_the_code_of_zero() -> None:
    assert position_code(torch.zeros(2), 1.0, 8).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_places_of_a_grid_have_codes_of_their_own() -> None:
    axis = torch.arange(-8.0, 8.0)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
    code = position_code(grid, 1.0, 16)
    assert code.shape == (256, 16)
    assert (torch.cdist(code, code) + 9 * torch.eye(256)).min() > 0.1
