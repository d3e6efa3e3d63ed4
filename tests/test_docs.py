"""The walks of docs/ run, command by command, on small scenes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import load
from mapex_lightning.data import raster
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.modality import Modality
from tests import scenes
from tests.workshop import SMALL

DOCS = Path(__file__).parents[1] / "docs"
GROUND = scenes.grid(10.0, 64)


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def commands(name: str) -> list[list[str]]:
    """The words of each command of a page, in order, on small tiles."""
    lines = re.findall(r"^mapex (?:.*\\\n)*.*$", text(name), re.MULTILINE)
    return [small(shlex.split(line.replace("\\\n", " "))[1:]) for line in lines]


def small(words: list[str]) -> list[str]:
    if words[0] == "tiles":
        return [word.replace("120", "16") if before == "--size" else word for before, word in pairs(words)] + [
            "--block",
            "1",
        ]
    return [*words, *SMALL] if words[0] in ("fit", "test", "predict") else words


def pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(["", *words], words, strict=False))


def waves(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    return np.asarray(100 * np.sin(east / 150) + 80 * np.cos(north / 90))


def cover(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Water where the waves are low, trees elsewhere, and some of it built."""
    return np.asarray(np.where(waves(east, north) < 0, 80, np.where(np.sin(east / 70) > 0.5, 50, 10)))


def radar(path: Path, level: float) -> None:
    """Backscatter as power in the next zone, at 12.5 m."""
    place = scenes.beside(12.5, 100, scenes.EAST - 100, scenes.NORTH + 100, 32633)
    scenes.write(path, place, [""], lambda east, north: 10 ** (waves(east, north) / 500 + level / 10))


@pytest.mark.slow
def test_from_scenes_to_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (product,) = set(re.findall(r"S2B\w+\.SAFE", text("own-data.md")))
    scenes.safe(tmp_path / product, GROUND, lambda east, north: waves(east, north) + 500)
    radar(tmp_path / "S1A_RTC_VV.tif", -12.0)
    radar(tmp_path / "S1A_RTC_VH.tif", -19.0)
    codes = scenes.values(GROUND, cover).astype(np.int64)
    raster.write_mask(tmp_path / "worldcover.tif", codes, GROUND.place)
    found = commands("own-data.md")
    assert [words[0] for words in found] == ["tiles", "fit", "prune", "tiles", "fit", "test", "predict"]
    for words in found:
        assert main(words) == 0, words
    assert Grid.of(tmp_path / "map.tif").offset(GROUND) == (0, 0)
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert drawn.shape == (64, 64)
        assert set(np.unique(drawn.read(1))) <= {*range(11), drawn.nodata}


def test_a_sensor_is_added_in_yaml_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```yaml\n(.*?)```", text("add-a-sensor.md"), re.DOTALL)
    (tmp_path / "sensors.yaml").write_text(block)
    scenes.write(tmp_path / "heat_lwir.tif", scenes.grid(30.0, 34), [""], lambda e, n: waves(e, n) / 20 + 290)
    scenes.safe(tmp_path / "s2.SAFE", GROUND, waves)
    (tmp_path / "s2.SAFE").rename(tmp_path / "s2.tif")  # whatever it is called, it is a product
    for words in commands("add-a-sensor.md"):
        assert main(words) == 0, words
    config = yaml.safe_load((tmp_path / "heat" / "data.yaml").read_text())
    measured = Modality.of(config["data"]["modalities"][0])
    assert load(tmp_path / "runs" / "pretrain" / "pruned.ckpt").config.modalities == (measured,)
    assert measured.mean[0] == pytest.approx(290, abs=3)


def test_the_fields_of_a_sensor_are_all_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|.*\|", text("add-a-sensor.md"), re.MULTILINE))))
    assert {"name", "bands", "gsd", "unit", "mean", "std", "speckle"} <= explained


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_files_a_page_links_to_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)h#][^)#]*)\)", text(page)):
        assert (DOCS / target).exists(), target
