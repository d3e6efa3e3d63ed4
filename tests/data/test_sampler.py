"""Laws of the order in which an epoch takes its tiles, over any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.data.sampler import STRETCH, TOGETHER, EpochSampler

counts, worlds, seeds, epochs = st.integers(0, 60), st.integers(1, 7), st.integers(0, 99), st.integers(0, 99)

sets = st.lists(st.lists(st.integers(0, 6), max_size=20), min_size=1, max_size=3)
"""Shards of several data sets."""


def taken(sampler: EpochSampler, epoch: int = 0) -> list[int]:
    """The tiles of an epoch, in order."""
    sampler.set_epoch(epoch)
    return [index for _, index in sampler]


@given(counts, worlds)
def test_in_evaluation_the_ranks_partition_the_tiles(count: int, world: int) -> None:
    shares = [taken(EpochSampler([[count]], shuffle=False, rank=rank, world=world)) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(count))


@given(counts, worlds)
def test_in_evaluation_the_ranks_differ_by_one_tile_at_most(count: int, world: int) -> None:
    lengths = [len(EpochSampler([[count]], shuffle=False, rank=rank, world=world)) for rank in range(world)]
    assert max(lengths) - min(lengths) <= 1


@given(counts, worlds, seeds)
def test_in_training_all_ranks_take_equally_many_and_none_the_same(count: int, world: int, seed: int) -> None:
    shares = [taken(EpochSampler([[count]], shuffle=True, seed=seed, rank=rank, world=world)) for rank in range(world)]
    assert {len(share) for share in shares} == {count // world}
    assert len({index for share in shares for index in share}) == world * (count // world)


@given(counts, worlds, seeds, epochs)
def test_the_ranks_are_dealt_one_order_in_turn(count: int, world: int, seed: int, epoch: int) -> None:
    whole = taken(EpochSampler([[count]], shuffle=True, seed=seed), epoch)
    shares = [
        taken(EpochSampler([[count]], shuffle=True, seed=seed, rank=rank, world=world), epoch) for rank in range(world)
    ]
    assert [index for turn in zip(*shares, strict=True) for index in turn] == whole[: world * (count // world)]


@pytest.mark.parametrize("shuffle", [True, False])
@given(count=counts, world=worlds)
def test_the_length_is_what_is_yielded(shuffle: bool, count: int, world: int) -> None:
    for rank in range(world):
        sampler = EpochSampler([[count]], shuffle=shuffle, rank=rank, world=world)
        assert len(sampler) == len(taken(sampler))


@pytest.mark.parametrize("weights", [None, [1.0, 2.0]])
def test_an_order_is_a_function_of_seed_and_epoch(weights: list[float] | None) -> None:
    fit = EpochSampler([[20], [5] * 4], shuffle=True, seed=3, weights=weights)
    orders = [taken(fit, epoch) for epoch in range(4)]
    resumed = EpochSampler([[20], [5] * 4], shuffle=True, seed=3, weights=weights)
    assert taken(resumed, 3) == orders[3]
    assert len({tuple(order) for order in orders}) == 4
    assert taken(EpochSampler([[20], [5] * 4], shuffle=True, seed=4, weights=weights), 0) != orders[0]


@given(sets, worlds, seeds, epochs, st.integers(0, 40))
def test_an_epoch_that_is_resumed_goes_on_where_it_stopped(
    shards: list[list[int]], world: int, seed: int, epoch: int, seen: int
) -> None:
    for rank in range(world):
        whole = EpochSampler(shards, shuffle=True, seed=seed, rank=rank, world=world)
        rest = EpochSampler(shards, shuffle=True, seed=seed, rank=rank, world=world)
        rest.skip(epoch, seen)
        assert taken(rest, epoch) == taken(whole, epoch)[seen:]
        assert taken(rest, epoch + 1) == taken(whole, epoch + 1)
        assert len(rest) == len(whole)


def test_evaluation_goes_from_first_to_last_in_every_epoch() -> None:
    sampler = EpochSampler([[9]], shuffle=False, seed=5)
    assert taken(sampler, 0) == taken(sampler, 7) == list(range(9))


def test_every_tile_comes_with_its_epoch() -> None:
    sampler = EpochSampler([[5]], shuffle=True)
    sampler.set_epoch(11)
    assert {epoch for epoch, _ in sampler} == {11}


@given(sets, worlds, seeds, epochs)
def test_an_epoch_takes_every_tile_of_every_shard_once(
    shards: list[list[int]], world: int, seed: int, epoch: int
) -> None:
    total = sum(map(sum, shards))
    assert sorted(taken(EpochSampler(shards, shuffle=True, seed=seed), epoch)) == list(range(total))
    ranks = [
        taken(EpochSampler(shards, shuffle=True, seed=seed, rank=rank, world=world), epoch) for rank in range(world)
    ]
    assert {len(mine) for mine in ranks} == {total // world}
    assert len({index for mine in ranks for index in mine}) == world * (total // world)


def test_an_epoch_is_in_a_few_shards_at_a_time_and_shuffles_those() -> None:
    shards = np.array(taken(EpochSampler([[10] * 40], shuffle=True, seed=1))) // 10
    groups = shards.reshape(-1, 10 * TOGETHER)
    assert all(len(set(group)) == TOGETHER for group in groups.tolist())
    assert sorted(set(groups[0].tolist())) != list(range(TOGETHER))
    assert len(set(groups[0][:TOGETHER].tolist())) > TOGETHER // 2


@given(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3), st.integers(1, 300), seeds, epochs)
def test_shares_are_those_of_the_weights_to_the_tile(weights: list[float], draws: int, seed: int, epoch: int) -> None:
    sampler = EpochSampler([[7], [3, 4, 5], [40]], shuffle=True, seed=seed, weights=weights, draws=draws)
    found = np.bincount(np.digitize(taken(sampler, epoch), [7, 19]), minlength=3)
    assert found.sum() == draws
    assert (abs(found - np.array(weights) / sum(weights) * draws) < 1 + 1e-6).all()


@given(st.integers(1, 30), seeds)
def test_no_tile_comes_again_before_all_others_of_its_set(draws: int, seed: int) -> None:
    sampler = EpochSampler([[4, 3], [6]], shuffle=True, seed=seed, weights=[1.0, 1.0], draws=draws)
    row = [index for epoch in range(8) for index in taken(sampler, epoch)]
    for low, high in ((0, 7), (7, 13)):
        counts = np.bincount([index - low for index in row if low <= index < high], minlength=high - low)
        assert counts.max() - counts.min() <= 1


def test_sets_of_a_mixture_are_spread_evenly_over_an_epoch() -> None:
    sampler = EpochSampler([[25] * 40, [100], [300]], shuffle=True, weights=[2.0, 1.0, 1.0], draws=800)
    first = np.array(taken(sampler))
    for stretch in first.reshape(8, 100):
        assert abs(np.mean(stretch < 1000) - 0.5) <= 0.05


def test_a_set_without_tiles_has_no_share() -> None:
    assert sorted(taken(EpochSampler([[4], []], shuffle=True, weights=[1.0, 1.0]))) == list(range(4))


@pytest.mark.parametrize("draws", [2, 50])
def test_an_epoch_of_draws_may_be_shorter_or_longer_than_the_set(draws: int) -> None:
    shares = [
        taken(EpochSampler([[10]], shuffle=True, rank=rank, world=2, weights=[1.0], draws=draws)) for rank in (0, 1)
    ]
    assert [len(share) for share in shares] == [draws // 2] * 2
    assert all(0 <= index < 10 for share in shares for index in share)


def test_a_long_order_is_whole_from_any_place() -> None:
    sampler = EpochSampler([[2 * STRETCH + 1]], shuffle=False)
    assert taken(sampler) == list(range(2 * STRETCH + 1))
    sampler.skip(0, STRETCH - 1)
    assert taken(sampler) == list(range(STRETCH - 1, 2 * STRETCH + 1))
    assert all(type(index) is int for _, index in sampler)
