"""Decibels: ten times the logarithm of power, and of nothing else."""

from __future__ import annotations

import numpy as np

from mapex_lightning.data.decibels import decibels, power


def test_decibels_of_what_is_no_power_are_nan() -> None:
    stored = np.array([100.0, 1.0, 0.1, 0.0, -1.0, np.nan], dtype=np.float32)
    found = decibels(stored)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [20, 0, -10, np.nan, np.nan, np.nan], rtol=1e-6)


def test_power_is_what_decibels_were_made_of() -> None:
    found = power(np.array([20.0, 0.0, -10.0, np.nan, -np.inf, np.inf], dtype=np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [100, 1, 0.1, np.nan, np.nan, np.nan], rtol=1e-6)
