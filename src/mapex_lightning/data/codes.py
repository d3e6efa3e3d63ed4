"""Class indexes out of the values that masks are stored with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mapex_lightning.errors import MapexError
from mapex_lightning.tiles import IGNORED


def class_indexes(stored: np.ndarray, codes: Mapping[int, int], refusal: Callable[[str], MapexError]) -> np.ndarray:
    """The class index of every pixel.

    Args:
        stored: values of any shape; NaN becomes `IGNORED`.
        codes: the class index of each value, or `IGNORED`.
        refusal: the error for a value, as text, that is none of these.

    Returns:
        The same shape, int64.

    Raises:
        MapexError: what `refusal` makes.
    """
    values, at = np.unique(stored, return_inverse=True)
    for value in values[~np.isnan(values)]:
        if value not in codes:
            raise refusal(f"{value:.15g}")
    indexes: np.ndarray = np.array([codes.get(value, IGNORED) for value in values], dtype=np.int64)
    return indexes[at].reshape(stored.shape)
