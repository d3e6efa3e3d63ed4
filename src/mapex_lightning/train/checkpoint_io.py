"""How the Trainer writes, reads and removes checkpoints: through `mapex_lightning.checkpoint`, and files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from mapex_lightning.checkpoint import read, write
from mapex_lightning.files import remove


class WholeCheckpointIO(TorchCheckpointIO):
    """What Lightning saves, loads and removes goes through `mapex_lightning.checkpoint`."""

    def __init__(self) -> None:
        self._folders: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Lightning's own way writes to a temporary folder and copies, which a crash cuts short.

        Raises:
            MapexError: it could not be saved; what was there before is whole.
        """
        write(checkpoint, Path(path))
        self._folders.add(Path(path).resolve().parent)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Only plain weights, whatever the caller or the environment asks for.

        Raises:
            MapexError: see `mapex_lightning.checkpoint.read`.
        """
        found = read(Path(path))
        if "callbacks" in found:
            found["callbacks"] = _apart(found["callbacks"])
        return found

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint beside those that were written, and nothing else.

        What is to be removed stands in the checkpoint that a run goes on from, and Lightning takes away whole folders.

        Raises:
            MapexError: it is a folder, or it may not be removed.
        """
        path = Path(path)
        ours = path.resolve().parent in self._folders and path.suffix == ".ckpt"
        if (ours or path.is_dir()) and not path.is_symlink():
            remove(path)


def _apart(value: Any) -> Any:
    """The same with tensors of its own: one that a callback keeps would keep the whole file, which is mapped."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _apart(inner) for key, inner in value.items()}
    return [_apart(inner) for inner in value] if isinstance(value, list) else value
