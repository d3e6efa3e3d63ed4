"""Which sensor a modality is taken from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mapex_lightning.data.sets.sensors import Sensor, sensor_of
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, Modality

SENSORS = {
    "s1": Sensor(("VV", "VH"), "dB", 10.0),
    "s2": Sensor(MODALITIES["s2"].bands, "reflectance x 10000", 10.0),
}


@pytest.mark.parametrize(("name", "sensor"), [("s1", "s1"), ("s2", "s2"), ("s2_swir", "s2"), ("s2_rgb", "s2")])
def test_bands_decide_and_not_the_name(name: str, sensor: str) -> None:
    assert sensor_of(MODALITIES[name], SENSORS, "X") == sensor


def test_another_name_for_the_same_bands_is_fine() -> None:
    assert sensor_of(replace(MODALITIES["s1"], name="radar"), SENSORS, "X") == "s1"


@pytest.mark.parametrize(
    "wanted",
    [
        replace(MODALITIES["s2_nir"], unit="reflectance"),
        replace(MODALITIES["s2_nir"], gsd=20.0),
        replace(MODALITIES["s2_nir"], bands=("B08", "B10")),
    ],
    ids=["unit", "grid", "band"],
)
def test_another_unit_grid_or_band_is_refused(wanted: Modality) -> None:
    with pytest.raises(MapexError, match="X cannot give modality s2_nir"):
        sensor_of(wanted, SENSORS, "X")


def test_among_twins_the_name_decides_and_without_it_they_are_refused() -> None:
    twins = {"s2_before": SENSORS["s2"], "s2_after": SENSORS["s2"]}
    assert sensor_of(replace(MODALITIES["s2_nir"], name="s2_after"), twins, "X") == "s2_after"
    with pytest.raises(MapexError, match="more than once, as s2_before and s2_after"):
        sensor_of(MODALITIES["s2_nir"], twins, "X")
