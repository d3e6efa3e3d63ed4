"""YAML of strangers is measured before it is read: aliases can make a few lines as long as a library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import yaml

from mapex_lightning.errors import MapexError

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reads plain types and nothing else; in C, where PyYAML has it: twenty times as fast."""

MOST_NODES = 20_000
"""Words, lists and tables with all aliases written out. The largest config that ships has some hundreds."""

LONGEST = 1_000_000
"""Letters of all words, aliases written out. The settings of a run have some thousands."""

DEEPEST = 50
"""Lists and tables inside one another."""


def check(text: str) -> None:
    """Makes sure that YAML is of a size that can be read.

    Args:
        text: maybe YAML; whether it is, who reads it says.

    Raises:
        MapexError: it is too large or too deep with its aliases written out, or holds itself.
    """
    sizes: dict[str, tuple[int, int]] = {}
    opened: list[tuple[str | None, int, int]] = []
    nodes = letters = 0
    try:
        for event in yaml.parse(text, Loader=LOADER):
            match event:
                case yaml.AliasEvent():
                    if event.anchor in [anchor for anchor, *_ in opened]:
                        raise MapexError(f"A list or table holds itself by its alias *{event.anchor}. Write it out.")
                    more = sizes.get(event.anchor, (0, 0))
                    nodes, letters = nodes + more[0], letters + more[1]
                case yaml.ScalarEvent():
                    nodes, letters = nodes + 1, letters + len(event.value)
                    sizes |= {event.anchor: (1, len(event.value))} if event.anchor else {}
                case yaml.CollectionStartEvent():
                    opened.append((event.anchor, nodes, letters))
                    nodes += 1
                case yaml.CollectionEndEvent():
                    anchor, *before = opened.pop()
                    sizes |= {anchor: (nodes - before[0], letters - before[1])} if anchor else {}
            if nodes > MOST_NODES or letters > LONGEST or len(opened) > DEEPEST:
                raise MapexError(
                    f"A config has at most {MOST_NODES:,} entries of {LONGEST:,} letters in all, aliases written out, "
                    f"in lists and tables at most {DEEPEST} deep; this one has more."
                )
    except yaml.YAMLError:
        return  # who reads it says where


def load(text: str) -> Any:
    """What YAML says, in plain types.

    Raises:
        MapexError: see `check`.
        yaml.YAMLError: it is no YAML, or asks for other types.
    """
    return read_by(partial(yaml.load, Loader=LOADER), text)


def read_by(reader: Callable[[str], Any], text: str) -> Any:
    """What a reader makes of YAML.

    Args:
        reader: of PyYAML's kind.
        text: maybe YAML.

    Raises:
        MapexError: see `check`.
        yaml.YAMLError: it is no YAML, asks for other types, or has a tag that does not fit its value.
    """
    check(text)
    try:
        return reader(text)
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:  # of ``!!bool foo``
        raise yaml.YAMLError(f"a value is not what its tag says ({type(error).__name__}: {error})") from error
