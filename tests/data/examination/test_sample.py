"""A sample is spread over a split, however early it ends."""

from __future__ import annotations

import pytest

from mapex_lightning.data.examination import sample
from mapex_lightning.data.examination.sample import Sample, spread
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.modality import MODALITIES


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 1000])
def test_every_number_comes_once(count: int) -> None:
    assert sorted(spread(count)) == list(range(count))


@pytest.mark.parametrize("taken", [2, 5, 16, 100])
def test_every_beginning_is_spread_over_all(taken: int) -> None:
    numbers = spread(1000)
    found = sorted(next(numbers) for _ in range(taken))
    gaps = [after - before for before, after in zip([0, *found], [*found, 1000], strict=True)]
    assert max(gaps) <= 2.1 * 1000 / taken


def test_pixels_are_those_of_the_tiles_that_were_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "LOOKED", 3)
    source = Synthetic(train=9, size=8, missing=0)
    found = Sample(source, "train", source.keys("train"), [MODALITIES["s1"]], 80.0, 60.0)
    assert (len(found.read), found.pixels["s1"].tiles, len(found.labels)) == (9, 3, 9)
    assert found.pixels["s1"].statistics.count == (3 * 64, 3 * 64)
