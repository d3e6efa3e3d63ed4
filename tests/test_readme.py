"""Every command and every line of Python in the README runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import rasterio

from mapex_lightning.__main__ import COMMANDS, main
from mapex_lightning.data import raster
from mapex_lightning.modality import S2_BANDS
from tests import scenes
from tests.workshop import SMALL, TILES

README = (Path(__file__).parents[1] / "README.md").read_text()
MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text()


def lines() -> list[str]:
    """The commands, in order, without their comments."""
    return [line.split("  #")[0].strip() for line in re.findall(r"^mapex .*$", README, re.MULTILINE)]


def small(line: str) -> list[str]:
    """The words of a command, on tiny tiles: synthetic ones, or those cut out of `scenes_of`."""
    words = shlex.split(line)[1:]
    if words[0] == "tiles":
        return [*("16" if word == "120" else word for word in words), "--block", "1"]
    if words[0] in ("export", "pack", "results") or (words[0] in ("prune", "info") and "--config" not in words):
        return words
    if "own/data.yaml" in words:
        return [*words, *SMALL]
    sensors = "[s2]" if "eurosat.yaml" in words else "[s1, s2]"
    weights = ["--data.weights", "null", "--data.draws", "null"] if "real.yaml" in words else []
    return [*words, "--data.sets", TILES, "--data.modalities", sensors, *weights, *SMALL]


def scenes_of(folder: Path) -> None:
    """Writes the scenes that the commands name."""
    ground = scenes.grid(10.0, 64)
    scenes.write(folder / "S2.tif", ground, S2_BANDS, lambda east, north: 500 + 100 * np.sin(east / 150) + north % 1000)
    scenes.write(
        folder / "S1.tif", ground, ["VH", "VV"], lambda east, north: np.cos(east / 90) - 112 + north % 1000 / 500
    )
    codes = scenes.values(ground, lambda east, north: np.sin(east / 150) > 0).astype(np.int64)
    raster.write_mask(folder / "cover.tif", codes, ground.place)


def test_the_commands_run_in_the_order_in_which_they_stand(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {shlex.split(line)[1] for line in lines()} == set(COMMANDS)
    monkeypatch.chdir(tmp_path_factory.mktemp("readme"))
    scenes_of(Path())
    for line in lines():
        assert main(small(line)) == 0, line
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), found)
    shapes = {name: tuple(getattr(found[name], "shape", ())) for name in ("vectors", "grid")}
    assert shapes == {"vectors": (1, 128), "grid": (1, 128, 8, 8)}
    with rasterio.open("map.tif") as drawn:
        assert drawn.shape == (64, 64)


def test_the_make_targets_it_names_exist() -> None:
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:.*##", MAKEFILE, re.MULTILINE), target
