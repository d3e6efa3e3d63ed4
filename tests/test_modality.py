"""A modality says what pixels mean, and nothing about that has a default."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, Modality, disagreements, modalities
from tests.builders import OPTICAL, RADAR


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=lambda modality: modality.name)
def test_a_description_survives_json(modality: Modality) -> None:
    assert Modality.of(json.loads(json.dumps(modality.describe()))) == modality


@pytest.mark.parametrize("name", [field.name for field in fields(Modality) if field.name != "speckle"])
def test_nothing_that_changes_a_pixels_meaning_has_a_default(name: str) -> None:
    description = RADAR.describe()
    del description[name]
    with pytest.raises(MapexError, match=rf"lacks {name}\."):
        Modality.of(description)


def test_speckle_is_off_unless_said() -> None:
    description = OPTICAL.describe()
    del description["speckle"]
    assert Modality.of(description) == OPTICAL


def test_a_misspelt_field_is_refused_with_the_right_one() -> None:
    with pytest.raises(MapexError, match="Did you mean 'unit'"):
        Modality.of({**RADAR.describe(), "units": "dB"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "s-1"}, "plain word"),
        ({"bands": ()}, "at least one band"),
        ({"bands": ("VV", "VV")}, "no band twice"),
        ({"mean": (0.0,)}, "finite numbers in `mean`"),
        ({"mean": (0.0, math.nan)}, "finite numbers in `mean`"),
        ({"std": (1.0, math.inf)}, "finite numbers in `std`"),
        ({"std": (1.0, 0.0)}, "positive std"),
        ({"gsd": 0.0}, "positive gsd"),
        ({"gsd": math.inf}, "positive gsd"),
        ({"gsd": math.nan}, "positive gsd"),
        ({"gsd": 10**400}, "positive gsd"),
        ({"mean": (0, 10**400)}, "finite numbers in `mean`"),
        ({"std": (1.0, -(16**9_000))}, "finite numbers in `std`"),
    ],
)
def test_a_contradiction_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MapexError, match=words):
        replace(RADAR, **change)


@pytest.mark.parametrize("name", ["s2_rgb", "s2_rededge", "s2_nir", "s2_swir"])
def test_a_band_group_means_what_the_whole_sensor_means(name: str) -> None:
    group, whole = MODALITIES[name], MODALITIES["s2"]
    at = [whole.bands.index(band) for band in group.bands]
    assert (group.unit, group.gsd) == (whole.unit, whole.gsd)
    assert group.mean == tuple(whole.mean[i] for i in at)
    assert group.std == tuple(whole.std[i] for i in at)


def test_the_table_knows_every_modality_by_its_own_name() -> None:
    assert all(name == modality.name for name, modality in MODALITIES.items())


def test_names_descriptions_and_modalities_mix_in_the_order_given() -> None:
    own = replace(RADAR, name="own")
    assert modalities(["s2", own, OPTICAL.describe() | {"name": "mine"}]) == (
        MODALITIES["s2"],
        own,
        replace(OPTICAL, name="mine"),
    )


def test_an_unknown_name_is_refused_with_a_way_to_add_it() -> None:
    with pytest.raises(MapexError, match=r"Did you mean 'landsat'\?.*YAML block"):
        modalities(["landsta"])


@pytest.mark.parametrize("given", [[], ["s1", "s1"], ["s1", RADAR]])
def test_each_modality_is_wanted_once(given: list[str | Modality]) -> None:
    with pytest.raises(MapexError, match="each once"):
        modalities(given)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("bands", [1, 2], r"in a list of words, such as \[B02, B03\] or \['1', '2'\]; found \[1, 2\]"),
        ("bands", "VV", "in a list of words"),
        ("bands", 3, "has a field of the wrong kind"),
        ("gsd", "10 m", "has a field of the wrong kind .* gsd is a number"),
        ("mean", 3.0, "has a field of the wrong kind"),
        ("std", ["a", "b"], "has a field of the wrong kind"),
        ("name", 3, "has a field of the wrong kind"),
    ],
)
def test_fields_of_another_kind_are_refused_in_a_sentence(field: str, value: object, sentence: str) -> None:
    with pytest.raises(MapexError, match=sentence):
        Modality.of({**MODALITIES["s1"].describe(), field: value})


def test_data_far_from_what_an_encoder_normalises_by_are_pointed_out_by_their_worst_band() -> None:
    encoder = replace(OPTICAL, mean=(1292.0, 1360.0, 1560.0), std=(118.0, 400.0, 500.0))
    said = disagreements([RADAR, encoder], [replace(encoder, mean=(292.0, 360.0, 560.0)), RADAR])
    assert said == [
        f"the encoder normalises s2 {OPTICAL.bands[0]} by 1292, and the data say 292 (8.5 deviations): another unit, "
        "offset or place?"
    ]
    (said_of_spread,) = disagreements([encoder], [replace(encoder, std=(118.0, 40.0, 500.0))])
    assert "by a deviation of 400, and the data say 40 (10 times)" in said_of_spread


def test_near_statistics_names_and_bands_of_others_and_shipped_defaults_disagree_with_nothing() -> None:
    shipped = MODALITIES["s1"]
    apart = replace(shipped, mean=(0.1, 0.2), std=(0.05, 0.05))
    assert disagreements([apart], [shipped]) == []
    assert disagreements([apart], [replace(apart, std=(0.2, 0.2), mean=(0.2, 0.3))]) == []
    assert disagreements([apart], [replace(shipped, name="mine"), replace(shipped, bands=("HH", "HV"))]) == []
