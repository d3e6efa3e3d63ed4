"""Fingerprints of what tiles are made of: a packed store knows by them whether it still holds what it would hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any


def digest_of(facts: Iterable[Any]) -> str:
    """One digest of any number of facts, each plain enough for JSON, in their order."""
    hashed = sha256()
    for fact in facts:
        hashed.update(json.dumps(fact, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return hashed.hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """Name, size in bytes and time of change of a file: what has others is another file. Without a file, -1 and 0."""
    try:
        stat = path.stat()
    except OSError:
        return str(path), -1, 0
    return str(path), stat.st_size, stat.st_mtime_ns


def settings_of(owner: object, without: Sequence[str] = ()) -> dict[str, Any]:
    """The public attributes that an object was given, as far as they are plain values.

    Args:
        owner: any object; what it has found out since, as a ``cached_property``, is no setting.
        without: names of attributes to leave out.
    """
    found: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if name.startswith("_") or name in without or isinstance(getattr(type(owner), name, None), cached_property):
            continue
        try:
            found[name] = _plain(value)
        except TypeError:
            continue
    return found


def _plain(value: Any) -> Any:
    """A value for JSON.

    Raises:
        TypeError: there is none, for an object that says nothing of itself.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    raise TypeError(type(value).__name__)
