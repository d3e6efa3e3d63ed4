"""Codes of masks: every pixel gets the class of its value, or the value is named."""

from __future__ import annotations

import numpy as np
import pytest

from mapex_lightning.data.codes import class_indexes
from mapex_lightning.errors import MapexError
from mapex_lightning.tiles import IGNORED

CODES = {10: 0, 95: 1, 0: IGNORED}


@pytest.mark.parametrize("kind", ["uint8", "int16", "float32"])
def test_each_value_becomes_its_class(kind: str) -> None:
    stored = np.array([[10, 95], [0, 10]], dtype=kind)
    found = class_indexes(stored, CODES, MapexError)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [[0, 1], [IGNORED, 0]])


def test_what_does_not_count_goes_on_not_to_count() -> None:
    np.testing.assert_array_equal(class_indexes(np.array([0, np.nan, 95]), CODES, MapexError), [IGNORED, IGNORED, 1])


@pytest.mark.parametrize(
    ("value", "named"), [(20, "20"), (-1, "-1"), (1234567, "1234567"), (9.5, "9.5"), (np.inf, "inf")]
)
def test_a_value_without_a_class_is_named(value: float, named: str) -> None:
    with pytest.raises(MapexError, match=f"^found {named}$"):
        class_indexes(np.array([10, value]), CODES, lambda value: MapexError(f"found {value}"))
