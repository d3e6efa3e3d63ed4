"""A rank that is gone or does not answer ends the job on all processes, soon, and the others say which one it was."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from mapex_lightning.checkpoint import read
from mapex_lightning.errors import LostRank, MapexError
from mapex_lightning.train import liveness
from mapex_lightning.train.liveness import LAUNCHER, LocalRanks, from_another, state_of, take_over, watched_ranks
from tests.disks import disk, fill
from tests.workshop import elsewhere, trainer_of

TIMEOUT = 60
"""Seconds that ranks wait for each other in these tests, also for the second to be imported on a busy machine."""

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, in place of another rank."""
    process = subprocess.Popen(SLEEPER)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def first_of(*others: subprocess.Popen[bytes]) -> Any:
    """A Trainer that has started other processes, as far as it is asked."""
    launcher = object.__new__(_SubprocessScriptLauncher)
    launcher.procs = list(others)
    launcher.num_processes = 1 + len(others)
    strategy = SimpleNamespace(launcher=launcher, _timeout="0:05:00")
    kept = {"state": SimpleNamespace(fn="fit"), "default_root_dir": "runs/mine"}
    return SimpleNamespace(strategy=strategy, world_size=1 + len(others), global_rank=0, **kept)


def test_processes_are_taken_over_when_all_have_been_started() -> None:
    with sleeper() as one, sleeper() as other:
        trainer = first_of(one, other)
        launcher = trainer.strategy.launcher
        launcher.procs, started = [one], [one, other]
        observed = launcher.procs
        assert take_over(trainer) == []
        assert observed == launcher.procs == [one]
        launcher.procs.append(other)
        assert take_over(trainer) == started == launcher.procs
        assert observed == []


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "GRACE", 0.2)
    monkeypatch.setattr(liveness, "LOOK", 60.0)  # the thread must not end the process of the tests
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv(LAUNCHER, raising=False)


def until(what: Any, seconds: float = 10) -> None:
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:4: Connection reset by peer."),
        RuntimeError("Timed out waiting 15000ms for recv operation to complete in gloo"),
        RuntimeError("NCCL communicator was aborted on rank 0."),
        torch.distributed.DistBackendError("anything"),
        torch.distributed.DistStoreError("wait timeout after 15000ms, keys: 0"),
    ],
)
def test_what_torch_says_of_another_rank_is_known(error: RuntimeError) -> None:
    assert from_another(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), MapexError("bad input"), KeyError("x")])
def test_any_other_error_is_none_of_another_rank(error: Exception) -> None:
    assert not from_another(error)
    with pytest.raises(type(error)), watched_ranks(trainer_of()):
        raise error


def test_a_process_is_there_stopped_or_gone() -> None:
    with sleeper() as process:
        assert state_of(process.pid) == "there"
        process.send_signal(signal.SIGSTOP)
        until(lambda: state_of(process.pid) == "stopped")
        process.kill()
        until(lambda: state_of(process.pid) == "gone")  # though nobody has waited for it yet
    assert state_of(process.pid) == "gone"


def test_a_stopped_rank_is_named_and_does_not_stay() -> None:
    with sleeper() as other:
        other.send_signal(signal.SIGSTOP)
        until(lambda: state_of(other.pid) == "stopped")
        with pytest.raises(LostRank) as told, watched_ranks(first_of(other)):
            raise RuntimeError("[/gloo/pair.cc:1] Timed out waiting 15000ms for recv operation to complete. This is")
        assert other.poll() == -signal.SIGKILL
    assert str(told.value) == (
        f"The job ends on rank 0 since rank 1 (process {other.pid}) is stopped (Timed out waiting 15000ms for recv "
        "operation to complete). Ranks wait for each other for 0:05:00 (timeout of trainer.strategy). Checkpoints are "
        "whole; go on with mapex fit --run mine."
    )
    assert told.value.code == 1


def test_a_killed_rank_is_named() -> None:
    with sleeper() as other:
        other.kill()
        with (
            pytest.raises(LostRank, match=r"1 \(process \d+\) was killed by signal 9 .SIGKILL"),
            watched_ranks(first_of(other)),
        ):
            raise RuntimeError("Connection closed by peer [127.0.0.1]:12")


def test_a_rank_that_has_refused_something_gives_the_job_its_exit_code() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(2)"])
    with pytest.raises(LostRank, match="has ended with exit code 2") as told, watched_ranks(first_of(other)):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:12")
    assert told.value.code == 2


def test_the_others_end_with_a_rank_that_fails() -> None:
    with sleeper() as other:
        with pytest.raises(MapexError, match="disk full"), watched_ranks(first_of(other)):
            raise MapexError("disk full")
        assert other.wait(10) == -signal.SIGKILL  # and is not asked for its stacks: the reason is known


def test_a_run_that_goes_well_waits_for_the_others() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    with watched_ranks(first_of(other)):
        pass
    assert other.poll() == 0
    assert LAUNCHER not in os.environ


