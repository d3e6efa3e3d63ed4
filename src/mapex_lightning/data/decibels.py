"""Radar backscatter: from power to decibels."""

from __future__ import annotations

import numpy as np


def decibels(power: np.ndarray) -> np.ndarray:
    """Backscatter in dB, of the same shape and type; what is no power, 0 or less, is NaN."""
    return 10 * np.log10(np.where(power > 0, power, np.nan))
