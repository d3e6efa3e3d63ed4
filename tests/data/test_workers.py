"""Work over processes: the same results in the same order, and the same sentence for an error."""

from __future__ import annotations

import numpy as np
import pytest

from mapex_lightning.data.workers import in_order
from mapex_lightning.errors import MapexError


def squared(number: int) -> dict[str, np.ndarray]:
    if number < 0:
        raise MapexError(f"{number} is negative.")
    return {"square": np.full(3, number**2)}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_as_they_are_and_in_order(workers: int) -> None:
    found = list(in_order(squared, range(7), workers))
    assert [type(result["square"]) for result in found] == [np.ndarray] * 7
    assert [int(result["square"][0]) for result in found] == [0, 1, 4, 9, 16, 25, 36]
    assert list(in_order(squared, [], workers)) == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_its_sentence_after_the_results_before_it(workers: int) -> None:
    results = in_order(squared, [3, -1, 2], workers)
    assert int(next(results)["square"][0]) == 9
    with pytest.raises(MapexError, match=r"^-1 is negative\.$"):
        next(results)
