"""The benchmark of exported graphs compares every form with the model."""

from __future__ import annotations

import pytest

from benchmarks.exported import main


@pytest.mark.slow
def test_it_prints_a_row_per_form(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    main(["--rounds", "2", "--tiles", "2", "--experts", "2"])
    rows = [line.split("|")[3].strip() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert rows == ["model", "torch", "onnx"]
