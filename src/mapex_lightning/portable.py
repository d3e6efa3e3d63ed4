"""Checkpoints as safetensors: the weights, and beside them in the same file the description, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mapex_lightning.errors import MapexError

SUFFIX = ".safetensors"
"""By which such a file is known."""


def write_portable(state: Mapping[str, Tensor], description: Mapping[str, Any], key: str, path: Path) -> None:
    """Writes weights and description.

    Args:
        state: the weights by name.
        description: plain types, which JSON can hold.
        key: the name of the description.
        path: the file.
    """
    # "format" is what other programs look for, to see whose tensors these are.
    metadata = {"format": "pt", key: json.dumps(description)}
    save_file({name: value.contiguous() for name, value in state.items()}, path, metadata)


def read_portable(path: Path, key: str) -> dict[str, Any]:
    """Reads what `write_portable` wrote, as ``{"state_dict": ..., key: ...}``.

    Nothing in such a file can be code. Where it has no description the key is missing.

    Args:
        path: a local file.
        key: the name of the description.

    Raises:
        MapexError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()  # the file is no mapping: it cannot be walked by itself
            state = {name: file.get_tensor(name) for name in names}
            text = (file.metadata() or {}).get(key)
        return {"state_dict": state} if text is None else {"state_dict": state, key: json.loads(text)}
    except (SafetensorError, OSError, ValueError) as error:
        raise MapexError(f"{path} cannot be read as safetensors; it is damaged, cut off or another format.") from error
