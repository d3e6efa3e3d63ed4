"""Sums are as precise as their device allows."""

from __future__ import annotations

import pytest
import torch

from mapex_lightning.precision import widest


@pytest.mark.parametrize(
    ("device", "wanted"), [("cpu", torch.float64), ("cuda:1", torch.float64), ("mps", torch.float32)]
)
def test_fractions_are_as_wide_as_the_device_has_them(device: str, wanted: torch.dtype) -> None:
    assert widest(torch.device(device)) == wanted
