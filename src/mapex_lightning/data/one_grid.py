"""Bands of several resolutions on one grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mapex_lightning.errors import MapexError


def on_one_grid(bands: Mapping[str, np.ndarray], named: Callable[[str], str], side: int | None = None) -> np.ndarray:
    """Repeats coarse pixels until all bands lie on one grid: nearest neighbour, which invents no value.

    Args:
        bands: C images (h, w) of the same ground, by name, each at its own resolution.
        named: how a message calls a band.
        side: rows and columns of the grid; None is that of the finest band.

    Returns:
        Shape (C, H, W), float32.

    Raises:
        MapexError: the sides of a band do not divide those of the grid.
    """
    finest = [max(image.shape[axis] for image in bands.values()) for axis in (0, 1)]
    height, width = finest if side is None else (side, side)
    grid = np.empty((len(bands), height, width), dtype=np.float32)
    for fine, (band, image) in zip(grid, bands.items(), strict=True):
        rows, columns = height // image.shape[0], width // image.shape[1]
        if (image.shape[0] * rows, image.shape[1] * columns) != (height, width):
            raise MapexError(
                f"{named(band)} has {image.shape[0]} rows and {image.shape[1]} columns, which do not fit the "
                f"{height} x {width} pixels of its grid. Fetch or unpack it again."
            )
        fine[:] = image if rows == columns == 1 else image.repeat(rows, axis=0).repeat(columns, axis=1)
    return grid
