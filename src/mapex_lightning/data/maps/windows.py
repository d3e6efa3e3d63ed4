"""The windows of a scene as tiles: what ``mapex predict`` reads to make a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from mapex_lightning.data.ground import TOLERANCE
from mapex_lightning.data.maps.plan import Plan
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.scenes.scene import STORED, Reading, Scene, how_read
from mapex_lightning.data.transforms import alignment
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile, Tiles, collate

Cell = Literal["pixel", "patch", "window"]
"""What a cell of a map is: a pixel has a class of its own, a patch its features, a window its label."""


class Windows(Dataset[Tile]):
    """Square windows of a scene, whose cells together are a map of it.

    The grid is that of the file of the finest sensor, the first among equals; the other sensors are warped onto it,
    whatever the size of their pixels.
    Where the model reads a finer sensor that the scene lacks, the grid is as much finer.

    Args:
        scenes: the files of each sensor, by the name of the modality.
        modalities: all that the model reads; those without a scene are absent.
        side: pixels of the finest modality along a window.
        overlap: the share of a window that the next one covers again, 0 or more and less than 1.
        cell: what a cell of the map is. Of ``window`` it is as large as the step from one window to the next, and lies
            in the middle of its window.
        patch: side of the encoder's patches in pixels of the finest modality. Windows with a class per pixel do not
            begin at multiples of it: a model's patches show in what it predicts, and fade where they do not coincide.

    Attributes:
        grid: the pixels.
        cells: the cells of the map, from the same corner.
        step: pixels of the grid along a cell.
        plan: the windows, in cells.
        margin: pixels from a window's corner to its first cell.

    Raises:
        MapexError: a scene is none of the modalities, lacks a band, cannot be read, or the finest sensor has pixels
            of another size than its modality.
    """

    def __init__(
        self,
        scenes: Mapping[str, Scene],
        modalities: Sequence[Modality],
        side: int,
        overlap: float,
        cell: Cell,
        patch: int,
    ) -> None:
        if not 0 <= overlap < 1:
            raise MapexError(f"data.overlap is a share of a window, from 0 to less than 1; found {overlap:g}.")
        self.scenes, self.modalities, self.side = scenes, tuple(modalities), side
        self.gsd = min(modality.gsd for modality in modalities)
        self.grid = self._grid()
        unit = round(alignment(modalities) / self.gsd)
        if side % lcm(unit, patch):
            raise MapexError(
                f"A window of {side} pixels is no multiple of {lcm(unit, patch)}, at which patches of {patch} pixels "
                "and pixels of all sensors begin; choose another data.size."
            )
        self.step, self.margin = 1, 0
        wanted = round(side * (1 - overlap))
        match cell:
            case "pixel":
                stride = wanted if overlap == 0 else _between_patches(wanted, unit, patch)
            case "patch":
                self.step, unit = patch, lcm(unit, patch)
                stride = max(unit, wanted // unit * unit)
            case "window":
                stride = self.step = max(unit, wanted // unit * unit)
                self.margin = (side - stride) // 2 // unit * unit
        self.cells = self.grid.scaled(self.step)
        in_cells = (1, 1, 1) if cell == "window" else (pixels // self.step for pixels in (side, stride, unit))
        self.plan = Plan.of(self.cells.height, self.cells.width, *in_cells)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.plan)

    def __getitem__(self, number: int) -> Tile:
        """A window with those sensors that saw any of it; it may be none. Its name is its number."""
        top, left = (first * self.step - self.margin for first in self.plan.corner(number))
        part = self.grid.window(top, left, self.side, self.side)
        images = {}
        for modality in self.modalities:
            if modality.name in self.scenes:
                pixels = part.scaled(modality.gsd / self.gsd)
                image = self.scenes[modality.name].read(modality.bands, pixels)
                if np.isfinite(image).any():
                    images[modality.name] = image
        return Tile(str(number), images)

    def said(self) -> list[str]:
        """How the files of each sensor are read, a line each."""
        first = self.grid.window(0, 0, self.side, self.side)
        return [
            how_read(modality, self.scenes[modality.name], first.scaled(modality.gsd / self.gsd))
            for modality in self.modalities
            if modality.name in self.scenes
        ]

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
        finest = min(here, key=lambda modality: modality.gsd)
        scene = self.scenes[finest.name]
        grid = scene.grid_of(finest.bands)
        if abs(grid.gsd / finest.gsd - 1) > TOLERANCE:
            raise MapexError(
                f"{scene.files[0]} has pixels of {grid.gsd:.3g} m, and the model reads {finest.name} at "
                f"{finest.gsd:g} m, the finest here. Warp it to that first, for instance with gdalwarp -tr."
            )
        return grid.scaled(self.gsd / finest.gsd)


def scenes_of(
    files: Mapping[str, Sequence[str]] | Sequence[str], modalities: Sequence[Modality], reading: Mapping[str, Reading]
) -> dict[str, Scene]:
    """The scene of each sensor that has files.

    Args:
        files: of each sensor by its name, or those of the only one.
        modalities: all that the model reads.
        reading: of a sensor's files, by its name.

    Raises:
        MapexError: files are nobody's.
    """
    names = [modality.name for modality in modalities]
    if not isinstance(files, Mapping):
        if len(names) > 1:
            raise MapexError(
                f"The model reads {', '.join(names)}: say which files are whose, such as "
                f"--data.scene {names[0]}={files[0]}."
            )
        files = {names[0]: files}
    for name in files:
        if name not in names:
            raise unknown("sensor", name, names, "Give files of sensors that the model reads")
    return {
        one.name: Scene(
            [Path(file) for file in files[one.name]], one.bands, reading.get(one.name, STORED), unit=one.unit
        )
        for one in modalities
        if one.name in files
    }


def _between_patches(wanted: int, unit: int, patch: int) -> int:
    """Pixels from one window to the next: about as wanted, a multiple of the unit, and far from one of the patch."""
    first = max(unit, wanted // unit * unit)
    strides = range(first, min(first - 1, max(0, wanted - patch)), -unit)  # of a unit above the patch, the first alone
    return min(strides, key=lambda stride: abs(stride % patch - patch / 2))
