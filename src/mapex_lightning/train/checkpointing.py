"""Checkpoints of a run go through one door, which writes them whole and reads them safely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from mapex_lightning.checkpoint import read, write


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their target and renames them; reads them safely; removes its own alone."""

    def __init__(self) -> None:
        self._folders: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Lightning's own way writes to a temporary folder and copies, which a crash cuts short."""
        write(checkpoint, Path(path))
        self._folders.add(Path(path).resolve().parent)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Only plain weights, whatever the caller or the environment asks for."""
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint beside those that were written, and nothing else.

        What is to be removed stands in the checkpoint that a run goes on from, and Lightning would remove anything.
        """
        path = Path(path)
        own = path.resolve().parent in self._folders and path.suffix == ".ckpt" and path.is_file()
        if own and not path.is_symlink():
            path.unlink()
