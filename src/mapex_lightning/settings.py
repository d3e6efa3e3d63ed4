"""The settings of runs: read from their folders, under the names of the command line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mapex_lightning.errors import MapexError
from mapex_lightning.files import read_text
from mapex_lightning.plain_yaml import load

SETTINGS = "config.yaml"
"""Where ``mapex fit`` keeps all settings of a run, in its folder."""

IDLE = ("run", "config", "save_minutes", "timeout", "data.root", "data.workers", "data.timeout")
"""Settings on which no figure depends."""


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run, nested as in the file.

    Raises:
        FileNotFoundError: the folder holds none.
        MapexError: they cannot be read.
    """
    path = folder / SETTINGS
    try:
        found = load(read_text(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise MapexError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(found, dict):
        raise MapexError(f"{path} holds no settings. It was altered; begin another run.")
    return found


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by the names of the command line: ``model.visible``, and ``model`` for the class itself.

    Entries of a list of classes or tables are numbered, as in ``data.sets.0.root``; a list of plain values is a value.
    """
    return dict(_flat(settings, ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(entry, name if key in ("class_path", "init_args") else f"{name}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
        for number, entry in enumerate(value):
            yield from _flat(entry, f"{name}.{number}")
    else:
        yield name, value


def among(name: str, names: Collection[str]) -> bool:
    """Whether a setting is one of those, or below one."""
    return any(f"{name}.".startswith(f"{one}.") for one in names)
