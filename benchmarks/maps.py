"""What does overlap bring to a map? One synthetic scene, mapped with several, against its true cover.

    mapex fit --config segment.yaml --model.encoder nano
    python -m benchmarks.maps [--ckpt FILE] [--places N M] [--overlaps 0 0.25 0.5]

The scene is a mosaic of N x M landscapes of 5 km, each drawn for itself: their own straight borders are true ones.
Beyond a slanting edge it is nodata. Synthetic, so no evidence of quality: it shows seams.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import table
from mapex_lightning.__main__ import main as mapex
from mapex_lightning.data import raster
from mapex_lightning.data.sets.synthetic import landscape
from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.modality import MODALITIES
from mapex_lightning.tiles import IGNORED

SIDE = 500
"""Pixels along a landscape."""

WINDOW, PATCH = 64, 8
"""Pixels along a window of segment.yaml, and along a patch of its encoder."""

PLACE = GeoReference("EPSG:32632", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))


class Quality(NamedTuple):
    """How good a map is; all are shares.

    Attributes:
        right: pixels of the right class.
        border: the same, of the two outermost pixels of windows that do not overlap.
        at_windows: neighbouring pixels of a row that differ, where windows that do not overlap meet.
        at_patches: the same, at other borders of patches.
        elsewhere: the same, inside patches.
    """

    right: float
    border: float
    at_windows: float
    at_patches: float
    elsewhere: float


def write_scene(folder: Path, rows: int, columns: int) -> np.ndarray:
    """Writes ``s1.tif`` and ``s2.tif``, and returns the true cover (H, W), `IGNORED` where the scene is nodata."""
    images = {name: np.zeros((len(MODALITIES[name].bands), rows * SIDE, columns * SIDE), np.float32) for name in SEEN}
    cover = np.zeros((rows * SIDE, columns * SIDE), dtype=np.int64)
    for row, column in np.ndindex(rows, columns):
        rng = np.random.default_rng((77, row, column))
        place = landscape.landscape(rng, SIDE)
        part = (slice(row * SIDE, (row + 1) * SIDE), slice(column * SIDE, (column + 1) * SIDE))
        cover[part] = place.cover
        for name, see in SEEN.items():
            images[name][:, *part] = see(place, rng)
    y, x = np.mgrid[: rows * SIDE, : columns * SIDE]
    outside = x + y / 4 > columns * SIDE
    cover[outside] = IGNORED
    for name, image in images.items():
        image[:, outside] = np.nan
        raster.write(folder / f"{name}.tif", image, MODALITIES[name].bands, PLACE)
    return cover


SEEN = {"s1": landscape.sentinel1, "s2": landscape.sentinel2}


def quality(found: np.ndarray, cover: np.ndarray) -> Quality:
    """How good a map (H, W) is, where there is a scene."""
    valid = cover != IGNORED
    y, x = np.indices(cover.shape)
    inside = np.minimum.reduce([axis % WINDOW for axis in (y, x)] + [WINDOW - 1 - axis % WINDOW for axis in (y, x)])
    right, differ, pairs = found == cover, found[:, 1:] != found[:, :-1], valid[:, 1:] & valid[:, :-1]
    at = np.broadcast_to(np.arange(1, cover.shape[1]), pairs.shape)
    meets, patch = at % WINDOW == 0, at % PATCH == 0
    changes = (_share(differ, pairs & where) for where in (meets, patch & ~meets, ~patch))
    return Quality(_share(right, valid), _share(right, valid & (inside < 2)), *changes)


def _share(true: np.ndarray, where: np.ndarray) -> float:
    return float(true[where].mean()) if where.any() else 0.0


def main(words: Sequence[str] | None = None) -> None:
    """Maps the scene with every overlap and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="by default the best of the newest run of segment.yaml")
    parser.add_argument("--places", type=int, nargs=2, default=(3, 4), metavar=("N", "M"))
    parser.add_argument("--overlaps", type=float, nargs="+", default=(0.0, 0.25, 0.5))
    known, settings = parser.parse_known_args(words)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cover = write_scene(folder, *known.places)
        command = ["predict", "--config", "segment.yaml", "--data.scene", *(f"{s}={folder / s}.tif" for s in SEEN)]
        command += ["--out", str(folder / "map.tif"), *(["--ckpt", known.ckpt] if known.ckpt else []), *settings]
        maps = {"the truth": cover}
        for overlap in known.overlaps:
            if mapex([*command, "--data.overlap", str(overlap)]):
                raise SystemExit(2)
            maps[f"overlap {overlap:g}"] = raster.read_mask(folder / "map.tif")
        for title, found in maps.items():
            lines.append([title, *(f"{100 * share:.1f}" for share in quality(found, cover))])
    head = ["map", "right", "right at window borders", "changes there", "changes at patch borders", "changes elsewhere"]
    print(table(head, lines))


if __name__ == "__main__":
    main()
