"""A run in processes of its own that is killed or told to stop, at any moment, ends as one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from mapex_lightning.errors import TRY_AGAIN
from tests.ranks import commands
from tests.resuming import FINETUNE, PRETRAIN, assert_equal, losses

pytestmark = pytest.mark.slow

LONGER = ["--trainer.max_epochs", "4", "--save_minutes", "0"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "2"]
KINDS = {"pretrain": PRETRAIN, "finetune": FINETUNE}
KINDS["gathered"] = [*FINETUNE, "--trainer.accumulate_grad_batches", "2"]
NUMBERS = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]
ENDED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: TRY_AGAIN, signal.SIGUSR1: TRY_AGAIN}


Wholes = Callable[[Sequence[str], int], Path]


def until(what: Callable[[], bool], seconds: float) -> None:
    """Waits until something is so."""
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.05)


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


def told(folder: Path, before: str) -> bool:
    """Whether the first rank has said a line that begins so."""
    return any(line.startswith(before) for line in (folder / "out-0.txt").read_text().splitlines())


def end_of(ranks: Sequence[BaseProcess], timeout: float = 600) -> list[int | None]:
    """Waits for the end of forked ranks and all of their processes; their exit codes.

    As launchers do, it kills the others some time after one has ended badly: they may not have met yet.
    """
    try:
        until(lambda: ended(ranks) == len(ranks) or badly(ranks), timeout)
        with suppress(AssertionError):
            until(lambda: ended(ranks) == len(ranks), 20)
        for rank in ranks:
            if rank.is_alive():
                rank.kill()
            rank.join(20)
        until(lambda: not any(group_lives(rank.pid) for rank in ranks), 30)  # nobody may be left in their sessions
    finally:
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.killpg(rank.pid or 0, signal.SIGKILL)
    return [rank.exitcode for rank in ranks]


def ended(ranks: Sequence[BaseProcess]) -> int:
    """How many have."""
    return sum(not rank.is_alive() for rank in ranks)


def badly(ranks: Sequence[BaseProcess]) -> bool:
    """Whether one has ended for another reason than that it was done or told to stop."""
    return any(rank.exitcode not in (None, 0, TRY_AGAIN) for rank in ranks)


def group_lives(process: int | None) -> bool:
    """Whether somebody is left in the session that a process has begun."""
    try:
        os.killpg(process or 0, 0)
    except ProcessLookupError:
        return False
    return True


def interrupt_ranks(folder: Path, words: Sequence[str], world: int, number: signal.Signals, luck: random.Random) -> int:
    """Interrupts all ranks up to four times at random moments and lets them come to their end; how many times."""
    for time_of in range(4):
        codes = interrupted(folder, words, world, number, luck.uniform(0.0, 3.0), after_a_step=time_of > 0)
        errors = [(folder / f"err-{rank}.txt").read_text() for rank in range(world)]
        if codes == [0] * world:
            return time_of
        # One that is not yet ready to hear ends at once; another one that waits for it then misses it.
        assert {*codes} <= {ENDED[number], -number, -signal.SIGKILL, 1}, (codes, errors)
        # Processes that read tiles end by themselves when theirs is killed, and may say where they were.
        assert number == signal.SIGKILL or not any("Traceback" in error for error in errors), errors
    assert end_of(commands(folder, ["fit", *words], world)) == [0] * world
    return 4


def interrupted(
    folder: Path, words: Sequence[str], world: int, number: int, seconds: float, after_a_step: bool
) -> list[int | None]:
    """Sends a signal to all ranks so many seconds after they have come into being or taken a step; their exit codes."""
    ranks = commands(folder, ["fit", *words], world)
    if after_a_step:
        until(lambda: told(folder, "epoch ") or ended(ranks) > 0, 300)
    time.sleep(seconds)
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.kill(rank.pid or 0, number)
    return end_of(ranks)


def assert_goes_on(folder: Path, whole: Path, times: int) -> None:
    """Compares a run that was interrupted with one that was not, and says how often it was and what was compared."""
    assert_equal(folder, whole)
    print(f"interruptions: {times}; losses compared and equal to the bit: {len(losses(whole))}")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    """Runs that were not interrupted, without a process that reads, by their words and number of processes."""

    @cache
    def whole(words: tuple[str, ...], world: int) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        assert end_of(commands(folder, ["fit", *words, "--run", "whole"], world)) == [0] * world
        return folder / "runs/whole"

    return lambda words, world: whole((*words, "--data.workers", "0"), world)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", ["pretrain", "finetune", "gathered"])
def test_an_interrupted_run_ends_as_one_that_never_was(
    kind: str, world: int, workers: int, number: signal.Signals, tmp_path: Path, wholes: Wholes
) -> None:
    words = [*KINDS[kind], *LONGER, *(TWO if world == 2 else [])]
    whole = wholes(words, world)
    luck = random.Random(f"{kind} {world} {workers} {number}")
    times = interrupt_ranks(tmp_path, [*words, "--data.workers", str(workers), "--run", "cut"], world, number, luck)
    assert_goes_on(tmp_path / "runs/cut", whole, times)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_an_interrupted_run_whose_weights_are_shared_out_ends_as_one_that_never_was(
    number: signal.Signals, tmp_path: Path, wholes: Wholes
) -> None:
    words = [*PRETRAIN, *LONGER, *TWO, "--trainer.strategy", "fsdp2"]
    luck = random.Random(f"fsdp2 {number}")
    times = interrupt_ranks(tmp_path, [*words, "--data.workers", "1", "--run", "cut"], 2, number, luck)
    assert_goes_on(tmp_path / "runs/cut", wholes(words, 2), times)


@pytest.mark.parametrize(
    ("kind", "processes", "workers", "number"),
    [
        ("pretrain", 2, 1, signal.SIGTERM),
        ("finetune", 2, 0, signal.SIGKILL),
        ("pretrain", 2, 0, signal.SIGUSR1),
        ("finetune", 1, 1, signal.SIGTERM),
        ("pretrain", 1, 1, signal.SIGKILL),
    ],
)
def test_an_interrupted_command_that_starts_its_processes_itself_ends_as_one_that_never_was(
    kind: str, processes: int, workers: int, number: signal.Signals, tmp_path: Path
) -> None:
    words = [*KINDS[kind], *LONGER, *(TWO if processes == 2 else []), "--data.workers", str(workers)]
    assert end(start(tmp_path, [*words, "--run", "whole"]))[0] == 0
    seed = processes + 2 * workers
    times = interrupt(tmp_path, [*words, "--run", "cut"], number, seed, whole_group=workers == 1)
    assert_goes_on(tmp_path / "runs/cut", tmp_path / "runs/whole", times)


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path) -> None:
    words = [*PRETRAIN, "--trainer.max_epochs", "50", "--run", "one"]
    first = start(tmp_path, words)
    second = refused(tmp_path, words)
    assert f"is being worked on by process {first.pid} on" in second
    first.send_signal(signal.SIGTERM)
    assert end(first)[0] == TRY_AGAIN


def test_a_run_goes_on_with_one_process_instead_of_two(tmp_path: Path) -> None:
    words = [*PRETRAIN, "--trainer.max_epochs", "6", "--run", "one"]
    first = start(tmp_path, [*words, *TWO])
    assert first.stdout is not None
    assert any(line.startswith("epoch ") for line in first.stdout)
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
