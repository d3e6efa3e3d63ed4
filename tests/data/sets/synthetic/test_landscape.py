"""Invented landscapes: covers that one sensor alone can tell apart, and sensors that see what they would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from mapex_lightning.data.sets.synthetic import landscape
from mapex_lightning.data.sets.synthetic.landscape import COVERS, Cover, Landscape
from mapex_lightning.modality import S2_BANDS

SIZE = 24
SWIR = [S2_BANDS.index(band) for band in ("B11", "B12")]


def drawn(seed: int) -> Landscape:
    return landscape.landscape(np.random.default_rng(seed), SIZE)


def named(name: str) -> Cover:
    return next(cover for cover in COVERS if cover.name == name)


def infrared_apart(cover: Cover) -> Cover:
    """The cover but for its name and what the short-wave infrared sees."""
    return cover._replace(name="", reflectance=tuple(np.delete(cover.reflectance, SWIR).tolist()))


def radar_apart(cover: Cover) -> Cover:
    """The cover but for its name and what radar sees."""
    return cover._replace(name="", backscatter=(0.0, 0.0), radar_rough=0.0)


@pytest.mark.parametrize(("one", "other"), [("forest", "flooded forest"), ("settlement", "gravel")])
def test_the_radar_pairs_differ_in_radar_and_in_nothing_else(one: str, other: str) -> None:
    assert radar_apart(named(one)) == radar_apart(named(other))
    assert named(one).backscatter != named(other).backscatter


@pytest.mark.parametrize(("one", "other"), [("burnt ground", "wet soil"), ("snow", "salt flat")])
def test_the_infrared_pairs_differ_in_two_bands_and_in_nothing_else(one: str, other: str) -> None:
    assert infrared_apart(named(one)) == infrared_apart(named(other))
    assert all(named(one).reflectance[at] != named(other).reflectance[at] for at in SWIR)


def test_a_landscape_is_a_function_of_its_generator() -> None:
    one, same, other = drawn(1), drawn(1), drawn(2)
    for field in fields(Landscape):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(same, field.name))
    assert not np.array_equal(one.height, other.height)


def test_the_theme_is_known_beforehand_and_covers_half_of_the_place() -> None:
    for seed in range(30):
        chief = landscape.theme(np.random.default_rng(seed))
        assert (drawn(seed).cover == chief).mean() >= 0.5


def test_every_cover_is_the_theme_of_some_place() -> None:
    assert {landscape.theme(np.random.default_rng(seed)) for seed in range(200)} == set(range(len(COVERS)))


def test_radar_is_blind_to_colour_and_texture() -> None:
    place = drawn(3)
    painted = replace(place, spectra=place.spectra * 2, texture=-place.texture)
    before, after = (landscape.sentinel1(one, np.random.default_rng(0)) for one in (place, painted))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("see", [landscape.sentinel2, landscape.true_colour, landscape.elevation])
def test_the_other_sensors_are_blind_to_backscatter(
    see: Callable[[Landscape, np.random.Generator], np.ndarray],
) -> None:
    place = drawn(3)
    louder = replace(place, backscatter=place.backscatter + 6)
    np.testing.assert_array_equal(see(place, np.random.default_rng(0)), see(louder, np.random.default_rng(0)))


def test_a_band_does_not_depend_on_the_others_asked_for() -> None:
    place = drawn(4)
    every = landscape.reflectance(place, S2_BANDS)
    np.testing.assert_array_equal(landscape.reflectance(place, ("B12", "B02")), every[[S2_BANDS.index("B12"), 1]])


def test_more_backscatter_is_more_decibels() -> None:
    place = drawn(5)
    louder = replace(place, backscatter=place.backscatter + 3)
    before, after = (landscape.sentinel1(one, np.random.default_rng(0)) for one in (place, louder))
    np.testing.assert_allclose(after - before, 3, atol=1e-4)


def test_speckle_has_the_looks_that_it_claims() -> None:
    place, rng = drawn(6), np.random.default_rng(1)
    spread = np.std([landscape.sentinel1(place, rng)[0] for _ in range(200)], axis=0)
    # In dB, gamma speckle of L looks has the variance (10 / ln 10)^2 psi'(L); psi'(4) = 0.2838.
    radar = np.array([cover.radar_rough for cover in COVERS])[place.cover]
    expected = np.sqrt((10 / np.log(10)) ** 2 * 0.2838 + radar**2)
    assert abs((spread / expected).mean() - 1) < 0.03
