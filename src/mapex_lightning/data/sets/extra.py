"""The optional packages of BigEarthNet, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mapex_lightning.errors import MapexError


def imported(name: str) -> Any:
    """A module of the extra ``bigearthnet``.

    Raises:
        MapexError: it is not installed; the sentence says how.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MapexError(
            f"BigEarthNet needs the Python package {package}: run `pip install 'mapex-lightning[bigearthnet]'`."
        ) from error
