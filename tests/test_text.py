"""What people read stands in columns."""

from __future__ import annotations

from mapex_lightning.text import aligned, indented


def test_columns_are_aligned() -> None:
    assert aligned([["a", "1", "x"], ["long", "10", "yy"], ["b"]], left=(0, 2)) == ["a      1  x", "long  10  yy", "b"]


def test_lines_are_set_in() -> None:
    assert indented(["a", "b"]) == ["  a", "  b"]
