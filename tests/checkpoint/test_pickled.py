"""Pickles of plain weights pass the scan, whatever torch and Lightning put into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mapex_lightning.checkpoint import read, write
from mapex_lightning.checkpoint.pickled import check_pickle
from tests.attacks import whole

TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.bool, torch.uint8]
TYPES += [torch.int8, torch.int16, torch.int32, torch.int64]


def trained(**how: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A layer after a step of its optimiser."""
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimiser = torch.optim.AdamW(layer.parameters(), **how)
    layer(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    return layer, optimiser


def states() -> dict[str, object]:
    layer, optimiser = trained()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=10)
    view = torch.arange(12.0).view(3, 4)
    return {
        "tensors of all types": [torch.ones(3).to(kind) for kind in TYPES],
        "views": [view.T, view[1:, ::2], view[0, 0], torch.empty(0), torch.empty(3, 0)],
        "a module": layer.state_dict(),
        "parameters": dict(layer.named_parameters()),
        "an optimiser": optimiser.state_dict(),
        "a fused optimiser": trained(fused=True)[1].state_dict(),
        "an optimiser of one tensor": trained(foreach=True, amsgrad=True)[1].state_dict(),
        "momentum": torch.optim.SGD(layer.parameters(), momentum=0.9).state_dict(),
        "a schedule": schedule.state_dict(),
        "a scaler": torch.amp.GradScaler("cpu").state_dict(),
        "plain types": [None, True, False, 0, 255, 2**16, -1, 2**40, -(2**70), 0.5, "\u00e4\n", (), (1,), (1, 2, 3, 4)],
        "tables and sets": [{}, {"a": {1: [2]}}, {1, 2}, set(), torch.Size((2, 3))],
        "long lists": list(range(3_000)),
    }


@pytest.mark.parametrize("state", states())
def test_what_runs_keep_is_read_back(state: str, tmp_path: Path) -> None:
    kept = states()[state]
    write({**whole(), "callbacks": {"kept": kept}}, tmp_path / "a.ckpt")
    found = read(tmp_path / "a.ckpt")["callbacks"]["kept"]
    assert type(found) is type(kept)


def test_a_checkpoint_of_a_torch_that_numbers_its_names_otherwise_is_read(tmp_path: Path) -> None:
    """More than 256 memoised objects change the words of a pickle."""
    torch.save({f"weight {number}": torch.zeros(1) for number in range(500)}, tmp_path / "many.pt")
    check_pickle(tmp_path / "many.pt", "many.pt")
