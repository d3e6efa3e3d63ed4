"""Radar backscatter: from power to decibels, and back."""

from __future__ import annotations

import numpy as np

DECIBELS = "dB"
"""The unit of a modality that is in decibels."""


def decibels(power: np.ndarray) -> np.ndarray:
    """Backscatter in dB, of the same shape and type; what is no power, 0 or less, is NaN."""
    return 10 * np.log10(np.where(power > 0, power, np.nan))


def power(decibels: np.ndarray) -> np.ndarray:
    """Backscatter as power, of the same shape and type; what is not finite, such as the decibels of 0, is NaN."""
    return np.power(10, np.where(np.isfinite(decibels), decibels, np.nan) / 10, dtype=decibels.dtype)
