"""Several processes learn as one, whichever sensors each of them sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mapex_lightning.checkpoint import read, save, write
from mapex_lightning.modality import Modality
from mapex_lightning.pruning import prune
from tests.builders import SENSORS, checkpoint_of, config_of, encoder_of, observe, seal, tiles_of
from tests.ranks import together
from tests.ranks_at_work import mapex, pairs, several, subsets, through_all_pairs, train
from tests.workshop import SMALL, TILES, finetune


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Sequence[Modality]]]:
    """A tiny encoder of three sensors, one pruned to two of them, and the former for tiles of those two."""
    folder = tmp_path_factory.mktemp("encoders")
    config = config_of()
    encoder = encoder_of(config)
    observe(encoder, tiles_of(config))
    seal(encoder, 0.9)
    save(encoder, folder / "whole.ckpt")
    write(prune(checkpoint_of(encoder), ["s1", "dem"])[0], folder / "pruned.ckpt")
    kept = [sensor for sensor in SENSORS if sensor.name != "s2"]
    whole, pruned = str(folder / "whole.ckpt"), str(folder / "pruned.ckpt")
    return {"whole": (whole, SENSORS), "pruned": (pruned, kept), "on fewer": (whole, kept)}


FIRST = (("pretrain", "whole"), ("full", "pruned"), ("pretrain", "on fewer"))
OTHERS = (*((kind, "whole") for kind in ("full", "linear", "low-rank")), ("linear", "pruned"), ("low-rank", "pruned"))


@pytest.mark.parametrize("work", [FIRST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["first", "others"])
def test_every_pair_of_subsets_of_the_sensors_trains_on_two_ranks_that_stay_equal(
    work: Sequence[tuple[str, str]], encoders: dict[str, tuple[str, Sequence[Modality]]]
) -> None:
    modules = [(kind, *encoders[encoder]) for kind, encoder in work]
    for (_, _, sensors), *found in zip(modules, *together(through_all_pairs, modules), strict=True):
        (seen, losses, weights), (other_seen, other_losses, other_weights) = found
        assert list(zip(seen, other_seen, strict=True)) == pairs(sensors)
        assert len(pairs(sensors)) == len(subsets(sensors)) ** 2 in (49, 9)
        assert bool(torch.tensor([*losses, *other_losses]).isfinite().all())
        assert weights == other_weights
        assert len(set(weights)) == len(weights)  # every step moved them


@pytest.fixture(scope="module")
def two() -> list[list[dict[str, Any]]]:
    """What each of two ranks found: pre-training, and segmentation with half of the tiles each."""
    calls = [
        {"strategy": "ddp", "ranks": 2, "batch": 4},
        {"strategy": "ddp", "ranks": 2, "batch": 4, "task": "segmentation"},
    ]
    return together(several, calls)


def test_the_census_is_the_sum_over_the_ranks_and_every_rank_seals_the_same(two: list[list[dict[str, Any]]]) -> None:
    one, other = (rank[0] for rank in two)
    assert one["census"] == other["census"]
    assert one["allowed"] == other["allowed"] != ()
    alone = train("ddp", 1, 8)
    tokens = [torch.tensor(census)[0].sum(1).tolist() for census in alone["census"]]
    assert [torch.tensor(census)[0].sum(1).tolist() for census in one["census"]] == tokens


def test_every_rank_reports_the_same_validation(two: list[list[dict[str, Any]]]) -> None:
    for one, other in zip(*two, strict=True):
        assert one["val"] == other["val"]


def test_two_ranks_learn_what_one_learns_from_batches_of_both(two: list[list[dict[str, Any]]]) -> None:
    alone = train("ddp", 1, 8, task="segmentation")
    means = [sum(losses) / 2 for losses in zip(*(rank[1]["losses"] for rank in two), strict=True)]
    assert means == pytest.approx(alone["losses"], rel=1e-5)
    assert two[0][1]["val"]["val/loss"] == pytest.approx(alone["val"]["val/loss"], rel=1e-5)
    assert two[0][1]["val"]["val/miou"] == pytest.approx(alone["val"]["val/miou"], rel=1e-5)
    assert two[0][1]["rates"] == alone["rates"]
    assert two[0][1]["census"] == two[1][1]["census"]
    census, whole = (torch.tensor(run["census"]) for run in (two[0][1], alone))
    torch.testing.assert_close(census, whole, rtol=1e-3, atol=1e-3)


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a fine-tuned model was tested, validated and used to predict, on one process and on two."""
    monkeypatch.chdir(tmp_path)
    commands = [[name, *EVALUATE] for name in ("test", "validate", "predict")]
    finetune("--data.sets", ODD, "--model.init_args.encoder", "nano")
    for number in (1, 2):
        words = [[*command, "--run", f"on{number}", "--trainer.devices", str(number)] for command in commands]
        codes = together(mapex, *words) if number == 2 else [mapex(*words)]
        assert codes == [[0, 0, 0]] * number
    return tmp_path / "runs"


