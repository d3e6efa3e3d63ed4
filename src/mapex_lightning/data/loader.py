"""A loader that a run can be resumed with in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from mapex_lightning.data.sampler import EpochSampler
from mapex_lightning.tiles import Tile


class EpochLoader(DataLoader[Tile]):
    """Batches of an `EpochSampler`, of which Lightning keeps in a checkpoint how many the epoch has given.

    The sampler makes the same order again, so nothing else is needed, and no tile before that place is read.

    Args:
        sampler: which tiles an epoch takes.
        batch_size: tiles per batch.
        given: says how many batches of this epoch have been given to the model.
        settings: of `DataLoader`.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, given: Callable[[], int], **settings: Any) -> None:
        super().__init__(sampler=sampler, batch_size=batch_size, **settings)
        self.order, self.tiles_per_batch, self.given = sampler, batch_size, given

    def state_dict(self) -> dict[str, int]:
        """The epoch and the number of its batches that have been given."""
        return {"epoch": self.order.epoch, "batches": self.given()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets that epoch go on after the batches that were given; any other begins with its first."""
        self.order.skip(state["epoch"], state["batches"] * self.tiles_per_batch)
