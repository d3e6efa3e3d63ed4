"""Co-registered pixels of several sensors, as a single tile and as a batch.

Axes: B tiles, C bands, H and W pixels. A pixel that is not finite is invalid (nodata): models mask it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality

Target = int | np.ndarray
"""A class index, a multi-hot vector (classes,) float32, or a mask (H, W) int64 in which -1 is ignored."""

IGNORED = -1
"""The class index of mask pixels that count neither for loss nor for metrics."""


@dataclass(frozen=True)
class Tile:
    """One place seen by the sensors that were there.

    Args:
        name: an id that is unique in its data set.
        images: per modality (C, H, W) float32 in the modality's unit; invalid pixels are NaN. A sensor that is
            missing at this place is simply not a key.
        target: the label, if there is one.
    """

    name: str
    images: dict[str, np.ndarray]
    target: Target | None = None


class Tiles(NamedTuple):
    """A batch. Every modality of the batch is a key of both mappings.

    Attributes:
        images: per modality (B, C, H, W) float32 in physical units, zeros where the sensor is absent.
        present: per modality (B,) bool.
        names: B ids, for messages and predictions; may be empty.
    """

    images: dict[str, Tensor]
    present: dict[str, Tensor]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, **images: Tensor) -> Tiles:
        """Tiles in which every given sensor is present: ``Tiles.of(s1=..., s2=...)``.

        Args:
            images: per modality (B, C, H, W).
        """
        return cls(
            dict(images),
            {name: torch.ones(image.shape[0], dtype=torch.bool, device=image.device) for name, image in images.items()},
        )

    @property
    def batch_size(self) -> int:
        """The number of tiles B."""
        return len(next(iter(self.present.values())))

    def valid_pixels(self, rows: int, columns: int) -> Tensor:
        """Which pixels of a grid over the tiles hold a valid value of any band of any sensor: (B, rows, columns) bool.

        Args:
            rows: of the grid.
            columns: of the grid, whose pixels take what the nearest of each sensor's say.
        """
        found = []
        for name, image in self.images.items():
            here = image.isfinite().any(1, keepdim=True) & self.present[name][:, None, None, None]
            found.append(F.interpolate(here.float(), (rows, columns), mode="nearest-exact").bool()[:, 0])
        return torch.stack(found).any(0)

    def only(self, names: Iterable[str]) -> Tiles:
        """The same tiles with those of the named modalities that they have, in that order."""
        kept = [name for name in names if name in self.images]
        return Tiles({n: self.images[n] for n in kept}, {n: self.present[n] for n in kept}, self.names)

    def rows(self, index: Tensor) -> Tiles:
        """Some of the tiles, by their numbers (b,) int64."""
        names = tuple(self.names[row] for row in index.tolist()) if self.names else ()
        return Tiles(
            {name: image[index] for name, image in self.images.items()},
            {name: here[index] for name, here in self.present.items()},
            names,
        )

    def parts(self, size: int) -> list[Tiles]:
        """The same tiles in batches of `size`, the last of what is left."""
        numbers = torch.arange(self.batch_size)
        return [self.rows(part) for part in numbers.split(size)]

    @property
    def seen(self) -> dict[str, Tensor]:
        """Which tiles have a valid pixel of each sensor: name to (B,) bool. One that is present may be all nodata."""
        return {name: here & self.images[name].isfinite().flatten(1).any(1) for name, here in self.present.items()}

    def to(self, device: torch.device) -> Tiles:
        """The same tiles on a device."""
        return Tiles(
            {name: image.to(device) for name, image in self.images.items()},
            {name: here.to(device) for name, here in self.present.items()},
            self.names,
        )


def drop_sensors(tiles: Tiles, probability: float, generator: torch.Generator) -> Tiles:
    """Takes sensors away from tiles at random, as if they had not been there; every tile that is seen stays seen.

    A model that is to work with missing sensors must see them missing in training (Input Sensor Dropout, arXiv
    2407.15512).

    Args:
        tiles: B tiles.
        probability: of each sensor of each tile.
        generator: of randomness, on the device of the tiles.
    """
    here = torch.stack(list(tiles.seen.values()), dim=1)
    luck = torch.rand(here.shape, generator=generator, device=here.device).masked_fill(~here, -1.0)
    stays = here & ((luck >= probability) | (luck == luck.amax(1, keepdim=True)))
    present = dict(zip(tiles.present, stays.unbind(1), strict=True))
    images = {name: image.masked_fill(~present[name][:, None, None, None], 0.0) for name, image in tiles.images.items()}
    return tiles._replace(images=images, present=present)


def collate(tiles: Sequence[Tile], modalities: Sequence[Modality], extent: float) -> Tiles:
    """Stacks tiles of equal extent into a batch; absent sensors become zeros with ``present=False``.

    Args:
        tiles: B tiles whose images all cover ``extent``.
        modalities: the modalities of the batch; other images of a tile are left out.
        extent: side of a tile in metres.

    Raises:
        MapexError: an image has another shape than its modality and the extent demand, or a tile has none of
            the modalities.
    """
    images: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for modality in modalities:
        side = round(extent / modality.gsd)
        shape = (len(modality.bands), side, side)
        stack = np.zeros((len(tiles), *shape), dtype=np.float32)
        here = np.zeros(len(tiles), dtype=bool)
        for row, tile in enumerate(tiles):
            image = tile.images.get(modality.name)
            if image is None:
                continue
            if image.shape != shape:
                raise MapexError(
                    f"Tile {tile.name}: modality {modality.name} must have shape {shape} (bands, rows, columns); "
                    f"found {image.shape}."
                )
            stack[row], here[row] = image, True
        images[modality.name], present[modality.name] = torch.from_numpy(stack), torch.from_numpy(here)
    empty = [tile.name for row, tile in enumerate(tiles) if not any(here[row] for here in present.values())]
    if empty:
        raise MapexError(
            f"Tile {empty[0]} has none of the modalities {', '.join(m.name for m in modalities)}; "
            "leave it out of the data set or add a modality that it has."
        )
    return Tiles(images, present, tuple(tile.name for tile in tiles))
