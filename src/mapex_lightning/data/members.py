"""The tiles of several data sets as one sequence, without a list of them: there may be millions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeVar, overload

import numpy as np

from mapex_lightning.data.tileset import TileSet
from mapex_lightning.errors import MapexError

Item = TypeVar("Item")


class Joined(Sequence[Item]):
    """Stretches of known length one after another; an item is made when it is asked for.

    Args:
        lengths: the length of each stretch.
        item: makes an item from the number of its stretch and its place in there.
    """

    def __init__(self, lengths: Sequence[int], item: Callable[[int, int], Item]) -> None:
        self.lengths, self._item = list(lengths), item
        self._ends = list(accumulate(self.lengths))

    def __len__(self) -> int:
        """The length of all stretches together."""
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        """The item at a place, or those of a slice."""
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        place = range(len(self))[at]
        stretch = bisect_right(self._ends, place)
        return self._item(stretch, place - (self._ends[stretch] - self.lengths[stretch]))


class Keys(Joined[str]):
    """The ids of a data set that lies in shards, shard by shard; `lengths` are the numbers of tiles in each."""


@dataclass(frozen=True)
class Members(Sequence[tuple[TileSet, str]]):
    """The tiles of several data sets, set by set, as data set and key.

    Args:
        parts: each data set with its keys.
    """

    parts: tuple[tuple[TileSet, Sequence[str]], ...]

    @property
    def shards(self) -> list[list[int]]:
        """Per data set the number of tiles in each of its shards; a set that is not sharded is one."""
        return [keys.lengths if isinstance(keys, Keys) else [len(keys)] for _, keys in self.parts]

    def __len__(self) -> int:
        """The number of tiles."""
        return len(self._joined)

    @overload
    def __getitem__(self, at: int) -> tuple[TileSet, str]: ...
    @overload
    def __getitem__(self, at: slice) -> list[tuple[TileSet, str]]: ...
    def __getitem__(self, at: int | slice) -> tuple[TileSet, str] | list[tuple[TileSet, str]]:
        """Data set and key of the tile at a place, or those of a slice."""
        return self._joined[at]

    @cached_property
    def _joined(self) -> Joined[tuple[TileSet, str]]:
        return Joined([len(keys) for _, keys in self.parts], self._member)

    def _member(self, part: int, place: int) -> tuple[TileSet, str]:
        source, keys = self.parts[part]
        return source, keys[place]


def few(members: Members, shots: int, seed: int) -> Members:
    """`shots` tiles of each class, drawn by `seed`; all of a class that has fewer.

    Raises:
        MapexError: the labels are not one class per tile.
    """
    by_class: dict[int, list[tuple[TileSet, str]]] = {}
    for source, key in members:
        label = source.label(key)
        if not isinstance(label, int):
            found = "no label" if label is None else f"a {source.task} label"
            raise MapexError(f"data.shots needs one class per tile; tile {key} has {found}.")
        by_class.setdefault(label, []).append((source, key))
    rng = np.random.default_rng(seed)
    chosen: dict[TileSet, list[str]] = {source: [] for source, _ in members.parts}
    for _, tiles in sorted(by_class.items()):
        for index in sorted(rng.permutation(len(tiles))[:shots].tolist()):
            source, key = tiles[index]
            chosen[source].append(key)
    return Members(tuple(chosen.items()))
