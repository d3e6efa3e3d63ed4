"""A run in processes of its own that is killed or told to stop, at any moment, ends as one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mapex_lightning.errors import TRY_AGAIN
from tests.resuming import FINETUNE, PRETRAIN, assert_equal

pytestmark = pytest.mark.slow

LONGER = ["--trainer.max_epochs", "4", "--save_minutes", "0"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "2"]
ENDED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: TRY_AGAIN, signal.SIGUSR1: TRY_AGAIN}


def start(folder: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    """``mapex fit`` in a session of its own, with one thread per process, once it has built its model."""
    command = [sys.executable, "-m", "mapex_lightning", "fit", *words]
    with (folder / "err.txt").open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(("Pretrain:", "FineTune:", "the run")):
            return process
    process.wait(60)
    raise AssertionError((folder / "err.txt").read_text())


def end(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str]:
    """Waits for the end of a run and all of its processes; its exit code and what it said."""
    said, _ = process.communicate(timeout=timeout)
    for _ in range(100):  # nobody may be left in its session
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a process of the run lives on")
    return process.returncode, said


def interrupt(folder: Path, words: Sequence[str], number: int, seed: int, whole_group: bool) -> int:
    """Interrupts a run up to four times at random moments and lets it come to its end; how many times it was."""
    luck = random.Random(seed)
    for time_of in range(4):
        process = start(folder, words)
        assert process.stdout is not None
        if time_of:  # the first time while processes and data come into being, then after a step
            for line in process.stdout:
                if line.startswith("epoch "):
                    break
        time.sleep(luck.uniform(0.0, 3.0))
        if process.poll() is None:
            (os.killpg if whole_group or number == signal.SIGKILL else os.kill)(process.pid, number)
        code, _ = end(process)
        errors = (folder / "err.txt").read_text()
        if code == 0:
            return time_of
        # One that is not yet ready to hear ends at once; Lightning then kills the others.
        assert code in (ENDED[signal.Signals(number)], -number, -signal.SIGKILL), errors
        assert "Traceback" not in errors, errors
    assert end(start(folder, words))[0] == 0
    return 4


def refused(folder: Path, words: Sequence[str]) -> str:
    """What ``mapex fit`` says when it refuses."""
    command = [sys.executable, "-m", "mapex_lightning", "fit", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    return done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_an_interrupted_run_ends_as_one_that_never_was(
    kind: str, processes: int, workers: int, number: int, tmp_path: Path
) -> None:
    words = [*{"pretrain": PRETRAIN, "finetune": FINETUNE}[kind], *LONGER, "--data.workers", str(workers)]
    words += TWO if processes == 2 else []
    assert end(start(tmp_path, [*words, "--run", "whole"]))[0] == 0
    times = interrupt(
        tmp_path, [*words, "--run", "cut"], number, seed=processes + 2 * workers, whole_group=workers == 1
    )
    print(f"{times} interruptions")
    assert_equal(tmp_path / "runs/cut", tmp_path / "runs/whole")


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path) -> None:
    words = [*PRETRAIN, "--trainer.max_epochs", "50", "--run", "one"]
    first = start(tmp_path, words)
    second = refused(tmp_path, words)
    assert f"is being worked on by process {first.pid} on" in second
    first.send_signal(signal.SIGTERM)
    assert end(first)[0] == TRY_AGAIN


def test_a_run_goes_on_with_one_process_instead_of_two(tmp_path: Path) -> None:
    words = [*PRETRAIN, "--trainer.max_epochs", "30", "--run", "one"]
    first = start(tmp_path, [*words, *TWO])
    time.sleep(30)
    first.send_signal(signal.SIGTERM)
    assert end(first)[0] == TRY_AGAIN
    said = refused(tmp_path, ["--run", "one", "--trainer.devices", "1"])
    assert "takes 4 tiles per step (2 processes x 2 tiles), and now it would be 2 (1 process x 2 tiles)" in said
    words = ["--run", "one", "--trainer.devices", "1", "--data.batch_size", "4"]
    process = start(tmp_path, words)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("going on after step")
    assert "1 process x 4 tiles instead of 2 processes x 2 tiles: the same tiles per step" in line
    assert end(process)[0] == 0
