"""What the processes of a run tell each other, beside gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, TypeVar

from torch import distributed

Found = TypeVar("Found")


def several() -> bool:
    """Whether this process is one of several that have met."""
    return distributed.is_available() and distributed.is_initialized()


def every_rank(mine: Found) -> list[Found]:
    """What every rank has, in the order of the ranks; all must ask."""
    if not several():
        return [mine]
    found: list[Found | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, mine)
    return [one for one in found if one is not None]


def in_turn(shares: Sequence[Sequence[Found]]) -> list[Found]:
    """One of each share after the other: the order in which `mapex_lightning.data.sampler` dealt tiles out to ranks."""
    nothing: Any = object()
    return [one for row in zip_longest(*shares, fillvalue=nothing) for one in row if one is not nothing]
