"""Pixels become the smallest numbers that lose nothing, and come back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mapex_lightning.data.packed.store import Facts, Index, decoded, encoded, nodata
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES
from tests.builders import steady

NAN = float("nan")

values = st.one_of(
    st.integers(-40_000, 70_000).map(float),
    st.sampled_from([0.0, -0.0, 255.0, 65535.0, -32768.0, NAN]),
    st.floats(width=32, allow_nan=False),
)


@steady
@given(arrays(np.float32, (2, 3), elements=values), arrays(np.float32, (2, 3), elements=values))
def test_what_is_stored_comes_back_bit_by_bit_also_beside_others(one: np.ndarray, other: np.ndarray) -> None:
    for facts in (Facts.of(one), Facts.of(one).joined(Facts.of(other))):
        code = nodata(facts.dtype, facts.holes)
        back = decoded(encoded(one, facts.dtype, code), code)
        np.testing.assert_array_equal(np.isnan(back), np.isnan(one))
        here = ~np.isnan(one)
        np.testing.assert_array_equal(back[here].view(np.int32), one[here].view(np.int32))


@pytest.mark.parametrize(
    ("pixels", "dtype", "code"),
    [
        ([0, 255], "uint8", None),
        ([0, 254, NAN], "uint8", 255),
        ([0, 255, NAN], "uint16", 65535),
        ([0, 65535], "uint16", None),
        ([0, 65535, NAN], "float32", None),
        ([-1, 32767], "int16", None),
        ([-32768, 0, NAN], "float32", None),
        ([-1, 40000], "float32", None),
        ([0.5], "float32", None),
        ([float("inf")], "float32", None),
        ([-0.0], "float32", None),
        ([NAN, NAN], "uint8", 255),
    ],
)
def test_the_type_is_the_smallest_that_has_a_code_left_for_invalid_pixels(
    pixels: list[float], dtype: str, code: int | None
) -> None:
    facts = Facts.of(np.array(pixels, dtype=np.float32))
    assert (facts.dtype.name, nodata(facts.dtype, facts.holes)) == (dtype, code)


def test_a_folder_without_an_index_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"holds no packed tiles: it has no index\.json.*mapex pack"):
        Index.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"index\.json cannot be read"),
        ("[]", r"another format than 1"),
        ('{"format": 2}', r"another format than 1"),
        ('{"format": 1, "sensors": {}}', r"lacks or misnames an entry \('mask'\)"),
        ('{"format": 1, "sensors": {}, "mask": null, "classes": [], "crs": [], "new": 1}', "lacks or misnames"),
    ],
)
def test_an_index_that_cannot_be_used_gets_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(MapexError, match=sentence):
        Index.read(tmp_path)


def test_an_index_with_a_number_beyond_all_floats_gets_a_sentence(tmp_path: Path) -> None:
    described = json.dumps({**MODALITIES["dem"].describe(), "mean": [10**400]})
    (tmp_path / "index.json").write_text(f'{{"format": 1, "sensors": {{"dem": {{"modality": {described}}}}}}}')
    with pytest.raises(MapexError, match="finite numbers in `mean`"):
        Index.read(tmp_path)
