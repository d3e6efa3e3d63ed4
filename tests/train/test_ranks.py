"""What ranks hand each other comes back in their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.train.ranks import every_rank, in_turn, several


def test_a_process_alone_has_what_it_has() -> None:
    assert not several()
    assert every_rank("mine") == ["mine"]


@given(st.integers(0, 20), st.integers(1, 5))
def test_what_was_dealt_out_in_turn_comes_back_in_order(count: int, world: int) -> None:
    assert in_turn([list(range(rank, count, world)) for rank in range(world)]) == list(range(count))
