"""The benchmark of opening makes sets that our classes read as the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import opening
from mapex_lightning.data.sets import BigEarthNet, Packed, TerraMesh
from mapex_lightning.data.tileset import SPLITS, TileSet
from mapex_lightning.modality import modalities

RADAR = modalities(["s1"])


def test_the_sets_have_as_many_tiles_as_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SHARD", 8)
    sets: list[TileSet] = [
        BigEarthNet(opening.bigearthnet(40, tmp_path / "b"), snow_and_cloud=True),
        TerraMesh(opening.terramesh(20, tmp_path / "t")),
        Packed(opening.packed(20, tmp_path / "p")),
    ]
    for source, count in zip(sets, (40, 20, 20), strict=True):
        keys = [key for split in SPLITS for key in source.keys(split, RADAR)]
        assert len(set(keys)) == len(keys) == count
    assert 1 <= np.asarray(sets[0].label(sets[0].keys("train")[0])).sum() <= 5
    assert sets[2].read(sets[2].keys("train")[3], RADAR).images["s1"].shape == (2, 1, 1)


@pytest.mark.slow
def test_the_command_prints_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    opening.main(["--patches", "60", "--tiles", "200", "--rounds", "1"])
    printed = capsys.readouterr().out
    for name in opening.CONSTRUCTIONS:
        assert f"| {name} | " in printed
