"""The benchmark of keeping checkpoints writes and reads the same one in every way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.checkpoints import main, ways
from benchmarks.prune_cost import make


def test_every_way_writes_the_same_weights(tmp_path: Path) -> None:
    source, out = tmp_path / "full.ckpt", tmp_path / "out.ckpt"
    make("nano", source)
    wanted = torch.load(source, weights_only=True)["state_dict"]
    for (what, _), call in ways(source, out).items():
        out.unlink(missing_ok=True)
        call()
        assert out.exists() == (what == "write")
        if what == "write":
            found = torch.load(out, weights_only=True)["state_dict"]
            assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_the_command_prints_a_row_per_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--preset", "nano", "--rounds", "1", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    for row in ("| write | ours | ", "| write | Lightning | ", "| read | ours | ", "| read again | ours | "):
        assert row in printed
    assert not list(tmp_path.iterdir())
