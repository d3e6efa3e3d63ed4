"""A loader that a run can be resumed with in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from mapex_lightning.data.sampler import EpochSampler
from mapex_lightning.errors import MapexError
from mapex_lightning.signals import held_back
from mapex_lightning.tiles import Tile


class EpochLoader(DataLoader[Tile]):
    """Batches of an `EpochSampler`, of which Lightning keeps in a checkpoint how many the epoch has given.

    The sampler makes the same order again, so nothing else is needed, and no tile before that place is read.

    Attributes:
        given: says how many batches of this epoch have been given to the model, 0 when it is over. It is set after the
            loader is made: Lightning makes loaders again, with the arguments of `DataLoader`.
    """

    given: Callable[[], int] = staticmethod(lambda: 0)

    @property
    def order(self) -> EpochSampler:
        """Which tiles an epoch takes."""
        assert isinstance(self.sampler, EpochSampler)
        return self.sampler

    def _get_iterator(self) -> Any:
        """Starts the processes that read, which no signal may end before they have shielded themselves."""
        with held_back():
            return super()._get_iterator()

    def state_dict(self) -> dict[str, int]:
        """The epoch, the number of its batches that have been given, and their size."""
        if self._overfits:
            return {}
        return {"epoch": self.order.epoch, "batches": self.given(), "together": self._together}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets that epoch go on after the batches that were given; any other begins with its first.

        Raises:
            MapexError: other batches cannot go on where those stopped.
        """
        if self._overfits or not state:
            return
        now = self._together
        if state["batches"] and state.get("together", now) != now:
            raise MapexError(
                f"The checkpoint is from in the middle of an epoch, in which {state['together']} tiles were taken "
                f"together; now it is {now} (data.batch_size on all processes). Resume with as many, or from a "
                "checkpoint that was written at the end of an epoch."
            )
        assert self.batch_size is not None
        self.order.skip(state["epoch"], state["batches"] * self.batch_size)

    @property
    def common(self) -> int:
        """Whole batches of an epoch that every process has: some may have one more."""
        assert self.batch_size is not None
        return 0 if self._overfits else self.order.total // self.order.world // self.batch_size

    @property
    def _overfits(self) -> bool:
        """Whether Lightning has put an order of its own here, as it does for ``trainer.overfit_batches``."""
        return not isinstance(self.sampler, EpochSampler)

    @property
    def _together(self) -> int:
        """Tiles of a batch on all processes."""
        assert self.batch_size is not None
        return self.batch_size * self.order.world
