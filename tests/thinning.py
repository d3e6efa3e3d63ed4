"""Tables of cases of which the fast tests take a diagonal: each row and each column once, the rest being slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def diagonal(rows: Iterable[Any], columns: Iterable[Any]) -> list[Any]:
    """Every pair of a row and a column, as parameters of a test; those off the diagonal are marked slow."""
    one, other, found = list(rows), list(columns), []
    for row, value in enumerate(one):
        for column, second in enumerate(other):
            fast = row % len(other) == column if len(one) >= len(other) else column % len(one) == row
            marks = () if fast else (pytest.mark.slow,)
            found.append(pytest.param(value, second, marks=marks, id=f"{_name(value)}-{_name(second)}"))
    return found


def first_of_each(groups: Iterable[tuple[Any, Any]]) -> list[Any]:
    """Every pair of a group and a member, as parameters of a test; all but the first member of a group are slow."""
    seen, found = set(), []
    for group, member in groups:
        marks = (pytest.mark.slow,) if group in seen else ()
        seen.add(group)
        found.append(pytest.param(group, member, marks=marks, id=f"{_name(group)}: {_name(member)}"))
    return found


def _name(value: Any) -> str:
    return " ".join(value).strip() if isinstance(value, tuple) else str(getattr(value, "__qualname__", value))
