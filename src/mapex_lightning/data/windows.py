"""The windows of a scene as tiles: what ``mapex predict`` reads to make a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm

import numpy as np
from torch.utils.data import Dataset

from mapex_lightning.data.grid import Grid
from mapex_lightning.data.plan import Plan
from mapex_lightning.data.scene import Scene
from mapex_lightning.data.transforms import alignment
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile, Tiles, collate

TOLERANCE = 0.25
"""How far the pixels of a file may differ from the ground sampling distance of the model, as a share of it."""


class Windows(Dataset[Tile]):
    """Square windows of a scene, whose cells together are a map of it.

    The grid is that of the file of the finest sensor, the first among equals; the other sensors are warped onto it.
    Where the model reads a finer sensor that the scene lacks, the grid is as much finer.

    Args:
        scenes: the files of each sensor, by the name of the modality.
        modalities: all that the model reads; those without a scene are absent.
        side: pixels of the finest modality along a window.
        overlap: the share of a window that the next one covers again, 0 or more and less than 1.
        cell: pixels of the grid along a cell of the map: 1 for a class per pixel, the patch for features. None is a
            label per window: cells are as large as the step from one window to the next, each in its window's middle.

    Attributes:
        grid: the pixels.
        cells: the cells of the map, from the same corner.
        plan: the windows, in cells.
        margin: pixels from a window's corner to its first cell.

    Raises:
        MapexError: a scene is none of the modalities, lacks a band, cannot be read, or has pixels of another size than
            the modality.
    """

    def __init__(
        self, scenes: Mapping[str, Scene], modalities: Sequence[Modality], side: int, overlap: float, cell: int | None
    ) -> None:
        if not 0 <= overlap < 1:
            raise MapexError(f"data.overlap is a share of a window, from 0 to less than 1; found {overlap:g}.")
        self.scenes, self.modalities, self.side = scenes, tuple(modalities), side
        self.gsd = min(modality.gsd for modality in modalities)
        self.grid = self._grid()
        unit = round(alignment(modalities) / self.gsd)
        if cell is None:
            self.cell = _stride(side, overlap, unit)
            self.margin = (side - self.cell) // 2 // unit * unit
            self.cells = scaled(self.grid, self.cell)
            self.plan = Plan.of(self.cells.height, self.cells.width, 1, 1)
        else:
            self.cell, self.margin = cell, 0
            self.cells = scaled(self.grid, cell)
            stride, unit = (pixels // cell for pixels in (_stride(side, overlap, lcm(unit, cell)), lcm(unit, cell)))
            self.plan = Plan.of(self.cells.height, self.cells.width, side // cell, stride, unit)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.plan)

    def __getitem__(self, number: int) -> Tile:
        """A window with those sensors that saw any of it; it may be none. Its name is its number."""
        top, left = (first * self.cell - self.margin for first in self.plan.corner(number))
        part = self.grid.window(top, left, self.side, self.side)
        images = {}
        for modality in self.modalities:
            if modality.name in self.scenes:
                pixels = scaled(part, modality.gsd / self.gsd)
                image = self.scenes[modality.name].read(modality.bands, pixels)
                if np.isfinite(image).any():
                    images[modality.name] = image
        return Tile(str(number), images)

    def batch(self, tiles: Sequence[Tile]) -> Tiles:
        """Windows as a batch, without those that no sensor saw anything of; of such alone, one is left."""
        seen = [tile for tile in tiles if tile.images] or [self._nothing(tiles[0].name)]
        return collate(seen, self.modalities, self.side * self.gsd)

    def _nothing(self, name: str) -> Tile:
        """A window without a valid pixel."""
        here = next(modality for modality in self.modalities if modality.name in self.scenes)
        side = round(self.side * self.gsd / here.gsd)
        return Tile(name, {here.name: np.full((len(here.bands), side, side), np.nan, dtype=np.float32)})

    def _grid(self) -> Grid:
        here = [modality for modality in self.modalities if modality.name in self.scenes]
        assert len(here) == len(self.scenes) > 0, self.scenes
        grids = {modality.name: self.scenes[modality.name].grid_of(modality.bands) for modality in here}
        for modality in here:
            found = grids[modality.name].gsd
            if abs(found / modality.gsd - 1) > TOLERANCE:
                raise MapexError(
                    f"{self.scenes[modality.name].files[0]} has pixels of {found:.3g} m, and the model reads "
                    f"{modality.name} at {modality.gsd:g} m. Warp it to that first, for instance with gdalwarp -tr."
                )
        finest = min(here, key=lambda modality: modality.gsd)
        return scaled(grids[finest.name], self.gsd / finest.gsd)


def scaled(grid: Grid, ratio: float) -> Grid:
    """The same ground in pixels that are `ratio` times as long; the last ones may reach beyond it."""
    a, b, c, d, e, f = grid.transform
    height, width = (int(np.ceil(round(side / ratio, 6))) for side in (grid.height, grid.width))
    return Grid(grid.crs, (a * ratio, b * ratio, c, d * ratio, e * ratio, f), height, width)


def _stride(side: int, overlap: float, unit: int) -> int:
    """Pixels from one window to the next: a multiple of the unit, as many as the overlap leaves."""
    if side % unit:
        raise MapexError(f"A window of {side} pixels is no multiple of {unit}; choose another data.size.")
    return max(unit, round(side * (1 - overlap)) // unit * unit)
