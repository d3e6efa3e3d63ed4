"""Colours of classes are told apart, and names reach those who read them."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

from mapex_lightning.data.legend import category_names, check_classes, colour
from mapex_lightning.errors import MapexError


@pytest.mark.parametrize(("count", "apart"), [(12, 80), (50, 29)])
def test_no_two_classes_look_alike(count: int, apart: int) -> None:
    pairs = combinations([colour(index) for index in range(count)], 2)
    assert min(sum(abs(a - b) for a, b in zip(one, other, strict=True)) for one, other in pairs) > apart


def test_names_are_in_order_whatever_they_hold() -> None:
    names = ["forest", "water & <ice>", "Äcker"]
    tree = ElementTree.fromstring(category_names(names))
    assert [entry.text for entry in tree.iter("Category")] == names


def test_more_classes_than_a_byte_holds_are_refused() -> None:
    check_classes([str(index) for index in range(255)])
    with pytest.raises(MapexError, match=r"holds 255.* found 256"):
        check_classes([str(index) for index in range(256)])
