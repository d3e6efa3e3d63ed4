"""The benchmark of starting up loads what it has written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import startup
from benchmarks.measure import Candidate


def test_every_model_answers_in_a_fresh_process(tmp_path: Path) -> None:
    for program, path in startup.files("nano", tmp_path).values():
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_the_vit_on_disk_is_as_large_as_the_pruned_encoder(tmp_path: Path) -> None:
    sizes = {
        way: sum(weight.numel() for name, weight in torch.load(path)["state_dict"].items() if "census" not in name)
        for way, (_, path) in startup.files("nano", tmp_path).items()
    }
    assert sizes["pruned"] == pytest.approx(sizes["timm ViT"], rel=0.03)
    assert sizes["unpruned"] > 2 * sizes["pruned"]


def test_the_command_times_help_and_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(startup, "process", lambda *words: Candidate(lambda: len(words)))  # no time is asserted
    startup.main(["--preset", "nano", "--rounds", "1"])
    printed = capsys.readouterr().out
    for way in (*startup.COMMANDS, "unpruned", "pruned", "timm ViT"):
        assert f"| {way} | " in printed
