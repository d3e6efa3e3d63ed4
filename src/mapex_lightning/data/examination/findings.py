"""What an examination says: one finding a line, each with a remedy where something is to be done."""

from __future__ import annotations

import textwrap
from typing import Any, Literal, NamedTuple

Mark = Literal["ok", "look", "wrong", "unknown"]
"""``look``: may be right, and someone should look; ``unknown``: could not be checked, and the sentence says why."""

WIDTH = 116
_INDENT = 21


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        mark: how it is.
        check: what was looked at, in a word.
        sentence: what was found, in plain words.
        remedy: what to do about it; empty where nothing is to be done.
    """

    mark: Mark
    check: str
    sentence: str
    remedy: str = ""

    def lines(self) -> str:
        """The finding for people."""
        text = [line for part in (self.sentence, self.remedy) if part for line in textwrap.wrap(part, WIDTH - _INDENT)]
        return "\n".join([f"{self.mark:<9}{self.check:<12}{text[0]}", *(" " * _INDENT + line for line in text[1:])])

    def plain(self) -> dict[str, Any]:
        """The finding for programs."""
        return self._asdict()


def some(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    """The first few of some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def counted(number: int, what: str) -> str:
    """``1 tile``, ``2,000 tiles``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def figure(value: float) -> str:
    """A value of a pixel for people: 14,140, 560, -12.4."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
