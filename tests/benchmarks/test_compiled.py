"""The benchmark of compiling takes the same steps compiled and not."""

from __future__ import annotations

import pytest
import torch

from benchmarks.compiled import main

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.mark.slow
def test_it_prints_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rounds", "2", "--before", "1", "--tiles", "4", "--backend", "eager"])
    torch.compiler.reset()
    row = capsys.readouterr().out.splitlines()[-1].split("|")
    assert row[1].strip() == "nano"
    assert row[7].strip() == "0"  # no graph breaks
    assert float(row[8]) < 1e-5
