"""The manual, run: pre-train, prune, fine-tune, test, predict; and a pruned file that stands alone."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import describe, load, read
from mapex_lightning.data import raster
from mapex_lightning.tiles import Tiles
from tests.workshop import SMALL, TILES, finetune, pretrain


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the main job was done."""
    folder = tmp_path_factory.mktemp("journey")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pretrain()
        assert main(["prune", "--ckpt", "last.ckpt", "--keep", "s1,s2"]) == 0
        finetune()
        assert main(["test", "--config", "synthetic.yaml", "--data.sets", TILES, *SMALL]) == 0
    return folder


def test_a_run_folder_holds_settings_logs_checkpoints_and_pictures(journey: Path) -> None:
    run = journey / "runs" / "pretrain"
    for name in ("config.yaml", "last.ckpt", "best.ckpt", "routing.csv", "csv/metrics.csv", "pruned.json"):
        assert (run / name).is_file(), name
    assert list((run / "tensorboard").glob("events.*"))
    pictures = {file.name for file in (run / "pictures").glob("*.png")}
    assert pictures == {"experts-start.png", "experts-epoch001.png", "reconstruction-epoch001.png"}


def test_the_log_tells_losses_per_sensor_routing_learning_rate_and_speed(journey: Path) -> None:
    with (journey / "runs/pretrain/csv/metrics.csv").open() as file:
        columns = set(csv.DictReader(file).fieldnames or ())
    wanted = {"train/loss", "train/loss/s1", "val/loss/s2", "train/mutual", "train/z", "routing/nmi/block0"}
    wanted |= {"routing/effective/dem/block4", "lr-AdamW", "train/tiles_per_second"}
    assert {name for name in wanted if not any(column.startswith(name) for column in columns)} == set()


def test_pruning_keeps_two_sensors_and_reports_what_it_cost(journey: Path) -> None:
    pruned = load(journey / "runs/pretrain/pruned.ckpt")
    assert pruned.config.names == ("s1", "s2")
    report = json.loads((journey / "runs/pretrain/pruned.json").read_text())
    counted = sum(weight.numel() for weight in pruned.parameters())
    assert report["parameters"]["after"] == counted < report["parameters"]["before"]
    assert set(report["retained_mass"]) == {"s1", "s2"}
    assert set(report["experts_kept"]) == {"0", "2", "4"}


def test_the_lineage_tells_the_whole_story(journey: Path) -> None:
    lineage = describe(read(journey / "runs/synthetic/last.ckpt")).lineage
    assert [line.split()[0] for line in lineage] == ["fit:", "prune", "fit:"]
    assert "--keep s1,s2" in lineage[1]


def test_testing_finds_the_best_model_of_its_own_config_and_writes_the_figures(journey: Path) -> None:
    figures = json.loads((journey / "runs/synthetic/test.json").read_text())
    assert 0 <= figures["test/accuracy"] <= 1
    assert figures["ckpt"].endswith("best.ckpt")
    with (journey / "runs/synthetic/test-confusion.csv").open(newline="") as file:
        (corner, *columns), *rows = csv.reader(file)
    assert corner == "label"
    assert columns == [name for name, *_ in rows] == list(figures["classes"])
    assert [sum(map(int, counts)) for _, *counts in rows] == [its["tiles"] for its in figures["classes"].values()]
    right = sum(int(counts[at]) for at, (_, *counts) in enumerate(rows))
    assert figures["test/accuracy"] == pytest.approx(right / 6)


