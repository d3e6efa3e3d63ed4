"""The words of ``mapex export`` become a folder, or a sentence and no folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import load, save, write
from tests.builders import checkpoint_of, config_of, encoder_of, observe, seal, tiles_of

GRAPH = ["--to", "torch", "--size", "16", "--keep", "s1"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    encoder = encoder_of(config_of((3, 0)))
    observe(encoder, tiles_of(encoder.config, 16))
    save(encoder, tmp_path / "last.ckpt", made_by="fit: a test")
    seal(encoder, 1.0)
    save(encoder, tmp_path / "sealed.ckpt")
    return tmp_path / "last.ckpt"


def test_weights_come_with_a_model_card(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--ckpt", str(saved), "--to", "safetensors", "--license", "cc-by-4.0"]) == 0
    out = saved.with_name("last-safetensors")
    assert capsys.readouterr().out.split() == [str(out / "model.safetensors"), str(out / "README.md")]
    tiles = tiles_of(config_of())
    assert torch.equal(load(out / "model.safetensors").pooled(tiles), load(saved).pooled(tiles))
    _, front, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "cc-by-4.0",
        "library_name": "mapex-lightning",
        "tags": [
            "remote-sensing", "earth-observation", "satellite", "mixture-of-experts", "mapex", "s1", "s2", "dem",
        ],
    }  # fmt: skip
    for wanted in (
        "| B04 | 500 | 300 |",
        "reflectance x 10000",
        "| 0 | 3 experts |",
        "| 1 | dense |",
        "1. fit: a test",
    ):
        assert wanted in text
    assert f"| all | {sum(weight.numel() for weight in load(saved).parameters()):,} |" in text
    assert "independent implementation" in re.sub(r"\s+", " ", text)


def test_the_way_to_load_it_in_the_card_runs(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--ckpt", str(saved), "--to", "safetensors"]) == 0
    monkeypatch.chdir(saved.with_name("last-safetensors"))
    card = Path("README.md").read_text(encoding="utf-8")
    assert "license: unknown" in card
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found: dict[str, torch.Tensor] = {}
    exec(compile(block, "README.md", "exec"), found)
    assert found["vectors"].shape == (1, 16)
    assert main(["info", "model.safetensors"]) == 0
    assert "fit: a test" in capsys.readouterr().out


def test_sealed_weights_are_pruned_to_the_sensors(saved: Path) -> None:
    sealed = saved.with_name("sealed.ckpt")
    assert main(["export", "--ckpt", str(sealed), "--to", "safetensors", "--keep", "s2"]) == 0
    assert load(saved.with_name("sealed-s2-safetensors") / "model.safetensors").config.names == ("s2",)


def test_a_head_is_named_in_the_card(saved: Path) -> None:
    head = {"task": "segmentation", "classes": ["dry", "water"], "pool": "mean"}
    write(checkpoint_of(load(saved), head), saved)
    assert main(["export", "--ckpt", str(saved), "--to", "safetensors"]) == 0
    card = (saved.with_name("last-safetensors") / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-segmentation" in card
    assert "Its head does segmentation of 2 classes: dry, water." in card


def test_a_graph_says_what_it_takes_and_how_far_it_deviates(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = saved.with_name("there")
    assert main(["export", "--ckpt", str(saved), *GRAPH, "--batch", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "s1 (2, 2, 16, 16)" in said
    assert "-> features (batch, 16)" in said
    assert len(re.findall(r"deviation \S+ on 2 tiles", said)) == 2
    assert json.loads((out / "export.json").read_text())["source"] == str(saved)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--to", "tensorflow"], "invalid choice"),
        (["--to", "onnx"], "give --size PIXELS"),
        (["--to", "torch", "--size", "0"], "1 or more"),
        (["--to", "torch", "--size", "16", "--batch", "0"], "1 or more"),
        (["--to", "torch", "--size", "12", "--keep", "s1"], "no multiple of its patches of 8"),
        (["--to", "torch", "--size", "16", "--keep", "s3"], "no modality 's3'"),
        (["--to", "safetensors", "--keep", "s3"], "no modality 's3'"),
        (["--to", "safetensors", "--keep", "s1"], "is not sealed"),
        (["--to", "safetensors", "--size", "16"], "--size is no option of an export to safetensors"),
        (["--to", "safetensors", "--features"], "--features is no option of an export to safetensors"),
        (["--to", "torch", "--size", "16", "--license", "mit"], "--license is no option of an export to torch"),
        (["--to", "safetensors", "--config", "pretrain.yaml"], "Unrecognized arguments"),
        ([], "required: --to"),
    ],
)
def test_words_that_make_no_export_are_refused_and_nothing_is_written(
    words: list[str], sentence: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(saved.parent.iterdir())
    assert main(["export", "--ckpt", str(saved), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(saved.parent.iterdir()) == before


@pytest.mark.parametrize("words", [GRAPH, ["--to", "safetensors"]])
def test_what_is_there_already_is_never_replaced(
    words: list[str], saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved.with_name("out").mkdir()
    saved.with_name("out").joinpath("mine.txt").write_text("mine")
    assert main(["export", "--ckpt", str(saved), *words, "--out", str(saved.with_name("out"))]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in saved.with_name("out").iterdir()] == ["mine.txt"]


def test_a_checkpoint_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--ckpt", "none.ckpt", "--to", "safetensors"]) == 2
    assert "There is no checkpoint none.ckpt" in capsys.readouterr().err
