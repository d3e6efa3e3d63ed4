"""The embedded default: a synthetic data set that needs no download."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mapex_lightning.data.sets.sensors import Sensor, holds, sensor_of
from mapex_lightning.data.sets.synthetic import landscape
from mapex_lightning.data.tileset import SPLITS, TASKS, Split, Task, TileSet
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import MODALITIES, Modality
from mapex_lightning.tiles import Target, Tile

SENSORS = {
    name: Sensor(MODALITIES[name].bands, MODALITIES[name].unit, MODALITIES[name].gsd)
    for name in ("s1", "s2", "rgb", "dem")
}
_SEES = {
    "s1": landscape.sentinel1,
    "s2": landscape.sentinel2,
    "rgb": landscape.true_colour,
    "dem": landscape.elevation,
}
_SHARE = 0.05
"""A cover is a label of a tile from this share of its area on."""


class Synthetic(TileSet):
    """Synthetic scenes of ten land covers seen by four synthetic sensors, made on the fly.

    For trying things out, for tests and for comparing sensors: some covers differ in radar alone and some in the
    short-wave infrared alone (see `landscape`), so no sensor suffices and fusion gains. Results on it say nothing
    about real satellites. A tile depends on (seed, split, index) alone, and each sensor's pixels not on which other
    sensors are read.

    Modalities: s1, s2, rgb, dem, and any whose bands are among one of theirs in the same unit at 10 m.

    Args:
        task: ``multiclass`` (the theme, which covers at least half of the tile), ``multilabel`` (every cover of at
            least 5 % of the area) or ``segmentation`` (the cover of every pixel).
        train: tiles in the training split.
        val: tiles in the validation split.
        test: tiles in the test split.
        size: pixels of 10 m along a tile's side.
        missing: probability that a sensor is missing in a tile; a tile keeps at least one of the four.
        seed: another seed is another world.

    Raises:
        MapexError: an argument is out of range.
    """

    task: Task = "multiclass"

    def __init__(
        self,
        task: Task = "multiclass",
        train: int = 2000,
        val: int = 256,
        test: int = 512,
        size: int = 64,
        missing: float = 0.1,
        seed: int = 0,
    ) -> None:
        if task not in TASKS:
            raise unknown("task", task, TASKS)
        if min(train, val, test) < 0 or size < 8 or not 0 <= missing <= 1 or seed < 0:
            raise MapexError(
                "Synthetic needs train, val, test and seed of 0 or more, size of 8 or more and missing between 0 and "
                f"1; found {train=}, {val=}, {test=}, {size=}, {missing=}, {seed=}."
            )
        self.task = task
        self.root = Path()
        self.size, self.missing, self.seed = size, missing, seed
        self.counts: dict[Split, int] = {"train": train, "val": val, "test": test}

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten covers."""
        return tuple(cover.name for cover in landscape.COVERS)

    def offers(self, modality: Modality) -> bool:
        """Whether its bands are among those of one sensor, in the same unit."""
        return any(holds(sensor, modality) for sensor in SENSORS.values())

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        """Ids such as ``train-000017``.

        Raises:
            MapexError: a modality is none of the synthetic sensors'.
        """
        keys = [f"{split}-{index:06d}" for index in range(self.counts[split])]
        if modalities is None:
            return keys
        wanted = {sensor_of(modality, SENSORS, "Synthetic") for modality in modalities}
        return [key for key in keys if wanted & self._present(key)]

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One synthetic tile: images (C, size, size) and its label.

        Raises:
            MapexError: the key or a modality is unknown.
        """
        place = landscape.landscape(self._rng(key, "place"), self.size)
        present = self._present(key)
        seen: dict[str, np.ndarray] = {}
        images = {}
        for modality in modalities:
            sensor = sensor_of(modality, SENSORS, "Synthetic")
            if sensor not in present:
                continue
            if sensor not in seen:
                seen[sensor] = _SEES[sensor](place, self._rng(key, sensor))
            images[modality.name] = seen[sensor][[SENSORS[sensor].bands.index(band) for band in modality.bands]]
        return Tile(key, images, self._target(key, place.cover))

    def label(self, key: str) -> Target:
        """The label; that of ``multiclass`` costs no landscape.

        Raises:
            MapexError: the key is unknown.
        """
        if self.task == "multiclass":
            return landscape.theme(self._rng(key, "place"))
        return self._target(key, landscape.landscape(self._rng(key, "place"), self.size).cover)

    def _target(self, key: str, cover: np.ndarray) -> Target:
        match self.task:
            case "multiclass":
                return landscape.theme(self._rng(key, "place"))
            case "multilabel":
                shares = np.bincount(cover.ravel(), minlength=len(self.classes)) / cover.size
                return (shares >= _SHARE).astype(np.float32)
            case "segmentation":
                return cover

    def _present(self, key: str) -> set[str]:
        """The sensors that were there; the last one is never lost."""
        rng = self._rng(key, "present")
        names = list(SENSORS)
        lost = rng.random(len(names)) < self.missing
        lost[int(rng.integers(len(names)))] &= not lost.all()
        return {name for name, gone in zip(names, lost, strict=True) if not gone}

    def _rng(self, key: str, stream: str) -> np.random.Generator:
        """A stream of random numbers of its own for each part of a tile."""
        found = re.fullmatch(r"(train|val|test)-(\d+)", key)
        if found is None or int(found[2]) >= self.counts[_SPLIT[found[1]]]:
            raise MapexError(
                f"Synthetic has no tile {key!r}. Its tiles are named like train-000000, with "
                + ", ".join(f"{count} in {split}" for split, count in self.counts.items())
                + "."
            )
        streams = ("place", "present", *SENSORS)
        return np.random.default_rng((self.seed, SPLITS.index(_SPLIT[found[1]]), int(found[2]), streams.index(stream)))


_SPLIT: dict[str, Split] = {split: split for split in SPLITS}
