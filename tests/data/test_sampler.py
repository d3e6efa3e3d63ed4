"""Laws of the order in which an epoch takes its tiles, over any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.data.sampler import EpochSampler

counts, worlds, seeds, epochs = st.integers(0, 60), st.integers(1, 7), st.integers(0, 99), st.integers(0, 99)


def taken(sampler: EpochSampler, epoch: int = 0) -> list[int]:
    """The tiles of an epoch, in order."""
    sampler.set_epoch(epoch)
    return [index for _, index in sampler]


@given(counts, worlds)
def test_in_evaluation_the_ranks_partition_the_tiles(count: int, world: int) -> None:
    shares = [taken(EpochSampler(count, shuffle=False, rank=rank, world=world)) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(count))


@given(counts, worlds)
def test_in_evaluation_the_ranks_differ_by_one_tile_at_most(count: int, world: int) -> None:
    lengths = [len(EpochSampler(count, shuffle=False, rank=rank, world=world)) for rank in range(world)]
    assert max(lengths) - min(lengths) <= 1


@given(counts, worlds, seeds)
def test_in_training_all_ranks_take_equally_many_and_none_the_same(count: int, world: int, seed: int) -> None:
    shares = [taken(EpochSampler(count, shuffle=True, seed=seed, rank=rank, world=world)) for rank in range(world)]
    assert {len(share) for share in shares} == {count // world}
    assert len({index for share in shares for index in share}) == world * (count // world)


@given(counts, worlds, seeds, epochs)
def test_the_ranks_are_dealt_one_order_in_turn(count: int, world: int, seed: int, epoch: int) -> None:
    whole = taken(EpochSampler(count, shuffle=True, seed=seed), epoch)
    shares = [
        taken(EpochSampler(count, shuffle=True, seed=seed, rank=rank, world=world), epoch) for rank in range(world)
    ]
    assert [index for turn in zip(*shares, strict=True) for index in turn] == whole[: world * (count // world)]


@pytest.mark.parametrize("shuffle", [True, False])
@given(count=counts, world=worlds)
def test_the_length_is_what_is_yielded(shuffle: bool, count: int, world: int) -> None:
    for rank in range(world):
        sampler = EpochSampler(count, shuffle=shuffle, rank=rank, world=world)
        assert len(sampler) == len(taken(sampler))


@pytest.mark.parametrize("weights", [None, [1.0, 2.0] * 20])
def test_an_order_is_a_function_of_seed_and_epoch(weights: list[float] | None) -> None:
    fit = EpochSampler(40, shuffle=True, seed=3, weights=weights)
    orders = [taken(fit, epoch) for epoch in range(4)]
    resumed = EpochSampler(40, shuffle=True, seed=3, weights=weights)
    assert taken(resumed, 3) == orders[3]
    assert len({tuple(order) for order in orders}) == 4
    assert taken(EpochSampler(40, shuffle=True, seed=4, weights=weights), 0) != orders[0]


def test_evaluation_goes_from_first_to_last_in_every_epoch() -> None:
    sampler = EpochSampler(9, shuffle=False, seed=5)
    assert taken(sampler, 0) == taken(sampler, 7) == list(range(9))


def test_every_tile_comes_with_its_epoch() -> None:
    sampler = EpochSampler(5, shuffle=True)
    sampler.set_epoch(11)
    assert {epoch for epoch, _ in sampler} == {11}


def test_draws_follow_the_weights() -> None:
    drawn = taken(EpochSampler(3, shuffle=True, weights=[1.0, 2.0, 5.0], draws=8000))
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 8000, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


@pytest.mark.parametrize("draws", [2, 50])
def test_an_epoch_of_draws_may_be_shorter_or_longer_than_the_set(draws: int) -> None:
    shares = [
        taken(EpochSampler(10, shuffle=True, rank=rank, world=2, weights=[1.0] * 10, draws=draws)) for rank in (0, 1)
    ]
    assert [len(share) for share in shares] == [draws // 2] * 2
    assert all(0 <= index < 10 for share in shares for index in share)