def test_a_file_alone_gives_the_same_figure_in_a_fresh_process_and_folder(journey: Path, tmp_path: Path) -> None:
    shutil.copy(journey / "runs/synthetic/best.ckpt", tmp_path / "alone.ckpt")
    command = [sys.executable, "-m", "mapex_lightning", "test", "--config", "synthetic.yaml", "--ckpt", "alone.ckpt"]
    done = subprocess.run(
        [*command, "--data.sets", TILES, *SMALL], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    here = json.loads((tmp_path / "runs/synthetic/test-alone.json").read_text())
    there = json.loads((journey / "runs/synthetic/test.json").read_text())
    assert {k: v for k, v in here.items() if k != "ckpt"} == {k: v for k, v in there.items() if k != "ckpt"}


def test_refreshing_the_census_on_tiles_goes_through_the_trainer(
    journey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, out = journey / "runs/pretrain/last.ckpt", tmp_path / "s2.ckpt"
    tiles = ["--config", "pretrain.yaml", "--data.sets", TILES, *SMALL]
    assert main(["prune", "--ckpt", str(source), "--keep", "s2", "--out", str(out), *tiles]) == 0
    assert load(out).config.names == ("s2",)
    assert "census refreshed on tiles" in describe(read(out)).lineage
    assert {path.name for path in tmp_path.iterdir()} == {"s2.ckpt", "s2.json", "s2.html", "s2-experts.png"}


def test_a_fine_tuned_model_can_be_pruned_further_and_tested_beside_the_runs_own_figures(
    journey: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(journey)
    words = ["--ckpt", "runs/synthetic/best.ckpt", "--keep", "s2", "--out", "runs/synthetic/s2.ckpt"]
    assert main(["prune", *words]) == 0
    test = ["test", "--config", "synthetic.yaml", "--data.sets", TILES, *SMALL, "--data.modalities", "[s2]"]
    own = (journey / "runs/synthetic/test.json").read_text()
    assert main([*test, "--ckpt", "runs/synthetic/s2.ckpt"]) == 0
    said = capsys.readouterr().out
    assert "figures: runs/synthetic/test-s2.json" in said
    assert ["class", "f1", "precision", "recall", "tiles"] in [line.split() for line in said.splitlines()]
    assert (journey / "runs/synthetic/test-s2-confusion.csv").is_file()
    assert json.loads((journey / "runs/synthetic/test-s2.json").read_text())["ckpt"] == "runs/synthetic/s2.ckpt"
    assert (journey / "runs/synthetic/test.json").read_text() == own


def test_low_rank_experts_are_trained_tested_pruned_and_predicted_with(
    journey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model.train", "low-rank", "--model.rank", "2", "--model.drop_sensors", "0.3"]
    words += ["--model.pool", "redundancy"]
    last = finetune("--ckpt", str(journey / "runs/pretrain/last.ckpt"), *words, run="low-rank")
    assert main(["prune", "--ckpt", str(last), "--keep", "s2"]) == 0
    pruned = last.with_name("pruned.ckpt")
    assert describe(read(pruned)).encoder.low_rank == 2
    for command in ("test", "predict"):
        for path, sensors in ((last, "[s1, s2]"), (pruned, "[s2]")):
            tiles = ["--config", "synthetic.yaml", "--data.sets", TILES, *SMALL, "--data.modalities", sensors]
            assert main([command, *tiles, "--ckpt", str(path)]) == 0


def test_predictions_name_every_tile_and_its_probabilities(journey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(journey)
    assert main(["predict", "--config", "synthetic.yaml", "--data.sets", TILES, *SMALL]) == 0
    with (journey / "runs/synthetic/predictions/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["tile"] for row in rows] == [f"test-{index:06d}" for index in range(6)]
    for row in rows:
        shares = [float(value) for name, value in row.items() if name not in ("tile", "label")]
        assert sum(shares) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("task", ["segmentation", "multilabel"])
def test_other_tasks_are_trained_tested_and_predicted(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finetune("--model.encoder", "nano", task=task, run=task)
    tiles = TILES.replace("missing: 0.2", f"missing: 0.2, task: {task}")
    words = ["--config", "synthetic.yaml", "--data.sets", tiles, *SMALL, "--run", task]
    assert main(["test", *words]) == 0
    assert main(["predict", *words]) == 0
    folder = tmp_path / "runs" / task / "predictions"
    if task == "segmentation":
        mask = raster.read_mask(folder / "test-000000.tif")
        assert mask.shape == (16, 16)
        assert set(np.unique(mask)) <= set(range(10))
    else:
        assert (folder / "predictions.csv").is_file()


def test_a_library_user_gets_features_in_five_lines(journey: Path) -> None:
    encoder = load(journey / "runs/pretrain/pruned.ckpt")
    tiles = Tiles.of(s1=torch.full((2, 2, 16, 16), -12.0), s2=torch.full((2, 12, 16, 16), 900.0))
    assert encoder.pooled(tiles).shape == (2, 128)
    assert encoder.feature_map(tiles).shape == (2, 128, 2, 2)
    assert set(encoder.pooled_by_modality(tiles)) == {"s1", "s2"}


def test_validating_a_pre_training_run_gives_the_loss_it_ended_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = pretrain("--model.seal", "null").parent  # sealing comes after the last validation and changes a little
    assert main(["validate", "--config", "pretrain.yaml", "--data.sets", TILES, *SMALL]) == 0
    found = json.loads((run / "validate.json").read_text())
    with (run / "csv/metrics.csv").open() as file:
        losses = [row["val/loss"] for row in csv.DictReader(file) if row["val/loss"]]
    assert found["val/loss"] == pytest.approx(float(losses[-1]), rel=1e-5)


def test_logs_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {path.name for path in pretrain("--trainer.logger", "false").parent.iterdir()} == {
        "best.ckpt",
        "config.yaml",
        "last.ckpt",
        "pictures",
        "routing.csv",
    }


def test_a_run_is_resumed_where_it_stopped(journey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    longer = pretrain("--ckpt", str(journey / "runs/pretrain/last.ckpt"), "--trainer.max_epochs", "2")
    description = describe(read(longer))
    assert read(longer)["global_step"] == 6
    assert description.lineage == ("fit: masked reconstruction, 6 steps",)


def test_the_last_checkpoint_is_that_of_the_end_also_where_an_earlier_one_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    last = pretrain("--model.optimiser.lr", "0", "--model.seal", "null", "--trainer.max_epochs", "3")
    assert read(last.with_name("best.ckpt"))["epoch"] == 0
    assert read(last)["epoch"] == 2


def test_a_later_run_of_the_same_name_leaves_the_earlier_one_alone(
    journey: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(journey)
    before = (journey / "runs/synthetic/last.ckpt").read_bytes()
    assert main(["fit", "--config", "synthetic.yaml", "--data.sets", TILES, *SMALL, "--model.train", "linear"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run folder: ")]
    assert lines == ["run folder: runs/synthetic-2"] * 2
    assert (journey / "runs/synthetic/last.ckpt").read_bytes() == before
    shutil.rmtree(journey / "runs/synthetic-2")
