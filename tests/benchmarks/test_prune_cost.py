"""The benchmark of pruning runs the command on a checkpoint that it makes itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.encoder import SENSORS
from benchmarks.prune_cost import main, make, run
from mapex_lightning.checkpoint import describe, load


def test_both_programs_write_a_checkpoint_and_use_memory(tmp_path: Path) -> None:
    source, out = tmp_path / "full.ckpt", tmp_path / "out.ckpt"
    make("nano", source)
    found = run("read and write", "wall", source, out)
    assert found["seconds"] > 0
    assert found["bytes"] > 0
    assert describe(torch.load(out, weights_only=True)).encoder.names == SENSORS
    assert run("prune", "processor", source, out)["seconds"] > 0
    assert load(out).config.names == ("s2",)


def test_the_command_prints_both_rows(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--preset", "nano", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "| read and write | " in printed
    assert "| prune | " in printed
