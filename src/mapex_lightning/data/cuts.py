"""Tiles of one extent out of those of data sets: what a DataLoader's workers read."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from mapex_lightning.data.packed.batches import PackedMembers, Stored, gathered
from mapex_lightning.data.tileset import TileSet
from mapex_lightning.data.transforms import Drawn, crop, dihedral, draws, parts, valid
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
        whole: a batch holds all parts of its tiles instead, which are then more than were asked for where tiles are
            larger than the extent; see `mapex_lightning.data.transforms.parts`. Not together with `augment`.
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
        *,
        whole: bool = False,
    ) -> None:
        assert not (augment and whole)
        self.whole = whole
        self.members, self.modalities, self.extent = members, modalities, extent
        self.augment, self.most_bad, self.seed = augment, most_bad, seed
        self.read = self.bad = 0
        self.offered: dict[TileSet, list[Modality]] = {}

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.members)

    def __getitem__(self, at: tuple[int, int] | int) -> Tile:
        """The tile at (epoch, index), or where it cannot be used the next one that can; an index alone is of epoch 0.

        With ``trainer.overfit_batches`` Lightning takes indexes alone: the same tiles, in the same crops, every epoch.
        """
        epoch, index = _in_epoch(at)
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

    def __getitems__(self, at: Sequence[tuple[int, int] | int]) -> list[Tile] | Stored:
        """The tiles at several (epoch, index) of one epoch: as they are stored, where some of them are packed."""
        places = [_in_epoch(one) for one in at]
        if self.whole and not self._packed.fit:
            return [part for _, index in places for part in self.parts(index)]
        if not self._packed:
            return [self[place] for place in places]
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

    def parts(self, index: int) -> list[Tile]:
        """Those parts of a tile that have a valid pixel, in their order.

        Raises:
            MapexError: the tile cannot be read, or has no valid pixel.
        """
        tile = self._read(index)
        found = [part.tile for part in parts(tile, self.modalities, self.extent) if part.valid]
        if not found:
            raise MapexError(f"Tile {tile.name} has no valid pixel; leave it out of the data set.")
        return found

    def _read(self, index: int) -> Tile:
        source, key = self.members[index]
        if source not in self.offered:
            self.offered[source] = [modality for modality in self.modalities if source.offers(modality)]
        return source.read(key, self.offered[source])

    def _cut(self, epoch: int, index: int) -> Tile:
        tile = self._read(index)
        rng = Drawn(draws(self.seed, epoch, np.array([index]))[0]) if self.augment else None
        cut = crop(tile, self.modalities, self.extent, rng)
        if not valid(cut):
            raise MapexError(f"Tile {tile.name} has no valid pixel in the crop; leave it out of the data set.")
        return cut if rng is None else dihedral(cut, rng)


def _in_epoch(at: tuple[int, int] | int) -> tuple[int, int]:
    return (0, at) if isinstance(at, int) else at
