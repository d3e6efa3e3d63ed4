"""``mapex doctor`` says what is right and wrong with a config's data, and goes on where it can."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import save
from mapex_lightning.commands import checkup
from mapex_lightning.commands.checkup import memory
from mapex_lightning.data import checksums
from mapex_lightning.data.examination import sample
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.modality import MODALITIES, Modality, modalities
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.train.rehearsal import Memory, Rehearsal
from tests.workshop import SMALL

TILES = "[{class_path: Synthetic, init_args: {train: 40, val: 8, test: 8, size: 16, missing: 0.0}}]"
WORDS = ["--data.sets", TILES, *SMALL, "--data.modalities", "[s1, dem]"]
PRETRAIN = ["doctor", "--config", "pretrain.yaml", *WORDS]
FINETUNE = ["doctor", "--config", "synthetic.yaml", *WORDS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which stays as it is unless a test writes into it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examined(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def by_check(found: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in found["findings"]}


def test_a_healthy_config_is_ok_and_nothing_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = by_check(examined(PRETRAIN, capsys))
    assert {finding["mark"] for finding in found.values()} == {"ok", "unknown"}
    assert found["step"]["sentence"].startswith("Pretrain takes a step on 4 tiles: loss")
    assert "batches of 4 (an estimate" in found["memory"]["sentence"]
    assert list(here.iterdir()) == []


def test_people_get_a_line_for_each_finding_and_a_sum(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PRETRAIN) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[0].split()[:2] == ["ok", "splits"]
    assert max(map(len, lines)) <= 120
    assert lines[-1] == "10 ok, 1 unknown"


def test_fine_tuning_starts_from_the_checkpoint_that_is_given(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = by_check(examined(FINETUNE, capsys, code=2))
    assert found["model"]["mark"] == "wrong"
    assert "There is no checkpoint pruned.ckpt" in found["model"]["sentence"]
    assert found["values"]["mark"] == "ok"
    save(Encoder(preset("nano", modalities(["s1", "dem"]))), here / "other.ckpt")
    found = by_check(examined([*FINETUNE, "--ckpt", "other.ckpt"], capsys))
    assert found["step"]["sentence"].startswith("FineTune takes a step")
    found = by_check(examined([*FINETUNE, "--ckpt", "gone.ckpt"], capsys, code=2))
    assert "There is no checkpoint gone.ckpt" in found["model"]["sentence"]


def test_values_are_compared_with_what_the_checkpoint_normalises_by(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    radar = replace(MODALITIES["s1"], mean=(30.0, 20.0))
    save(Encoder(preset("nano", (radar, MODALITIES["dem"]))), here / "other.ckpt")
    words = [*FINETUNE, "--ckpt", "other.ckpt"]
    found = [its for its in examined(words, capsys, code=2)["findings"] if its["check"] == "values"]
    assert [its["mark"] for its in found] == ["wrong", "ok"]
    assert "deviations from the modality's mean of 30" in found[0]["sentence"]
    assert "an encoder out of a checkpoint keeps those" in found[0]["remedy"]
    block = json.dumps([{**MODALITIES["s1"].describe(), "mean": [-12, -19]}, "dem"])
    found = examined([*words, "--data.modalities", block], capsys, code=2)["findings"]
    said = [its["sentence"] for its in found if its["mark"] == "look" and its["check"] == "values"]
    assert any(sentence.startswith("The encoder normalises s1 VV by 30, and the data say -12") for sentence in said)


def test_data_that_are_not_there_are_a_finding_and_the_model_another(capsys: pytest.CaptureFixture[str]) -> None:
    sets = "[{class_path: Folder, init_args: {manifest: none.csv, task: multiclass}}]"
    found = examined([*PRETRAIN, "--data.sets", sets], capsys, code=2)["findings"]
    assert {finding["mark"] for finding in found} == {"wrong"}
    assert [finding["check"] for finding in found] == ["files", "model"]
    assert "There is no manifest none.csv" in found[0]["sentence"]


def test_wrong_is_code_2_and_the_first_sentence_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRETRAIN, "--data.sets", TILES.replace("val: 8", "val: 0")]) == 2
    told = capsys.readouterr()
    assert "wrong    splits" in told.out
    assert "mapex: splits: Synthetic: the split val has no tile" in told.err


def test_statistics_are_those_of_the_training_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    found = examined([*PRETRAIN, "--stats"], capsys)["statistics"]
    source = Synthetic(train=40, val=8, test=8, size=16, missing=0.0)
    pixels = np.stack([source.read(key, [MODALITIES["s1"]]).images["s1"] for key in source.keys("train")])
    np.testing.assert_allclose(found["s1"]["mean"], pixels.mean((0, 2, 3), dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(found["s1"]["std"], pixels.std((0, 2, 3), dtype=np.float64), rtol=1e-9)
    assert found["dem"]["valid"] == [40 * 16 * 16]
    assert found == examined([*PRETRAIN, "--stats", "--data.workers", "2"], capsys)["statistics"]


def test_the_block_that_is_printed_is_a_modality_of_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRETRAIN, "--stats"]) == 0
    text = capsys.readouterr().out
    block = yaml.safe_load(text[text.index("  - name: s1") :])
    assert [Modality.of(entry).name for entry in block] == ["s1", "dem"]
    assert main([*PRETRAIN, "--data.modalities", json.dumps(block)]) == 0


def test_checksums_are_compared_when_that_is_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("one")
    checksums.write(here)
    assert "checksums" not in by_check(examined(PRETRAIN, capsys))
    assert by_check(examined([*PRETRAIN, "--checksums"], capsys))["checksums"]["mark"] == "ok"
    (here / "file").write_text("two")
    found = by_check(examined([*PRETRAIN, "--checksums"], capsys, code=2))
    assert "1 file changed since the list was made: file" in found["checksums"]["sentence"]


def test_more_memory_than_there_is_wants_a_look_and_names_the_batch_that_fits() -> None:
    step = Rehearsal(8, 1.0, 1.0, Memory(10**9, 10**9, 2 * 10**9, 10**8), torch.device("cpu"))
    assert memory(step, 64, 20 * 10**9).mark == "ok"
    told = memory(step, 64, 10 * 10**9)
    assert told.mark == "look"
    assert "About 9.7 GiB" in told.sentence
    assert "data.batch_size to 50 or less" in told.remedy
    assert "smaller encoder" in memory(step, 64, 10**9).remedy
    assert memory(step, 64, None).mark == "ok"


def test_a_step_that_cannot_fit_is_not_taken(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "meminfo").write_text("MemTotal: 90000000 kB\nMemAvailable:    9000 kB\n")
    monkeypatch.setattr(checkup, "MEMINFO", here / "meminfo")
    found = by_check(examined(PRETRAIN, capsys, code=2))
    assert "step" not in found
    assert (
        "optimiser alone take 50 MiB, and 21 MiB are free on cpu, so no step was taken" in found["memory"]["sentence"]
    )


def test_a_container_has_the_memory_that_is_left_of_its_limit(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "MEMINFO", here / "meminfo")
    monkeypatch.setattr(checkup, "CGROUP", (here / "max", here / "current"))
    assert checkup.free(torch.device("cpu")) is None
    (here / "meminfo").write_text("MemAvailable:    9000 kB\n")
    assert checkup.free(torch.device("cpu")) == 9000 * 1024
    (here / "current").write_text("500\n")
    for limit, left in (("max", 9000 * 1024), ("800", 300)):
        (here / "max").write_text(f"{limit}\n")
        assert checkup.free(torch.device("cpu")) == left


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "mapex doctor needs a config"),
        (["--stat"], "--stat is no option of mapex doctor without --config"),
        (["--config", "pretrian.yaml"], "Did you mean 'pretrain.yaml'"),
        ([*PRETRAIN[1:], "--data.sizes", "3"], "Did you mean --data.size?"),
        (
            [*PRETRAIN[1:], "--data.sets", "[{class_path: Folder, init_args: {manifest: a, task: segmentation}}]"],
            "Masks",
        ),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("sensor", ["s2", "rgb"])
def test_real_tiles_of_eurosat(
    sensor: str,
    shared_data: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for most in ("COMPARED", "LABELLED"):
        monkeypatch.setattr(sample, most, 20)
    root = shared_data({"s2": "eurosat-ms", "rgb": "eurosat-rgb"}[sensor])
    words = ["doctor", "--config", "eurosat.yaml", "--data.root", str(root), "--data.modalities", f"[{sensor}]"]
    found = by_check(examined([*words, "--model.encoder", "nano", "--trainer.accelerator", "cpu"], capsys))
    assert "wrong" not in {finding["mark"] for finding in found.values()}
    assert found["values"]["mark"] == {"s2": "look", "rgb": "ok"}[sensor]
    assert ("level 1C" in found["values"]["sentence"]) == (sensor == "s2")


def test_real_pictures_in_a_folder_are_not_taken_for_backscatter(
    here: Path, shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = shared_data("ombria") / "OmbriaS1"
    with (here / "tiles.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["tile", "split", "label", "s1"])
        for split, folder in (("train", "train"), ("val", "test"), ("test", "test")):
            pictures = sorted((root / folder / "AFTER").glob("*.png"))[:12]
            pictures = pictures[8:] if split == "test" else pictures[:8]
            rows.writerows([f"{split}-{path.stem}", split, "", path.relative_to(root)] for path in pictures)
    sensor = "[{name: s1, bands: [VV], gsd: 10.0, unit: UNIT, mean: [-12.5], std: [5.2]}]"
    folder = f"{{manifest: tiles.csv, root: '{root}', task: multiclass, classes: [flood]}}"
    sets = f"[{{class_path: Folder, init_args: {folder}}}]"
    words = [*PRETRAIN, "--data.sets", sets, "--data.modalities", sensor.replace("UNIT", "dB")]
    with Image.open(next((root / "test" / "AFTER").glob("*.png"))) as picture:
        assert picture.mode == "L"
    found = by_check(examined(words, capsys, code=2))
    assert "this looks like an 8-bit picture" in found["values"]["sentence"]
    assert found["places"]["mark"] == "unknown"
