"""Tokens never forget their sensor, their place and whether they are there."""

from __future__ import annotations

import torch

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
