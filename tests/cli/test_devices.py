"""Devices, processes and precision go together, or there is a sentence before anything waits."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from mapex_lightning.__main__ import main
from mapex_lightning.cli.building import MapexCLI, build
from mapex_lightning.cli.devices import batch_line, check, minutes, set_timeout
from mapex_lightning.errors import MapexError
from mapex_lightning.train.sharded import FullySharded
from tests.workshop import SMALL, TILES, trainer_of

PLAIN = {
    "accelerator": "cpu",
    "devices": "auto",
    "num_nodes": 1,
    "strategy": "auto",
    "precision": None,
    "val_check_interval": None,
}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}
BATCH = {"SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "1"}
"""What a batch script with two tasks knows, as Slurm 22.05 tells it."""
STEP = {**BATCH, "SLURM_STEP_ID": "0"}
"""What a command behind srun knows."""
TOLD = {"SLURM_NTASKS_PER_NODE": "2"}


def settings(**changes: Any) -> dict[str, Any]:
    return PLAIN | changes


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("mapex_lightning.cli.devices.CUDAAccelerator.is_available", lambda: True)


@pytest.mark.parametrize(
    ("changes", "environment"),
    [
        ({}, {}),
        ({"devices": 2}, {}),
        ({"devices": "2", "strategy": "ddp", "precision": "bf16-mixed"}, {}),
        ({"devices": 2, "num_nodes": 2}, {"MASTER_ADDR": "a", "NODE_RANK": "0"}),
        ({"devices": 2, "num_nodes": 2}, TORCHRUN),
        ({"devices": 2}, {**STEP, **TOLD}),
        ({"devices": 1, "num_nodes": 2}, {**STEP, "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "1"}),
        ({}, {**BATCH, **TOLD}),
        ({}, {"SLURM_NTASKS": "1"}),
        ({"devices": 2}, {**BATCH, "SLURM_JOB_NAME": "bash"}),
        ({"accelerator": "auto", "strategy": "fsdp2"}, {}),
    ],
)
def test_what_goes_together_passes(changes: dict[str, Any], environment: dict[str, str]) -> None:
    check(settings(**changes), environment)


@pytest.mark.parametrize(
    ("changes", "environment", "words"),
    [
        ({"devices": 2}, STEP, ["--ntasks-per-node=2 instead of --ntasks"]),
        ({"devices": 2}, BATCH, ["without srun", "srun mapex"]),
        ({"devices": 2}, {"SLURM_NTASKS": "1"}, ["without srun", "--ntasks-per-node"]),
        ({"strategy": "ddp"}, {**BATCH, **TOLD}, ["without srun"]),
        ({"devices": 4}, {**STEP, **TOLD}, ["2 processes per node", "trainer.devices makes 4"]),
        ({}, {**STEP, **TOLD}, ["2 processes per node", "trainer.devices makes 1"]),
        ({"devices": 4}, {"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"}, ["1 tasks", "--ntasks-per-node=4"]),
        ({"devices": 2}, {**STEP, **TOLD, "SLURM_JOB_NUM_NODES": "2"}, ["2 nodes", "trainer.num_nodes is 1"]),
        ({"devices": 1, "num_nodes": 2}, TORCHRUN, ["torchrun", "--nproc-per-node=2"]),
        ({"devices": 2}, TORCHRUN, ["4 processes in all", "--nnodes"]),
        ({"num_nodes": 2}, {}, ["trainer.num_nodes is 2", "NODE_RANK"]),
        ({"devices": 0}, {}, ["1 or more"]),
        ({"devices": "cuda:0"}, {}, ["0,1", "found cuda:0", "trainer.accelerator"]),
        ({"val_check_interval": "00:00:30:00"}, {}, ["number of batches", "found 00:00:30:00"]),
        ({"val_check_interval": timedelta(minutes=30)}, {}, ["number of batches", "found 0:30:00"]),
        ({"devices": []}, {}, ["1 or more"]),
        ({"precision": "16-mixed"}, {}, ["needs a GPU", "bf16-mixed"]),
        ({"precision": 16}, {}, ["needs a GPU"]),
        *(
            ({"precision": one}, {}, ["32-true, bf16-mixed or 16-mixed"])
            for one in ("bf16-true", "16-true", "64-true", 64)
        ),
        ({"precision": "16-mixed", "strategy": "fsdp2"}, {}, ["fsdp2 takes", "32-true or bf16-mixed"]),
        ({"precision": "bf16-true", "strategy": FullySharded()}, {}, ["fsdp2 takes"]),
        ({"strategy": "fsdp"}, {}, ["older FSDP", "fsdp2"]),
    ],
)
def test_what_does_not_go_together_gets_a_sentence(
    changes: dict[str, Any], environment: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(MapexError) as caught:
        check(settings(**changes), environment)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_gets_a_sentence(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapex_lightning.cli.devices.CUDAAccelerator.is_available", lambda: False)
    with pytest.raises(MapexError, match="finds no GPU here"):
        check(settings(accelerator=accelerator), {})


@pytest.mark.parametrize("devices", ["auto", 1, 2])
def test_tasks_that_see_a_gpu_each_are_told_to_see_all(devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("mapex_lightning.cli.devices.CUDAAccelerator.is_available", lambda: True)
    with pytest.raises(MapexError, match=r"sees a single GPU.*--gpus-per-node instead of --gpus-per-task"):
        check(settings(accelerator="gpu", devices=devices), {**STEP, **TOLD})


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("devices", [3, "3", "1,2", [0, 2]])
def test_more_devices_than_there_are_get_a_sentence(devices: Any) -> None:
    with pytest.raises(MapexError, match=r"finds 2 GPUs here.*CUDA_VISIBLE_DEVICES"):
        check(settings(accelerator="auto", devices=devices), {})


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("devices", ["auto", -1, "-1", 2, "2", "0,1", [0, 1]])
def test_however_devices_are_written_they_are_counted(devices: Any) -> None:
    check(settings(accelerator="gpu", devices=devices, precision="16-mixed"), {**STEP, **TOLD})


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("devices", [1, "1", "1,", [1]])
def test_one_device_is_not_two_tasks(devices: Any) -> None:
    with pytest.raises(MapexError, match=r"trainer\.devices makes 1"):
        check(settings(accelerator="gpu", devices=devices), {**STEP, **TOLD})


def strategy(command: str, *words: str) -> Any:
    """The strategy that a command line makes."""
    words = ("--config", "pretrain.yaml", "--data.sets", TILES, *SMALL, "--trainer.logger", "false", *words)
    built = build(command, words, kind=_Unwritten)
    return built.trainer.strategy


class _Unwritten(MapexCLI):
    """Builds everything and needs no run folder."""

    def before_instantiate_classes(self) -> None:
        """Leaves checkpoints and folders alone."""


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--trainer.strategy", "ddp"], DDPStrategy),
        (["--trainer.devices", "2"], DDPStrategy),
        (["--trainer.strategy", "fsdp2"], FullySharded),
    ],
)
def test_processes_wait_minutes_however_the_strategy_is_chosen(words: list[str], kind: type) -> None:
    found = strategy("fit", *words)
    assert found._timeout == timedelta(minutes=10)
    assert type(found) is kind


def test_the_minutes_can_be_set_and_a_map_waits_longer() -> None:
    assert strategy("fit", "--trainer.strategy", "ddp", "--timeout", "2.5")._timeout == timedelta(seconds=150)
    assert minutes("predict") == 60 > minutes("test") == minutes("fit")
    for none in (float("nan"), float("inf")):
        with pytest.raises(MapexError, match="number of minutes"):
            set_timeout(none)
    with pytest.raises(MapexError, match="above 0"):
        set_timeout(0)


def test_tiles_per_step_are_told_where_they_are_not_the_batch() -> None:
    assert batch_line(trainer_of(), 8) is None
    assert batch_line(trainer_of(accumulate_grad_batches=4), 8) == "32 tiles per step: 8 x 4 batches accumulated"
    both = trainer_of(devices=2, num_nodes=2, strategy="ddp", accumulate_grad_batches=2)
    assert batch_line(both, 8) == "64 tiles per step: 8 x 4 processes x 2 batches accumulated"


def test_a_sentence_ends_the_command_before_a_run_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "--config", "pretrain.yaml", "--data.sets", TILES, *SMALL, "--trainer.devices", "2"]) == 2
    assert "instead of --ntasks" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_torchrun_starts_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "mapex_lightning", "fit", "--config", "pretrain.yaml", "--config", "ddp.yaml", *SMALL]
    command += ["--data.sets", TILES, "--data.workers", "0", "--trainer.devices", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 tiles per step: 4 x 2 processes") == 1
    assert (tmp_path / "runs/pretrain/last.ckpt").is_file()
