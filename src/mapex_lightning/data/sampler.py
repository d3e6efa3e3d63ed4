"""Which tiles an epoch takes, in which order: a function of seed, epoch and rank alone.

No random state is stored: the order of any epoch can be made again from any place, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

TOGETHER = 8
"""How many shards are shuffled together: enough to mix, few enough that files and their tables stay at hand."""

STRETCH = 4096
"""How many tiles of an order are Python numbers at a time."""


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that workers know the epoch for their augmentations.

    In training a data set is gone through in passes: its shards in a new order, the tiles shuffled within every
    `TOGETHER` of them. A set that is not sharded is one shard, and all its tiles are shuffled. Without `weights` an
    epoch is one pass of every set. With them a set has a fixed number of tiles per epoch: where that is less than a
    pass, the next epoch goes on where the last one stopped, and where it is more, another pass begins; so no tile comes
    again before all others of its set. Several sets are spread evenly over the epoch, and a batch mixes them.

    Args:
        shards: per data set the number of tiles in each of its shards, in the order of the tiles.
        shuffle: a new order every epoch; otherwise first to last.
        seed: of the order.
        rank: of this process.
        world: number of processes. In evaluation every tile is taken exactly once, so ranks may differ by one; in
            training all ranks take equally many, so fewer tiles than there are ranks are left out, others every epoch.
        weights: the share of each set in an epoch; None takes every tile once.
        draws: tiles per epoch over all ranks, with `weights`; by default as many as there are.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[int]],
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        weights: Sequence[float] | None = None,
        draws: int | None = None,
    ) -> None:
        self.shards, self.shuffle, self.seed, self.rank, self.world = shards, shuffle, seed, rank, world
        self.counts = [sum(lengths) for lengths in shards]
        self.total = sum(self.counts) if draws is None else draws
        self.shares = self.counts if weights is None else _shares(weights, self.counts, self.total)
        self.epoch = 0
        self.skipped = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def skip(self, epoch: int, count: int) -> None:
        """Leaves out the first tiles of this rank in one epoch: those that a resumed run has seen."""
        self.skipped = (epoch, count)

    def __len__(self) -> int:
        """Tiles of this rank in an epoch, whether or not it begins with the first."""
        if self.shuffle:
            return self.total // self.world
        return len(range(self.rank, self.total, self.world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The tiles of this rank in this epoch."""
        mine = self._order()[self.rank :: self.world][: len(self)]
        epoch, seen = self.skipped
        mine = mine[seen if epoch == self.epoch else 0 :]
        # A list of all would take five times the memory of the array.
        stretches = (mine[at : at + STRETCH].tolist() for at in range(0, len(mine), STRETCH))
        return ((self.epoch, index) for stretch in stretches for index in stretch)

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.total)
        starts = np.cumsum([0, *self.counts])
        taken: list[np.ndarray] = [starts[number] + self._taken(number) for number in range(len(self.shards))]
        if len(taken) == 1:
            return taken[0]
        rng = np.random.default_rng((self.seed, self.epoch))
        # The tiles of a set get places that are evenly apart, up to chance within the space that each has.
        places = [(np.arange(len(tiles)) + rng.random(len(tiles))) / max(1, len(tiles)) for tiles in taken]
        order: np.ndarray = np.concatenate(taken)[np.argsort(np.concatenate(places), kind="stable")]
        return order

    def _taken(self, number: int) -> np.ndarray:
        """The tiles that this epoch takes of a data set: a stretch of its endless row of passes."""
        count, share = self.counts[number], self.shares[number]
        if share == 0:
            return np.arange(0)
        first = self.epoch * share
        begin, end = first // count, -(-(first + share) // count)
        row = np.concatenate([self._pass(number, one) for one in range(begin, end)])
        return row[first - begin * count :][:share]

    def _pass(self, number: int, one: int) -> np.ndarray:
        """All tiles of a data set once."""
        rng = np.random.default_rng((self.seed, one, number))
        lengths = np.asarray(self.shards[number], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        shards = rng.permutation(len(lengths))
        groups = [shards[at : at + TOGETHER] for at in range(0, len(shards), TOGETHER)]
        mixed = [
            rng.permutation(
                np.concatenate([np.arange(starts[shard], starts[shard] + lengths[shard]) for shard in group])
            )
            for group in groups
        ]
        return np.concatenate(mixed)


def _shares(weights: Sequence[float], counts: Sequence[int], total: int) -> list[int]:
    """Whole numbers of tiles that add up to the total, each less than one from its share; none of an empty set."""
    given = np.asarray(weights, dtype=np.float64) * (np.asarray(counts) > 0)
    ends = np.rint(np.cumsum(given) / given.sum() * total).astype(int)
    return [int(share) for share in np.diff(ends, prepend=0)]
