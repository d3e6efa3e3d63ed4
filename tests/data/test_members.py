"""Tiles of several sets as one sequence: the same items in the same order as the list would hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.data.members import Joined, Keys, Members
from mapex_lightning.data.sets.synthetic import Synthetic


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(-40, 40), st.integers(-40, 40))
def test_stretches_are_one_sequence(lengths: list[int], start: int, stop: int) -> None:
    whole = [(stretch, place) for stretch, length in enumerate(lengths) for place in range(length)]
    joined = Joined(lengths, lambda stretch, place: (stretch, place))
    assert list(joined) == whole
    assert len(joined) == len(whole)
    assert joined[start:stop] == whole[start:stop]
    assert [joined[at] for at in range(-len(whole), len(whole))] == whole + whole
    with pytest.raises(IndexError):
        joined[len(whole)]


def test_members_are_the_tiles_set_by_set_and_know_the_shards_of_each() -> None:
    one, two = Synthetic(), Synthetic(seed=1)
    members = Members(((one, ["a", "b"]), (two, Keys([1, 2], lambda shard, place: f"{shard}-{place}"))))
    assert list(members) == [(one, "a"), (one, "b"), (two, "0-0"), (two, "1-0"), (two, "1-1")]
    assert members.shards == [[2], [1, 2]]
    assert members[1:3] == [(one, "b"), (two, "0-0")]
    assert not Members(((one, []),))
