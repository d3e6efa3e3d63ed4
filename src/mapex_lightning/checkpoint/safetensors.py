"""Checkpoints as safetensors: the weights, and beside them in the same file the description, as JSON, and a checksum.

The checksum is the SHA-256 of the description and of every weight's name, type, shape and bytes, in the order of names:
safetensors itself checks nothing, and a bit that has flipped in a weight looks like a weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mapex_lightning.checkpoint.checksum import damaged
from mapex_lightning.errors import MapexError

SUFFIX = ".safetensors"
"""By which such a file is known."""

CHECKSUM = "sha256"
"""The name of the checksum beside the description."""


def save_safetensors(state: Mapping[str, Tensor], description: Mapping[str, Any], key: str, path: Path) -> None:
    """Writes weights and description.

    Args:
        state: the weights by name.
        description: plain types, which JSON can hold.
        key: the name of the description.
        path: the file.
    """
    text = json.dumps(description)
    # "format" is what other programs look for, to see whose tensors these are.
    metadata = {"format": "pt", key: text, CHECKSUM: _checksum(state, text)}
    path.touch()
    mode = path.stat().st_mode
    save_file({name: value.contiguous() for name, value in state.items()}, path, metadata)
    path.chmod(mode)  # safetensors makes a file that nobody else can read


def read_safetensors(path: Path, key: str, name: str) -> dict[str, Any]:
    """Reads what `save_safetensors` wrote, as ``{"state_dict": ..., key: ...}``.

    Nothing in such a file can be code. Where it has no description the key is missing.

    Args:
        path: a local file.
        key: the name of the description.
        name: what errors call the file.

    Raises:
        MapexError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()  # the file is no mapping: it cannot be walked by itself
            state = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
        if key not in metadata:
            return {"state_dict": state}
        found = {"state_dict": state, key: json.loads(metadata[key])}
    except (SafetensorError, OSError, ValueError) as error:
        raise MapexError(f"{name} cannot be read as safetensors; it is damaged, cut off or another format.") from error
    if metadata.get(CHECKSUM) != _checksum(state, metadata[key]):
        raise damaged(name, "its weights or its description are not those of its checksum")
    return found


def _checksum(state: Mapping[str, Tensor], text: str) -> str:
    digest = sha256(text.encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
