"""Blending: what windows agree on stays, however they are cut and shared out, and memory does not grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.data.maps.blend import Blender
from mapex_lightning.data.maps.plan import Plan
from tests.builders import steady
from tests.data.maps.test_plan import plans


def cut(plan: Plan, number: int, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a window sees of an image (K, H, W), and which of its cells lie inside and are finite."""
    top, left = plan.corner(number)
    padding = [(0, 0), (0, plan.side), (0, plan.side)]
    seen = np.pad(image, padding, constant_values=np.nan)[:, top : top + plan.side, left : left + plan.side]
    return seen, np.isfinite(seen).all(0)


def blended(plan: Plan, image: np.ndarray, world: int = 1, noise: float = 0.0) -> np.ndarray:
    """An image cut into windows, each of them changed by some noise of its own, and put together again."""
    made = np.full(image.shape, 7.0, dtype=np.float32)

    def write(top: int, rows: np.ndarray) -> None:
        made[:, top : top + rows.shape[1]] = rows

    for rank in range(world):
        share = plan.share(rank, world)
        blender = Blender(plan, len(image), write, share.rows)
        for number in share.windows:
            values, valid = cut(plan, number, image)
            if valid.any():
                blender.add(number, values + noise * np.random.default_rng(number).normal(), valid)
        blender.close()
    return made


def image_of(plan: Plan) -> np.ndarray:
    """Two bands, a tenth of the cells invalid and the upper left corner empty."""
    rng = np.random.default_rng(plan.height * 100 + plan.width)
    image = rng.normal(size=(2, plan.height, plan.width)).astype(np.float32)
    image[:, rng.random((plan.height, plan.width)) < 0.1] = np.nan
    image[:, : plan.height // 2, : plan.width // 2] = np.nan
    return image


@given(plans())
@steady
def test_windows_that_agree_are_put_together_as_they_were(plan: Plan) -> None:
    image = image_of(plan)
    np.testing.assert_allclose(blended(plan, image), image, rtol=1e-5)


@given(plans(), st.integers(2, 4))
@steady
def test_the_number_of_processes_changes_no_bit(plan: Plan, world: int) -> None:
    image = image_of(plan)
    np.testing.assert_array_equal(blended(plan, image, world, noise=1.0), blended(plan, image, noise=1.0))


@given(plans())
@steady
def test_a_blended_value_lies_between_those_of_the_windows(plan: Plan) -> None:
    flat = np.zeros((1, plan.height, plan.width), dtype=np.float32)
    noises = [np.random.default_rng(number).normal() for number in range(len(plan))]
    found = blended(plan, flat, noise=1.0)
    assert min(noises) - 1e-5 <= found.min() <= found.max() <= max(noises) + 1e-5


def test_a_seam_is_a_slope_from_one_window_to_the_next() -> None:
    plan = Plan.of(8, 12, side=8, stride=4)
    found: list[np.ndarray] = []
    blender = Blender(plan, 1, lambda top, rows: found.append(rows))
    for number in range(2):
        blender.add(number, np.full((1, 8, 8), float(number)), np.ones((8, 8), dtype=bool))
    blender.close()
    row = found[0][0, 0]
    assert row[:4].tolist() == [0.0] * 4
    assert row[8:].tolist() == [1.0] * 4
    assert np.all(np.diff(row[3:9]) > 0)


def test_a_value_that_does_not_count_may_be_anything() -> None:
    plan, found = Plan.of(4, 4, side=4, stride=4), []
    blender = Blender(plan, 1, lambda top, rows: found.append(rows))
    valid = np.arange(16).reshape(4, 4) > 3
    blender.add(0, np.where(valid, 5.0, np.inf)[None], valid)
    blender.close()
    np.testing.assert_allclose(found[0][0], np.where(valid, 5.0, np.nan), rtol=1e-6)


def held(height: int) -> int:
    """Bytes at the most while a map of that height is made."""
    plan = Plan.of(height, 64, side=16, stride=8)
    window, valid = np.ones((3, 16, 16), dtype=np.float32), np.ones((16, 16), dtype=bool)
    tracemalloc.start()
    blender = Blender(plan, 3, lambda top, rows: None)
    for number in range(len(plan)):
        if not height // 4 < plan.corner(number)[0] < height // 2:  # a lake of nodata as long as a quarter of the scene
            blender.add(number, window, valid)
    blender.close()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_scene() -> None:
    held(64)
    assert held(3200) == pytest.approx(held(320), rel=0.1)
