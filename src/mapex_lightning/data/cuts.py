"""Tiles of one extent out of those of data sets: what a DataLoader's workers read."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from mapex_lightning.data.packed.batches import PackedMembers, Stored, gathered
from mapex_lightning.data.tileset import TileSet
from mapex_lightning.data.transforms import Drawn, crop, dihedral, draws
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile


class BadTileWarning(UserWarning):
    """A tile could not be read in training and another one took its place."""


class Cuts(Dataset[Tile]):
    """Tiles of one extent, cut out of those of some data sets.

    Args:
        members: each tile as data set and key.
        modalities: the sensors to read, as far as a data set offers them.
        extent: side in metres.
        augment: random crops, flips and rotations, a function of (seed, epoch, index); otherwise the centre.
        most_bad: share of tiles read that may be unreadable before that is an error; 0 allows none.
        seed: of the augmentations.
    """

    def __init__(
        self,
        members: Sequence[tuple[TileSet, str]],
        modalities: Sequence[Modality],
        extent: float,
        augment: bool,
        most_bad: float,
        seed: int,
    ) -> None:
        self.members, self.modalities, self.extent = members, modalities, extent
        self.augment, self.most_bad, self.seed = augment, most_bad, seed
        self.read = self.bad = 0
        self.offered: dict[TileSet, list[Modality]] = {}

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.members)

    def __getitem__(self, at: tuple[int, int]) -> Tile:
        """The tile at (epoch, index), or where it cannot be used the next one that can."""
        epoch, index = at
        for step in range(len(self)):
            self.read += 1
            try:
                return self._cut(epoch, (index + step) % len(self))
            except MapexError as error:
                self.bad += 1
                if self.most_bad == 0:
                    raise
                # The first few may be unlucky: a share means nothing before some have been read.
                if self.bad > max(3.0, self.most_bad * self.read):
                    raise MapexError(
                        f"{self.bad} of {self.read} tiles could not be read, more than "
                        f"data.most_bad={self.most_bad:g}; the last: {error}"
                    ) from error
                key = self.members[(index + step) % len(self)][1]
                warnings.warn(f"Tile {key} is skipped: {error}", BadTileWarning, stacklevel=2)
        raise MapexError("No tile of the data set can be read.")

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[Tile] | Stored:
        """The tiles at several (epoch, index) of one epoch: as they are stored, where some of them are packed."""
        if not self._packed:
            return [self[at] for at in places]
        indexes = np.array([index for _, index in places])
        found = self._packed.parts(indexes, draws(self.seed, places[0][0], indexes) if self.augment else None)
        others = np.ones(len(places), dtype=bool)
        for part in found:
            others[part.places] = False
        tiles = {row: self[places[row]] for row in np.flatnonzero(others).tolist()}
        self.read += len(places) - len(tiles)
        return gathered(found, tiles, self.modalities, self.extent)

    @functools.cached_property
    def _packed(self) -> PackedMembers:
        return PackedMembers(self.members, self.modalities, self.extent)

    def _cut(self, epoch: int, index: int) -> Tile:
        source, key = self.members[index]
        if source not in self.offered:
            self.offered[source] = [modality for modality in self.modalities if source.offers(modality)]
        tile = source.read(key, self.offered[source])
        rng = Drawn(draws(self.seed, epoch, np.array([index]))[0]) if self.augment else None
        cut = crop(tile, self.modalities, self.extent, rng)
        if not any(np.isfinite(image).any() for image in cut.images.values()):
            raise MapexError(f"Tile {key} has no valid pixel in the crop; leave it out of the data set.")
        return cut if rng is None else dihedral(cut, rng)
