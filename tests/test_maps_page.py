"""Every command of docs/maps.md runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import rasterio

from mapex_lightning.__main__ import main
from tests.train.test_maps import write_scene
from tests.workshop import SMALL, finetune, pretrain

PAGE = (Path(__file__).parents[1] / "docs" / "maps.md").read_text()


def test_the_commands_run_in_the_order_in_which_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pretrain()
    finetune("--model.encoder", "nano", config="segment.yaml", task="segmentation", run="segment")
    for name in write_scene(tmp_path):
        (tmp_path / f"{name}.tif").rename(tmp_path / f"{name.upper()}.tif")
    lines = re.findall(r"^mapex predict .*$", PAGE, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line)[1:]
        assert main([*words, *SMALL]) == 0, line
        made = tmp_path / words[words.index("--embeddings" if "--embeddings" in words else "--out") + 1]
        if made.suffix == ".tif":
            with rasterio.open(made) as read:
                assert read.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert made.exists()
