"""Splits where authors publish none: they follow from a tile's name, so that no tile ever moves."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

from mapex_lightning.data.tileset import SPLITS, Split

_SHARES: dict[Split, float] = {"train": 0.6, "val": 0.2, "test": 0.2}


def share_of(name: str, seed: int = 0) -> float:
    """A number from 0 to 1 that follows from a name and a seed alone."""
    digest = blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(name: str, seed: int = 0, among: Sequence[Split] = SPLITS) -> Split:
    """The split of a tile: 60 % training, 20 % validation and 20 % test, up to chance.

    Args:
        name: of the tile.
        seed: another seed is another split.
        among: the splits that the tile could be in, which keep their proportion.
    """
    ends = list(accumulate(_SHARES[split] for split in among))
    place = share_of(name, seed) * ends[-1]
    return next(split for split, end in zip(among, ends, strict=True) if place < end)
