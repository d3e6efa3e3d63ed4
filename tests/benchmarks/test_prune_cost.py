"""The cost of pruning is measured on the command itself."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks import prune_cost


def test_the_command_prints_its_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["prune_cost", "--preset", "nano", "--rounds", "1"])
    prune_cost.main()
    out = capsys.readouterr().out
    assert re.search(r"nano: \d+ MB pruned to \d+ MB", out)
    assert re.search(r"pruned / plain: \d", out)
