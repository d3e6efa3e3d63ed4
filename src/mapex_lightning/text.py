"""Text for people: tables, sizes, and errors in one line."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence


def visible(text: str) -> str:
    """A text of a stranger, fit for a terminal: what would move the cursor or break the line is written out."""
    return "".join(f"\\u{ord(one):04x}" if unicodedata.category(one) in UNSEEN else one for one in text)


UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Kinds of characters that are seen by what they do: controls, formats, halves of pairs, breaks of lines."""


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows of a table as lines; the columns `left` are set to the left and all others to the right."""
    cells = [[visible(text) for text in row] for row in rows]
    columns = range(max(map(len, cells)))
    widths = [max(len(row[column]) for row in cells if column < len(row)) for column in columns]

    def cell(column: int, text: str) -> str:
        return text.ljust(widths[column]) if column in left else text.rjust(widths[column])

    return ["  ".join(cell(column, text) for column, text in enumerate(row)).rstrip() for row in cells]


def indented(lines: Sequence[str]) -> list[str]:
    """The lines, set in by two."""
    return [f"  {visible(line)}" for line in lines]


def megabytes(count: int) -> str:
    """The bytes of a file, in decimal units, as file systems tell them."""
    return f"{count / 1e6:,.1f} MB"


def amount(count: float) -> str:
    """Bytes of memory, in binary units, as torch tells them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def one_line(error: BaseException) -> str:
    """What an error says, or its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
