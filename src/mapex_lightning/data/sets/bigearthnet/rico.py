"""The LMDB that rico-hdl encodes patches into: one safetensors dictionary of bands per name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mapex_lightning.data.extras import imported
from mapex_lightning.errors import MapexError

_imported = partial(imported, extra="bigearthnet", wanted="BigEarthNet")

AGAIN = "Encode it again with rico-hdl"


def bands(folder: Path, name: str) -> Mapping[str, np.ndarray]:
    """All bands that are stored under a name, each at its own resolution and in its stored type.

    Args:
        folder: the LMDB, absolute.
        name: the patch's name.

    Raises:
        MapexError: the LMDB cannot be opened or lacks the name, the entry is damaged, or an optional package is absent.
    """
    safetensors, safetensors_numpy = _imported("safetensors"), _imported("safetensors.numpy")
    with _environment(folder).begin() as transaction:
        value = transaction.get(name.encode())
    if value is None:
        raise MapexError(
            f"The LMDB {folder} has no patch {name}, which the metadata lists. "
            f"{AGAIN}, giving it the folders of both sensors, and that of the reference maps if you want masks."
        )
    try:
        stored: dict[str, np.ndarray] = safetensors_numpy.load(value)
    except safetensors.SafetensorError as error:
        raise MapexError(f"Patch {name} in {folder} is damaged ({error}). {AGAIN}.") from error
    return stored


_OPEN: dict[Path, tuple[int, Any]] = {}


def _environment(folder: Path) -> Any:
    """The LMDB, opened once per process: a second handle is an error, and one from before a fork is unsafe."""
    process, environment = _OPEN.get(folder, (0, None))
    if process != os.getpid():
        if environment is not None:
            environment.close()
        lmdb = _imported("lmdb")
        try:
            environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise MapexError(f"{folder} cannot be opened as an LMDB ({error}). {AGAIN}.") from error
        _OPEN[folder] = (os.getpid(), environment)
    return environment
