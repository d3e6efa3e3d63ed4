"""A data set of tiles that a test makes, with all that may occur in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mapex_lightning.data.tileset import SPLITS, GeoReference, Split, Task, TileSet
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import IGNORED, Target, Tile

RADAR = Modality("s1", ("VV", "VH"), 10.0, "dB", (-12.0, -19.0), (5.0, 6.0), speckle=True)
OPTICAL = Modality("s2", ("B02", "B03", "B04", "B08"), 10.0, "reflectance x 10000", (1.0,) * 4, (1.0,) * 4)
HEIGHT = Modality("dem", ("elevation",), 20.0, "metres", (300.0,), (350.0,))
COLOUR = Modality("rgb", ("R", "G", "B"), 10.0, "8-bit", (90.0,) * 3, (50.0,) * 3)
SENSORS = (RADAR, OPTICAL, HEIGHT, COLOUR)


class Made(TileSet):
    """Tiles of radar (fractions), reflectance (uint16), heights (negative ones, holes) and colour (8 bits).

    Some sensors are missing at some places, some pixels are invalid, some tiles have no label, and none lies where
    another does.

    Args:
        task: what the labels are.
        count: tiles, most of them for training.
        side: pixels of 10 m.
        labelled: whether all tiles have a label.
    """

    task: Task = "multiclass"

    def __init__(self, task: Task = "multiclass", count: int = 14, side: int = 8, labelled: bool = True) -> None:
        self.task, self.count, self.side, self.labelled = task, count, side, labelled
        self.root = Path()

    @property
    def classes(self) -> tuple[str, ...]:
        return ("forest", "meadow", "water")

    def offers(self, modality: Modality) -> bool:
        return modality.name in {sensor.name for sensor in SENSORS}

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        wanted = SENSORS if modalities is None else modalities
        numbers = [number for number in range(self.count) if self._split(number) == split]
        having = [number for number in numbers if any(self._has(number, modality.name) for modality in wanted)]
        return [f"tile {number}, Straße" for number in having]

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        number = self._number(key)
        images = {m.name: self._image(number, m.name) for m in modalities if self._has(number, m.name)}
        return Tile(key, images, self.label(key))

    def label(self, key: str) -> Target | None:
        number = self._number(key)
        if not self.labelled and number % 3 == 0:
            return None
        match self.task:
            case "multiclass":
                return number % 3
            case "multilabel":
                return np.array([number % 2, 1, number % 3 == 0], dtype=np.float32)
            case "segmentation":
                rng = np.random.default_rng((number, 99))
                return rng.integers(IGNORED, 3, (self.side, self.side))

    def georeference(self, key: str) -> GeoReference | None:
        number = self._number(key)
        if number % 4 == 1:
            return None
        return GeoReference(f"EPSG:326{30 + number % 3}", (10.0, 0.0, 1000.5 * number, 0.0, -10.0, 5e6 + 1 / 3))

    def _split(self, number: int) -> Split:
        return SPLITS[0 if number % 7 < 5 else 1 if number % 7 == 5 else 2]

    def _number(self, key: str) -> int:
        return int(key.removeprefix("tile ").removesuffix(", Straße"))

    def _has(self, number: int, sensor: str) -> bool:
        return {"s1": number % 3 != 0, "s2": number % 4 != 3, "dem": number % 5 != 0, "rgb": True}[sensor]

    def _image(self, number: int, sensor: str) -> np.ndarray:
        rng = np.random.default_rng((number, *sensor.encode()))
        side = self.side
        image: np.ndarray
        match sensor:
            case "s1":
                image = rng.normal(-12.0, 5.0, (2, side, side))
            case "s2":
                image = rng.integers(0, 65536, (4, side, side))
            case "dem":
                image = rng.integers(-300 if number > 9 else 0, 2000 if number > 4 else 200, (1, side // 2, side // 2))
            case _:
                image = rng.integers(0, 256, (3, side, side))
        pixels = image.astype(np.float32)
        if sensor in ("s1", "dem") and number % 2:
            pixels[..., 0, :2] = np.nan
        return pixels
