"""Where memory runs out, a sentence says of what there was too little and what to change."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.memory import enough_memory, ran_out, remedies, sentence
from mapex_lightning.train.pretrain import Pretrain
from tests.small import world
from tests.workshop import TILES, elsewhere, trainer_of

CUDA = (
    "CUDA out of memory. Tried to allocate 3.12 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.02 GiB is "
    "free. Including non-PyTorch memory, this process has 78.08 GiB memory in use."
)


GPU = torch.device("cuda", 0)


def data_of(**settings: Any) -> TileData:
    return TileData([world()], ["s1", "s2"], **({"size": 8, "batch_size": 64} | settings))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA),
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB). Tried to allocate"),
    ],
)
def test_what_allocators_say_is_known(error: BaseException) -> None:
    assert ran_out(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), OSError(errno.ENOSPC, "No space"), KeyError()])
def test_any_other_error_is_none_of_memory(error: BaseException) -> None:
    assert not ran_out(error)


@pytest.mark.parametrize("ask", [lambda: torch.empty(2**58, dtype=torch.uint8), lambda: np.empty(2**58, np.uint8)])
def test_what_no_machine_has_gets_a_sentence(ask: Any) -> None:
    with (
        pytest.raises(MapexError, match=r"ran out when 2.* more were asked for: this process had .* [MG]iB") as told,
        enough_memory(trainer_of(), Pretrain("nano", ["s1", "s2"]), data_of()),
    ):
        ask()
    assert "batches of 64 tiles of 8 pixels from 2 sensors, precision 32-true" in str(told.value)
    assert told.value.code == 2
    assert told.value.__cause__ is None  # its traceback would hold the memory


def test_any_other_error_passes() -> None:
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(trainer_of(), Pretrain("nano", ["s1"]), data_of()):
        raise RuntimeError("shapes do not match")


def on_a_gpu(precision: str = "32-true", fn: str = "fit") -> Any:
    """What is asked of a Trainer, as if it had a GPU."""
    strategy = SimpleNamespace(root_device=GPU)
    return SimpleNamespace(
        strategy=strategy, precision=precision, accumulate_grad_batches=2, state=SimpleNamespace(fn=fn)
    )


def test_a_full_gpu_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 78 * 2**30)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 70 * 2**30)
    told = sentence(CUDA, on_a_gpu(), Pretrain("nano", ["s1"]), data_of())
    assert told.startswith("The memory of the GPU cuda:0 ran out when 3.12 GiB more were asked for: of 80.0 GiB, 1.0")
    assert "reserved 78.0 GiB and used 70.0 GiB at its worst moment" in told
    order = ["data.batch_size 32 with trainer.accumulate_grad_batches 4", "bf16-mixed", "data.size", "model.encoder"]
    places = [told.index(word) for word in order]
    assert places == sorted(places)


@pytest.mark.parametrize("said", [os.strerror(errno.ENOMEM), "Unable to allocate 3.1 GiB for an array", ""])
def test_beside_a_gpu_the_machine_can_run_out_too(said: str) -> None:
    told = sentence(said, on_a_gpu(), Pretrain("nano", ["s1"]), data_of(workers=8))
    assert told.startswith("The memory of the machine ran out")
    assert "data.workers fewer than 8" in told
    assert "bf16" not in told


def test_only_what_can_be_changed_is_advised() -> None:
    pretrain = Pretrain("nano", ["s1"])
    assert "bf16" not in " ".join(remedies(GPU, on_a_gpu("bf16-mixed"), pretrain, data_of()))
    assert "batch_size" not in " ".join(remedies(GPU, on_a_gpu(), pretrain, data_of(batch_size=1)))
    assert remedies(GPU, on_a_gpu("bf16-mixed", "test"), pretrain, data_of()) == ["data.batch_size 32"]
    tuned = FineTune("nano", "multiclass", ["a", "b"], ["s1"])
    assert "pruned to fewer sensors" in " ".join(remedies(GPU, on_a_gpu(), tuned, data_of()))


LITTLE = """
import resource, sys
import lightning, timm, rasterio, torch
from mapex_lightning import cli
from mapex_lightning.__main__ import main
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 700 * 2**20,) * 2)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process is set as Linux counts")
def test_a_run_that_runs_out_of_memory_ends_with_a_sentence_and_a_whole_checkpoint(tmp_path: Path) -> None:
    tiles = TILES.replace("12", "1024").replace("16", "64")
    words = ["fit", "--config", "pretrain.yaml", "--data.sets", tiles, "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--data.batch_size"]
    env = {**elsewhere(), "MALLOC_ARENA_MAX": "1"}

    def fit(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LITTLE, *words, *more]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    assert (small := fit("8")).returncode == 0, small.stderr
    (last,) = tmp_path.glob("runs/pretrain/last.ckpt")
    before = last.read_bytes()
    large = fit("1024", "--run", "large", "--ckpt", str(last), "--trainer.max_epochs", "2")
    assert large.returncode == 2, large.stderr
    assert "mapex: The memory of the machine ran out" in large.stderr
    assert "data.batch_size 512 with trainer.accumulate_grad_batches 2" in large.stderr
    assert "Traceback" not in large.stderr
    assert last.read_bytes() == before
