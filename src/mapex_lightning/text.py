"""Text for people: tables, sizes, and errors in one line."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows of a table as lines; the columns `left` are set to the left and all others to the right."""
    columns = range(max(map(len, rows)))
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in columns]

    def cell(column: int, text: str) -> str:
        return text.ljust(widths[column]) if column in left else text.rjust(widths[column])

    return ["  ".join(cell(column, text) for column, text in enumerate(row)).rstrip() for row in rows]


def indented(lines: Sequence[str]) -> list[str]:
    """The lines, set in by two."""
    return [f"  {line}" for line in lines]


def megabytes(count: int) -> str:
    """The bytes of a file, in decimal units, as file systems tell them."""
    return f"{count / 1e6:,.1f} MB"


def amount(count: float) -> str:
    """Bytes of memory, in binary units, as torch tells them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def one_line(error: BaseException) -> str:
    """What an error says, or its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
