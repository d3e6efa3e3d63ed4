"""The walks of docs/ run, command by command, on small scenes."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import load
from mapex_lightning.cli.words import packaged_configs
from mapex_lightning.data import raster, sets
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.modality import Modality
from mapex_lightning.model.config import PRESETS
from tests import scenes
from tests.ranks import together
from tests.ranks_at_work import mapex
from tests.workshop import SMALL, TILES, finetune, pretrain

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), ROOT / "data" / "README.md"]
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
    return [*words, *SMALL] if words[0] in ("doctor", "fit", "test", "predict") else words


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
    assert [words[0] for words in found] == ["tiles", "doctor", "fit", "prune", "tiles", "fit", "test", "predict"]
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


@pytest.mark.slow
def test_every_form_of_an_export_is_loaded_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    last = pretrain("--data.modalities", "[s1, s2]")
    assert main(["prune", "--ckpt", str(last), "--keep", "s1,s2"]) == 0
    tuned = finetune("--ckpt", str(last), "--data.modalities", "[s1, s2]")
    for file in (last.with_name("pruned.ckpt"), tuned):
        Path("pruned.ckpt" if file != tuned else "tuned.ckpt").write_bytes(file.read_bytes())
    for words in commands("export.md"):
        assert main(words) == 0, words
    blocks = re.findall(r"```python\n(.*?)```", text("export.md"), re.DOTALL)
    assert len(blocks) == 3
    shapes = []
    for block in blocks:
        found: dict[str, np.ndarray] = {}
        exec(compile(block, "export.md", "exec"), found)
        shapes.append(tuple(found["output"].shape))
    assert shapes == [(4, 128), (4, 128), (4, 10)]


@pytest.mark.slow
def test_the_commands_for_several_gpus_run_on_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    further = ["--data.sets", TILES, "--data.workers", "0", "--trainer.devices", "2"]
    for words in commands("several-gpus.md"):
        tiny = ["nano.yaml" if word == "large.yaml" else word for word in words]
        assert together(mapex, [*tiny, *further]) == [[0], [0]]


def test_the_fields_of_a_sensor_are_all_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|.*\|", text("add-a-sensor.md"), re.MULTILINE))))
    assert {"name", "bands", "gsd", "unit", "mean", "std", "speckle"} <= explained


def anchors(page: Path) -> set[str]:
    """The headings of a page as they stand in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            linked = (page.parent / file) if file else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_options_of_data_sets_in_a_page_exist(page: Path) -> None:
    written = re.findall(r"class_path: (\w+),?\s+init_args: \{(.*?)\}", page.read_text(encoding="utf-8"))
    for name, arguments in written:
        given = re.findall(r"(?:^|, )(\w+):", re.sub(r"\[.*?\]", "", arguments))
        assert set(given) <= set(inspect.signature(getattr(sets, name)).parameters), name


def test_every_data_set_and_its_config_has_a_row() -> None:
    rows = "".join(re.findall(r"^\|.*\|$", (ROOT / "data" / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    overlays = {"ddp.yaml", "fsdp.yaml", "real.yaml", *(f"{name}.yaml" for name in PRESETS)}
    assert set(sets.__all__) <= set(re.findall(r"`(\w+)`", rows))
    assert {path.name for path in packaged_configs().glob("*.yaml")} - overlays <= set(
        re.findall(r"`([\w-]+\.yaml)`", rows)
    )


def test_the_sections_of_the_data_sets_are_all_alike() -> None:
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*)\n\n((?:(?!^## ).*\n)*)", text, re.MULTILINE))
    published = [name for name in sections if re.search(r"\d{4}, (?:doi|arXiv):", sections[name].split("\n\n")[0])]
    assert len(published) == 10
    for name in published:
        about, *rest = sections[name].strip().split("\n\n")
        assert "Fetch" in about, name
        assert re.search(r"MIT|CC|CDLA|OpenRAIL|Copernicus Sentinel data", about), name
        assert rest[0].startswith("```\n"), name
        assert rest[-2].startswith("```\n"), name
        assert "mapex fit" in rest[-2], name
        assert rest[-1].startswith("* "), name
