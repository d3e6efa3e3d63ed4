"""Checkpoints of a run go through one door, which writes them whole and reads them safely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from mapex_lightning.checkpoint import read, write


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their target and renames them; reads them safely."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Lightning's own way writes to a temporary folder and copies, which a crash cuts short."""
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Only plain weights, whatever the caller or the environment asks for."""
        return read(Path(path))
