"""Optional packages, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mapex_lightning.errors import MapexError


def imported(name: str, extra: str, wanted: str) -> Any:
    """A module of an optional package.

    Args:
        name: the module.
        extra: the extra that installs it.
        wanted: what needs it, for the message.

    Raises:
        MapexError: it is not installed, or a package that it needs; the sentence says how to get it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        missing, package = ((error.name or name).partition(".")[0], name.partition(".")[0])
        further = "" if missing == package else f" {missing}"  # one that the package itself leaves to its users
        raise MapexError(
            f"{wanted} needs the Python package {missing}: run `pip install 'mapex-lightning[{extra}]'{further}`."
        ) from error
