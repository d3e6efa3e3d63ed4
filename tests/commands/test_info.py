"""``mapex info`` says in a moment what a file is, and on tiles what its experts do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import load, save
from tests.builders import config_of, encoder_of, observe, tiles_of
from tests.markup import parsed
from tests.workshop import SMALL, TILES, light, pretrain

LOOK = ["--config", "pretrain.yaml", "--data.sets", TILES, *SMALL]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in the current folder."""
    monkeypatch.chdir(tmp_path)
    encoder = encoder_of(config_of((6, 0, 5)))
    observe(encoder, tiles_of(encoder.config, 16))
    save(encoder, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the run of a tiny pre-training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("info"))
        pretrain("--data.modalities", "[s1, s2]")
        yield Path.cwd()


def output(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def read(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output([*words, "--json"], capsys))
    return found


@pytest.mark.parametrize("more", [[], ["--json"], ["--out", "folder"]])
def test_it_needs_neither_lightning_nor_timm(more: list[str], saved: Path) -> None:
    light("info", str(saved), *more)


def test_a_bare_name_is_looked_for_in_the_newest_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(Path("runs") / "pretrain" / "last.ckpt") in output(["info", "last.ckpt"], capsys)


def test_the_file_is_named_first_or_with_ckpt(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(["info", "last.ckpt"], capsys) == output(["info", "--ckpt", "last.ckpt"], capsys)


def test_a_run_of_lightning_tells_its_versions_and_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(["info", "last.ckpt"], capsys)
    assert set(found["versions"]) == {"format", "mapex", "Lightning"}
    assert found["training"] == {"epoch": 0, "step": 3}
    assert found["lineage"] == ["fit: masked reconstruction, 3 steps"]
    assert found["parameters"]["decoder"] > 0


def test_json_holds_what_the_table_says(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, text = read(["info", "last.ckpt"], capsys), output(["info", "last.ckpt"], capsys)
    assert f"{found['parameters']['encoder']:,}" in text
    for block in (0, 2):
        assert f"{found['blocks'][block]['usage']['hard']['nmi']:.2f}" in text
    assert found["analysis"] is None


def test_a_pruned_file_is_what_prune_reported(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--ckpt", "last.ckpt", "--keep", "s1", "--coverage", "0.9"]) == 0
    report = json.loads(saved.with_name("pruned.json").read_text())
    found = read(["info", "pruned.ckpt"], capsys)
    assert found["parameters"]["encoder"] == report["parameters"]["after"]
    assert found["bytes"]["encoder"] == report["bytes"]["after"]
    kept = {block: len(experts) for block, experts in report["experts_kept"].items()}
    assert {str(b["block"]): b["experts"] for b in found["blocks"] if b["experts"]} == kept


def test_nothing_is_written_unless_it_is_asked_for(saved: Path) -> None:
    assert main(["info", "last.ckpt"]) == 0
    assert [path.name for path in saved.parent.iterdir()] == ["last.ckpt"]


def test_a_folder_gets_a_page_the_figures_and_heat_maps(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(["info", "last.ckpt", "--out", "told"], capsys)
    folder = saved.with_name("told")
    assert {path.name for path in folder.iterdir()} == {
        *("info.html", "info.json", "experts-hard.png", "experts-soft.png"),
    }
    assert json.loads((folder / "info.json").read_text()) == found
    page = parsed((folder / "info.html").read_text(encoding="utf-8"))
    assert (page.left_open, page.loads) == ([], [])
    with Image.open(folder / "experts-hard.png") as picture:
        assert picture.size[0] > 6 * 60


def test_on_tiles_it_measures_what_experts_do(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(["info", "last.ckpt", *LOOK, "--data.modalities", "[s1, s2]", "--tiles", "5"], capsys)
    folder = Path("runs/pretrain/last-info")
    assert text.rstrip().endswith(str(folder / "info.html"))
    assert "masked reconstruction" in text
    analysis = json.loads((folder / "info.json").read_text())["analysis"]
    assert analysis["tiles"] == 5
    assert analysis["modalities"] == ["s1", "s2"]
    assert (folder / "causal.png").is_file()
    assert "Measured on 5 held-out tiles" in parsed((folder / "info.html").read_text(encoding="utf-8")).text


def test_a_pruned_file_is_measured_on_the_sensors_it_has_left(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--ckpt", "last.ckpt", "--keep", "s2"]) == 0
    found = read(["info", "pruned.ckpt", *LOOK, "--data.modalities", "[s1, s2]"], capsys)
    assert found["analysis"]["modalities"] == ["s2"]
    assert found["analysis"]["damage"] is None


def test_tiles_of_other_sensors_get_a_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "last.ckpt", *LOOK, "--data.modalities", "[dem]", "--out", "none"]) == 2
    assert "The model reads s1, s2, and the tiles of this config have dem" in capsys.readouterr().err
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "mapex info CKPT"),
        (["--json"], "mapex info CKPT"),
        (["gone.ckpt"], "There is no checkpoint gone.ckpt"),
        (["."], "found a folder"),
        (["cut.ckpt"], "damaged, cut off or another format"),
        (["notes.ckpt"], "cannot be read as a checkpoint"),
        (["https://example.org/a.ckpt"], "read from local files"),
        (["last.ckpt", "--jsn"], "--jsn is no option of mapex info without --config"),
        (["last.ckpt", "--tiles", "5"], "--tiles is a number of tiles, 1 or more, of --config TILES"),
        (["last.ckpt", "--config", "pretrian.yaml"], "Did you mean 'pretrain.yaml'"),
        (["last.ckpt", "--out", "notes.ckpt"], "could not be written"),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(
    words: list[str], sentence: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved.with_name("notes.ckpt").write_text("not a checkpoint")
    saved.with_name("cut.ckpt").write_bytes(saved.read_bytes()[:2000])
    before = sorted(saved.parent.rglob("*"))
    assert main(["info", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(saved.parent.rglob("*")) == before
    assert load(saved).config.names == ("s1", "s2", "dem")
