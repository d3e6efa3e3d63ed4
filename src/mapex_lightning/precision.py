"""In which precision sums over many tiles are made."""

from __future__ import annotations

import torch


def widest(device: torch.device) -> torch.dtype:
    """The widest fractions that a device has: float64, but on Apple's GPUs (MPS) float32."""
    return torch.float32 if device.type == "mps" else torch.float64
