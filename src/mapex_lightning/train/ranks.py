"""What the processes of a run tell each other, beside gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

Found = TypeVar("Found")


class Later:
    """A number on the device, of which a copy goes to the host while the latter goes on.

    Args:
        value: a scalar.
    """

    def __init__(self, value: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._value = value
        if value.device.type == "cuda":
            self._value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def read(self) -> float:
        """The number. Long there where the host has waited for a later one in between."""
        if self._done is not None:
            self._done.synchronize()
        return float(self._value)


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