ODD = TILES.replace("test: 6", "test: 7").replace("val: 6", "val: 5")
EVALUATE = ["--config", "synthetic.yaml", "--ckpt", "runs/synthetic/last.ckpt", "--data.sets", ODD, *SMALL]
"""A number of tiles that two ranks cannot share out evenly."""


def test_two_ranks_evaluate_every_tile_once_and_find_the_figures_of_one(evaluated: Path) -> None:
    for command in ("test", "validate"):
        one, two = (json.loads((evaluated / run / f"{command}-last.json").read_text()) for run in ("on1", "on2"))
        assert one.pop("ckpt") == two.pop("ckpt")
        assert one.pop("classes") == two.pop("classes")
        assert two == pytest.approx(one, rel=1e-5)
        one, two = ((evaluated / run / f"{command}-last-confusion.csv").read_text() for run in ("on1", "on2"))
        assert one == two
    one, two = ((evaluated / run / "predictions" / "predictions.csv").read_text() for run in ("on1", "on2"))
    assert len(one.splitlines()) == 1 + 7
    assert two == one
    assert [path.name for path in (evaluated / "on2" / "predictions").iterdir()] == ["predictions.csv"]


def test_ranks_of_which_one_sees_more_of_the_validation_save_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uneven = TILES.replace("val: 6", "val: 9")  # three batches of two on one rank, two on the other
    words = ["fit", "--config", "pretrain.yaml", "--data.sets", uneven, *SMALL, "--data.batch_size", "2"]
    words += ["--trainer.devices", "2", "--trainer.limit_val_batches", "0.75", "--save_minutes", "0"]
    assert together(mapex, words) == [[0], [0]]
    assert read(tmp_path / "runs/pretrain/last.ckpt")["global_step"] == 3


def quiet() -> dict[str, str]:
    """The environment with one thread per process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def launched(*words: str, folder: Path) -> str:
    """What a command prints that starts its second process itself."""
    command = [sys.executable, "-m", "mapex_lightning", *words]
    done = subprocess.run(command, cwd=folder, env=quiet(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "sync_dist" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_ddp_config_starts_two_processes_and_pruning_on_tiles_as_well(tmp_path: Path) -> None:
    words = ["--config", "pretrain.yaml", "--config", "ddp.yaml", *SMALL, "--data.sets", TILES, "--data.workers", "0"]
    words += ["--trainer.devices", "2"]
    said = launched("fit", *words, folder=tmp_path)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["pretrain"]
    assert (tmp_path / "runs/pretrain/last.ckpt").is_file()
    assert said.count("run folder: runs/pretrain") == 2
    assert said.count("8 tiles per step: 4 x 2 processes") == 1
    assert launched("prune", "--ckpt", "last.ckpt", "--keep", "s1", *words, folder=tmp_path).count("kept s1") == 1
    assert (tmp_path / "runs/pretrain/pruned.ckpt").is_file()


def test_fewer_tiles_than_ranks_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", "pretrain.yaml", "--data.sets", TILES.replace("train: 12", "train: 1"), *SMALL]
    assert together(mapex, [*words, "--trainer.devices", "2"]) == [[2], [2]]
