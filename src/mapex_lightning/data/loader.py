"""A loader that a run can be resumed with in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.data import DataLoader

from mapex_lightning.data.sampler import EpochSampler
from mapex_lightning.tiles import Tile


class EpochLoader(DataLoader[Tile]):
    """Batches of an `EpochSampler`, of which Lightning keeps in a checkpoint how many the epoch has given.

    The sampler makes the same order again, so nothing else is needed, and no tile before that place is read.

    Attributes:
        given: says how many batches of this epoch have been given to the model. It is set after the loader is made:
            Lightning makes loaders again, with the arguments of `DataLoader`.
    """

    given: Callable[[], int] = staticmethod(lambda: 0)

    @property
    def order(self) -> EpochSampler:
        """Which tiles an epoch takes."""
        assert isinstance(self.sampler, EpochSampler)
        return self.sampler

    def state_dict(self) -> dict[str, int]:
        """The epoch and the number of its batches that have been given."""
        return {"epoch": self.order.epoch, "batches": self.given()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets that epoch go on after the batches that were given; any other begins with its first."""
        assert self.batch_size is not None
        self.order.skip(state["epoch"], state["batches"] * self.batch_size)
