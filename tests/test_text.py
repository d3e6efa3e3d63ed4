"""What people read stands in columns."""

from __future__ import annotations

from mapex_lightning.text import aligned, amount, indented, megabytes, one_line


def test_columns_are_aligned() -> None:
    assert aligned([["a", "1", "x"], ["long", "10", "yy"], ["b"]], left=(0, 2)) == ["a      1  x", "long  10  yy", "b"]


def test_lines_are_set_in() -> None:
    assert indented(["a", "b"]) == ["  a", "  b"]


def test_files_are_told_in_decimal_and_memory_in_binary_units() -> None:
    assert megabytes(1_234_567_890) == "1,234.6 MB"
    assert amount(20 * 2**20) == "20 MiB"
    assert amount(2**31) == "2.0 GiB"


def test_an_error_is_one_line_and_never_empty() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError()) == "ValueError"