def test_lightnings_own_watch_over_the_others_is_put_to_rest() -> None:
    with sleeper() as other:
        trainer = first_of(other)
        lightnings = trainer.strategy.launcher.procs
        others = LocalRanks(trainer)
        others.lost()
        assert others.children == [other]
        assert lightnings == []
        assert trainer.strategy.launcher.procs == [other]  # where Lightning forwards signals to
        others.leave(0)


WAITS = """
import subprocess, sys, time
from tests.train.test_liveness import first_of
from mapex_lightning.train import liveness
liveness.GRACE = 0.2
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)", ])
other.send_signal(9)
with liveness.watched_ranks(first_of(other)):
    time.sleep(60)
"""

ORPHAN = """
import os, subprocess, sys, time
if sys.argv[1:]:
    from tests.train.test_liveness import first_of
    from mapex_lightning.train import liveness
    liveness.GRACE = 0.2
    os.environ["LOCAL_RANK"] = "1"
    trainer = first_of()
    trainer.world_size, trainer.global_rank, trainer.strategy.launcher = 2, 1, None
    with liveness.watched_ranks(trainer):
        print(os.getpid(), flush=True)
        time.sleep(60)
os.environ["MAPEX_LAUNCHER"] = str(os.getpid())
subprocess.Popen([sys.executable, "-c", sys.orig_argv[2], "other"])
time.sleep(60)
"""


@pytest.mark.slow
def test_a_process_that_no_error_reaches_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", WAITS], env=elsewhere(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.search(r"^mapex: The job ends on rank 0 since rank 1 \(process \d+\) was killed", done.stderr, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_ends_with_the_one_that_has_started_it(stopped: bool) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        env=elsewhere(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    other = int(first.stdout.readline())
    if stopped:
        os.kill(other, signal.SIGSTOP)
        until(lambda: state_of(other) == "stopped")
    first.kill()
    _, said = first.communicate(timeout=60)  # until both have closed it
    assert re.search(rf"rank 1 since rank 0 \(process {first.pid}\) is gone", said)
    until(lambda: state_of(other) == "gone")


def pair(folder: Path, *words: str) -> tuple[subprocess.Popen[bytes], int]:
    """A run on two processes that has written a checkpoint: the first process, and the id of the second."""
    tiles = "[{class_path: Synthetic, init_args: {train: 40, val: 4, test: 4, size: 16}}]"
    given = ["-m", "mapex_lightning", "fit", "--config", "pretrain.yaml", "--data.sets", tiles, "--data.size", "16"]
    given += ["--data.batch_size", "2", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    given += ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.timeout", str(timedelta(seconds=TIMEOUT))]
    given += ["--trainer.max_epochs", "10000"]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        first = subprocess.Popen([sys.executable, *given, *words], cwd=folder, env=elsewhere(), stdout=out, stderr=err)
    last = folder / "runs/pretrain/last.ckpt"
    until(lambda: last.is_file() or first.poll() is not None, 300)
    assert last.is_file(), (folder / "err").read_text()
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    return first, int(children[0])


@contextmanager
def both_gone_in_time(first: subprocess.Popen[bytes], second: int) -> Iterator[None]:
    """What happens inside ends both processes of a job within the timeout and half a minute."""
    try:
        yield
        limit = time.monotonic() + TIMEOUT + 30
        first.wait(TIMEOUT + 30)
        until(lambda: state_of(second) == "gone", limit - time.monotonic())
    finally:
        for process in (first.pid, second):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        first.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_or_stopped_ends_the_job_within_the_timeout_and_half_a_minute(
    tmp_path: Path, sent: signal.Signals, rank: int
) -> None:
    first, second = pair(tmp_path)
    with both_gone_in_time(first, second):
        os.kill((first.pid, second)[rank], sent)
    said = (tmp_path / "err").read_text()
    assert first.returncode != 0
    assert "Traceback" not in said
    state = {signal.SIGSTOP: "is stopped", signal.SIGKILL: "is gone" if rank == 0 else "was killed by signal 9"}[sent]
    name = rf"rank {rank} \(process {(first.pid, second)[rank]}\)"
    assert re.search(rf"^mapex: The job ends on rank {1 - rank} since {name} {state}", said, re.M), said
    assert read(tmp_path / "runs/pretrain/last.ckpt")["global_step"] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_save_that_fails_on_one_rank_ends_the_job_in_one_sentence(tmp_path: Path) -> None:
    with disk(tmp_path / "small", 150) as place:
        first, second = pair(place, "--save_minutes", "0")
        with both_gone_in_time(first, second):
            fill(place, leave=2**20)
        said = (place / "err").read_text()
        assert first.returncode == 2
        assert re.fullmatch(r"mapex: runs/pretrain/last\.ckpt needs .* MB are free in .*\n", said), said
        assert read(place / "runs/pretrain/last.ckpt")["global_step"] > 0
