"""Statistics are those of the pixels, however they were shared out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.statistics import Statistics, block, measure, with_statistics
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, Modality
from tests.builders import OPTICAL, RADAR, steady

SHARES = (0, 0.1, 2, 25, 50, 75, 98, 99.9, 100)


def of(*images: np.ndarray) -> Statistics:
    found = Statistics([f"b{band}" for band in range(len(images[0]))])
    for image in images:
        found.update(image)
    return found


def everything(found: Statistics) -> tuple[object, ...]:
    figures = (found.count, found.invalid, found.mean, found.std, found.minimum, found.maximum)
    return (*figures, *(found.percentile(share) for share in SHARES))


def ranked(image: np.ndarray, share: float) -> tuple[float, ...]:
    """The percentile by sorting; NumPy's own rounds 99.9 % of 3,000 up to 2,998."""
    found = []
    for band in image:
        values = np.sort(band[np.isfinite(band)])
        found.append(float(values[max(1, -(-round(share * 10) * len(values) // 1000)) - 1]))
    return tuple(found)


def floats(seed: int, scale: float, shape: tuple[int, ...] = (2, 30, 40), decades: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image: np.ndarray = (rng.standard_normal(shape) * scale * 10.0 ** rng.integers(-decades, decades, shape)).astype(
        np.float32
    )
    image[rng.random(shape) < 0.1] = np.nan
    return image


@steady
@given(
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
    split=st.integers(0, 6),
)
def test_any_order_and_any_grouping_give_the_same_to_the_last_bit(
    seeds: list[int], order: np.random.Generator, split: int
) -> None:
    images = [floats(seed, 1e3, (2, 6, 7), decades=1) for seed in seeds]
    whole = of(*images)
    order.shuffle(images)
    parts = [of(*part) for part in (images[:split], images[split:]) if part]
    merged = Statistics(whole.bands)
    for part in parts:
        merged.merge(part)
    assert everything(merged) == everything(whole)


def test_mean_and_deviation_survive_what_sums_of_floats_do_not() -> None:
    image = np.array([[[1e8, 1.0, -1e8, 1e-30]]], dtype=np.float32)
    assert of(image).mean == (0.25,)
    far = np.array([[[10_000_000.0, 10_000_001.0, 10_000_002.0]]], dtype=np.float32)
    assert of(far).std[0] == pytest.approx(np.sqrt(2 / 3), rel=1e-15)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_figures_are_those_of_numpy(scale: float) -> None:
    image = floats(3, scale)
    found = of(image)
    exact = image.astype(np.float64)
    np.testing.assert_allclose(found.mean, np.nanmean(exact, (1, 2)), rtol=1e-9)
    np.testing.assert_allclose(found.std, np.nanstd(exact, (1, 2)), rtol=1e-12)
    assert found.minimum == tuple(np.nanmin(exact, (1, 2)))
    assert found.maximum == tuple(np.nanmax(exact, (1, 2)))
    assert found.count == tuple(np.isfinite(image).sum((1, 2)))


@pytest.mark.parametrize(("low", "high"), [(0, 65_536), (-32_768, 32_768), (-9, 9)])
def test_percentiles_of_16_bit_data_are_exact(low: int, high: int) -> None:
    image = np.random.default_rng(0).integers(low, high, (2, 50, 60)).astype(np.float32)
    for share in SHARES:
        assert of(image).percentile(share) == ranked(image, share)


def test_percentiles_of_other_data_are_nearer_to_zero_by_less_than_they_promise() -> None:
    image = floats(5, 1.0)
    for share in SHARES:
        wanted = np.array(ranked(image, share))
        found = np.array(of(image).percentile(share))
        assert (np.abs(found) <= np.abs(wanted)).all()
        assert (np.abs(found - wanted) < np.abs(wanted) * 2.0**-15).all()


def test_what_is_not_finite_is_invalid_and_zero_is_a_value() -> None:
    found = of(np.array([[[np.nan, np.inf, 0.0, -0.0]], [[np.nan] * 4]], dtype=np.float32))
    assert found.count == (2, 0)
    assert found.invalid == (0.5, 1.0)
    assert found.mean[0] == found.minimum[0] == found.percentile(50)[0] == 0
    assert all(np.isnan(value[1]) for value in (found.mean, found.std, found.minimum, found.percentile(50)))


def test_a_set_gives_the_same_on_any_number_of_workers() -> None:
    source = Synthetic(train=5, size=8, missing=0.3)
    keys, sensors = source.keys("train"), [MODALITIES["s1"], MODALITIES["s2"]]
    alone, shared = (measure(source, keys, sensors, workers) for workers in (0, 2))
    assert {n: everything(s) for n, s in alone.statistics.items()} == {
        n: everything(s) for n, s in shared.statistics.items()
    }
    assert alone.statistics["s2"].count[0] == 64 * sum("s2" in source.read(key, sensors).images for key in keys)


def test_a_tile_that_cannot_be_read_is_named_and_the_others_count() -> None:
    source = Synthetic(train=2, size=8, missing=0)
    found = measure(source, ["train-000000", "train-000009"], [MODALITIES["s1"]])
    assert found.statistics["s1"].count == (64, 64)
    assert len(found.unread) == 1
    assert "train-000009" in found.unread[0]


@pytest.mark.parametrize("modality", [RADAR, OPTICAL, replace(OPTICAL, bands=("NO", "1", "~"), unit="8-bit")])
def test_the_block_is_the_modality_with_what_was_found(modality: Modality) -> None:
    found = Statistics(modality.bands)
    image = np.random.default_rng(0).normal(size=(len(modality.bands), 9, 9)).astype(np.float32)
    found.update(image)
    told = with_statistics(modality, found)
    assert [Modality.of(entry) for entry in yaml.safe_load(block(told))] == [told]
    np.testing.assert_allclose(told.mean, image.mean((1, 2)), rtol=1e-4)
    assert (told.bands, told.gsd, told.unit) == (modality.bands, modality.gsd, modality.unit)


@pytest.mark.parametrize(("value", "sentence"), [(7.0, "same value"), (np.nan, "no valid pixel")])
def test_a_band_without_deviation_is_refused_by_name(value: float, sentence: str) -> None:
    found = Statistics(RADAR.bands)
    found.update(np.stack([np.arange(9.0).reshape(3, 3), np.full((3, 3), value)]).astype(np.float32))
    with pytest.raises(MapexError, match=f"Band VH of s1 .*{sentence}"):
        with_statistics(RADAR, found)


def test_other_bands_and_shares_get_a_sentence() -> None:
    found = Statistics(["a", "b"])
    with pytest.raises(MapexError, match="2 bands"):
        found.update(np.zeros((3, 2, 2), np.float32))
    with pytest.raises(MapexError, match="cannot be merged"):
        found.merge(Statistics(["b", "a"]))
    with pytest.raises(MapexError, match="between 0 and 100"):
        found.percentile(101)
