"""Small data sets: synthetic tiles in which no sensor is missing, and folders of tiles of one value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapex_lightning.data import raster
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.modality import MODALITIES

PLACE = GeoReference("EPSG:32632", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))
WHOLE = {"train": 6, "val": 4, "test": 2}


def world(**settings: Any) -> Synthetic:
    """A small synthetic set in which no sensor is missing."""
    return Synthetic(**({"size": 8, "missing": 0.0} | WHOLE | settings))


def folder(
    path: Path,
    splits: Sequence[str],
    *,
    sensor: str = "s1",
    labels: Sequence[str] | None = None,
    damaged: Sequence[int] = (),
    side: int = 8,
    place: GeoReference | None = PLACE,
) -> Folder:
    """Tiles t0, t1, ... of one sensor, tile i filled with i; a damaged one has lost its file."""
    path.mkdir(parents=True, exist_ok=True)
    bands = MODALITIES[sensor].bands
    lines = [f"tile,split,label,{sensor}"]
    for number, split in enumerate(splits):
        label = "x" if labels is None else labels[number]
        lines.append(f"t{number},{split},{label},t{number}.tif")
        image = np.full((len(bands), side, side), number, dtype=np.float32)
        raster.write(path / f"t{number}.tif", image, bands, place)
    for number in damaged:
        (path / f"t{number}.tif").unlink()
    (path / "tiles.csv").write_text("\n".join(lines) + "\n")
    return Folder(path / "tiles.csv", "multiclass")
