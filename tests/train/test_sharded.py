"""Weights that are shared out learn what whole ones learn, and are whole again in a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import read
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.train.sharded import share_out
from tests.ranks import together
from tests.ranks_at_work import mapex, several
from tests.workshop import SMALL, TILES

EPOCHS = 2
CLOSE = 1e-5
"""Both add up the same numbers in another order."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checkpoints of `runs` lie."""
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[dict[str, Any]]:
    """What the first of two ranks found: DDP, FSDP2, FSDP2 stopped and gone on with, and gone on with under DDP."""
    here = {"ranks": 2, "batch": 4, "epochs": EPOCHS}
    calls: list[dict[str, Any]] = [
        {"strategy": "ddp", "save": "ddp.ckpt"},
        {"strategy": "fsdp2", "save": "fsdp2.ckpt"},
        {"strategy": "fsdp2", "save": "part.ckpt", "stop_after": 1},
        {"strategy": "fsdp2", "resume": "part.ckpt"},
        {"strategy": "ddp", "resume": "part.ckpt"},
    ]
    before = Path.cwd()
    os.chdir(folder)
    try:
        first, second = together(several, [{**here, **call} for call in calls])
    finally:
        os.chdir(before)
    for one, other in zip(first, second, strict=True):
        assert {**one, "losses": []} == {**other, "losses": []}
    found: list[dict[str, Any]] = first
    return found


def test_losses_figures_and_census_are_those_of_whole_weights(runs: list[dict[str, Any]]) -> None:
    whole, shared = runs[:2]
    assert len(whole["losses"]) == 2 * EPOCHS
    assert shared["losses"] == pytest.approx(whole["losses"], rel=CLOSE)
    assert shared["val"] == pytest.approx(whole["val"], rel=CLOSE)
    assert shared["allowed"] == whole["allowed"] != ()
    for one, other in zip(shared["census"], whole["census"], strict=True):
        assert torch.equal(torch.tensor(one)[0], torch.tensor(other)[0])


def test_a_checkpoint_is_that_of_whole_weights(runs: list[dict[str, Any]], folder: Path) -> None:
    shared, whole = read(folder / "fsdp2.ckpt"), read(folder / "ddp.ckpt")
    assert shared.keys() == whole.keys()
    assert list(shared["state_dict"]) == list(whole["state_dict"])
    for name, value in whole["state_dict"].items():
        if name.endswith("qkv.bias"):  # that of keys has no gradient but rounding, of which Adam makes whole steps
            continue
        torch.testing.assert_close(shared["state_dict"][name], value, rtol=1e-3, atol=1e-5, msg=name)
    (one,), (other,) = shared["optimizer_states"], whole["optimizer_states"]
    assert [group["params"] for group in one["param_groups"]] == [group["params"] for group in other["param_groups"]]
    assert one["state"].keys() == other["state"].keys()
    for number, each in other["state"].items():
        for key, value in each.items():
            torch.testing.assert_close(one["state"][number][key], value, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("number", [3, 4], ids=["fsdp2", "ddp"])
def test_a_run_goes_on_as_if_it_had_not_stopped(runs: list[dict[str, Any]], number: int) -> None:
    through, begun, continued = runs[1], runs[2], runs[number]
    assert [*begun["losses"], *continued["losses"]] == pytest.approx(through["losses"], rel=CLOSE)
    assert continued["val"] == pytest.approx(through["val"], rel=CLOSE)
    assert continued["rates"] == through["rates"][2:]


@pytest.mark.usefixtures("runs")
def test_one_process_knows_the_checkpoint_of_many(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder / "fsdp2.ckpt")]) == 0
    assert f"{2 * EPOCHS} steps" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("runs")
def test_one_process_prunes_and_fine_tunes_the_checkpoint_of_many(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--ckpt", str(folder / "fsdp2.ckpt"), "--keep", "s1,s2", "--out", "pruned.ckpt"]) == 0
    words = ["--data.sets", TILES, "--data.modalities", "[s1, s2]", *SMALL]
    assert main(["fit", "--config", "synthetic.yaml", "--ckpt", "pruned.ckpt", *words]) == 0


def shares_of(name: str) -> tuple[int, int]:
    """How many weights an encoder has, and how many of them a rank keeps; none is made in fact."""
    torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    with torch.device("meta"):
        encoder = Encoder(preset(name, modalities(["s1", "s2", "rgb"])))
    total = sum(weight.numel() for weight in encoder.parameters())
    share_out(encoder, init_device_mesh("cpu", (2,)), half=True)
    return total, sum(w.to_local().numel() for w in encoder.parameters() if isinstance(w, DTensor))


def test_each_of_two_ranks_keeps_half_of_the_large_encoder() -> None:
    (total, mine), (same, other) = together(shares_of, "large")
    assert total == same == mine + other
    assert total == pytest.approx(809e6, rel=0.03)
    assert mine == pytest.approx(total / 2, rel=1e-3)


@pytest.mark.slow
def test_bfloat16_stays_close_to_whole_weights_in_it() -> None:
    here = {"ranks": 2, "batch": 4, "epochs": EPOCHS, "precision": "bf16-mixed"}
    whole, shared = together(several, [{"strategy": name, **here} for name in ("ddp", "fsdp2")])[0]
    assert shared["losses"] == pytest.approx(whole["losses"], rel=3e-3)
    assert shared["val"]["val/loss"] == pytest.approx(whole["val"]["val/loss"], rel=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"router": "grouped"}, {"router": "free"}, {"task": "segmentation"}, {"task": "multiclass"}]
)
def test_every_kind_of_training_stays_close_to_that_of_whole_weights(settings: dict[str, Any]) -> None:
    here = {"ranks": 2, "batch": 4, "accumulate_grad_batches": 2, **settings}
    whole, shared = together(several, [{"strategy": name, **here} for name in ("ddp", "fsdp2")])[0]
    assert shared["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert shared["steps"] == whole["steps"] == 2


def test_the_fsdp_config_saves_within_a_validation_and_trains_on_after_the_first_process_has_drawn_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config", "pretrain.yaml", "--config", "fsdp.yaml", "--data.workers", "0", *SMALL]
    words += ["--data.sets", TILES.replace("val: 6", "val: 8"), "--trainer.devices", "2", "--trainer.max_epochs", "2"]
    words += ["--save_minutes", "0"]  # also after the last batch of a validation, just before the pictures
    assert together(mapex, ["fit", *words]) == [[0]] * 2
    assert (tmp_path / "runs/pretrain/routing.csv").is_file()
    assert read(tmp_path / "runs/pretrain/last.ckpt")["global_step"] == 2
