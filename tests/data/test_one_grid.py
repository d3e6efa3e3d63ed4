"""Bands of several resolutions on one grid."""

from __future__ import annotations

import numpy as np
import pytest

from mapex_lightning.data.one_grid import on_one_grid
from mapex_lightning.errors import MapexError


def image(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9999, (side, side)).astype(np.uint16)


@pytest.mark.parametrize("times", [1, 2, 3, 6])
def test_every_coarse_pixel_fills_its_square(times: int) -> None:
    coarse = image(12 // times)
    grid = on_one_grid({"fine": image(12), "coarse": coarse}, str)
    assert grid.shape == (2, 12, 12)
    assert grid.dtype == np.float32
    for row in range(12):
        for column in range(12):
            assert grid[1, row, column] == coarse[row // times, column // times]


def test_the_grid_can_be_finer_than_the_bands_that_are_asked_for() -> None:
    alone = on_one_grid({"coarse": image(6)}, str, side=12)
    np.testing.assert_array_equal(alone[0], on_one_grid({"fine": image(12), "coarse": image(6)}, str)[1])


def test_pixels_need_not_be_square() -> None:
    assert on_one_grid({"fine": np.ones((4, 9)), "coarse": np.ones((2, 3))}, str).shape == (2, 4, 9)


@pytest.mark.parametrize("side", [5, 13])
def test_sides_that_do_not_divide_are_refused_by_name(side: int) -> None:
    with pytest.raises(MapexError, match=f"Band odd has {side} rows and {side} columns, which do not fit the 12 x 12"):
        on_one_grid({"odd": image(side)}, lambda band: f"Band {band}", side=12)
