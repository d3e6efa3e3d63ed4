"""Decibels: ten times the logarithm of power, and of nothing else."""

from __future__ import annotations

import numpy as np

from mapex_lightning.data.decibels import decibels


def test_decibels_of_what_is_no_power_are_nan() -> None:
    power = np.array([100.0, 1.0, 0.1, 0.0, -1.0, np.nan], dtype=np.float32)
    found = decibels(power)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [20, 0, -10, np.nan, np.nan, np.nan], rtol=1e-6)
