"""Which tiles an epoch takes, in which order: a function of seed, epoch and rank alone.

No random state is stored: the order of any epoch can be made again, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that workers know the epoch for their augmentations.

    Args:
        count: number of tiles.
        shuffle: a new order every epoch; otherwise first to last.
        seed: of the order.
        rank: of this process.
        world: number of processes. In evaluation every tile is taken exactly once, so ranks may differ by one; in
            training all ranks take equally many.
        weights: of each tile, for draws with replacement; None takes every tile once.
        draws: tiles per epoch over all ranks, with `weights`.
    """

    def __init__(
        self,
        count: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        weights: Sequence[float] | None = None,
        draws: int | None = None,
    ) -> None:
        self.count, self.shuffle, self.seed, self.rank, self.world = count, shuffle, seed, rank, world
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self.total = count if draws is None else draws
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Tiles of this rank."""
        if self.shuffle:
            return self.total // self.world
        return len(range(self.rank, self.total, self.world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The tiles of this rank in this epoch."""
        mine = self._order()[self.rank :: self.world][: len(self)]
        return iter([(self.epoch, index) for index in mine.tolist()])

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.total)
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.weights is None:
            return np.resize(rng.permutation(self.count), self.total)
        return rng.choice(self.count, size=self.total, p=self.weights / self.weights.sum())
