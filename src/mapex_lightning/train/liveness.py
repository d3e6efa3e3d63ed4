"""A rank that is gone or does not answer ends the whole job, and the others say which one it was.

Ranks meet in every step, so one that does not come is found where the others wait for it: by its closed connection at
once, else when the strategy's timeout has passed. Beside that a thread in every process looks whether the processes
that Lightning has started on this machine, or the one that has started this, are still there: it ends a process that
waits in vain where no error reaches it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from mapex_lightning.errors import LOST, TRY_AGAIN, LostRank

GRACE = 5.0
"""Seconds that a process has to end by itself once another one has."""

LAUNCHER = "MAPEX_LAUNCHER"
"""Environment variable by which the processes that one has started know it."""

FAREWELL = 60.0
"""Seconds that the others have to end after a run that went well."""

LOOK = 0.5
"""Seconds between two looks."""

FINE = (0, TRY_AGAIN)
"""Exit codes of processes that have done what they were asked for."""

FOUND = re.compile(r"gloo|NCCL|ProcessGroup|TCPStore|Connection (?:closed|reset) by peer|monitoredBarrier|wait timeout")
"""What messages of torch.distributed have in common, some of which are plain RuntimeErrors."""


def from_another(error: BaseException) -> bool:
    """Whether an error says that another rank is gone or does not answer."""
    kinds = (torch.distributed.DistError,) if torch.distributed.is_available() else ()
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and FOUND.search(str(error)) is not None)


State = Literal["gone", "stopped", "there"]


def state_of(process: int) -> State:
    """What a process of this machine does; a stopped one was sent SIGSTOP or its like. There, where that is unknown."""
    try:
        letter = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "there" if _exists(process) else "gone"
    return "gone" if letter in "ZX" else "stopped" if letter in "Tt" else "there"


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class LocalRanks:
    """The processes of a job on this machine, as one of them sees them.

    The first one has started the others and ends them when it ends; each of the others ends when the first one is gone.
    Processes that somebody else has started, such as Slurm, are left to that.

    Args:
        trainer: whose processes they are.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer
        self.timeout = vars(trainer.strategy).get("_timeout")
        self.world = trainer.world_size
        self.rank = trainer.global_rank
        started = int(os.environ.get("LOCAL_RANK", "0")) > 0 and LAUNCHER in os.environ
        self.parent = int(os.environ[LAUNCHER]) if started else None
        self.children: list[subprocess.Popen[Any]] = []
        self._over = threading.Event()
        if self.parent is None:
            os.environ[LAUNCHER] = str(os.getpid())
        else:
            _wake_with_parent()
        if self.world > 1:
            threading.Thread(target=self._look, name="mapex-liveness", daemon=True).start()

    def lost(self, found: str = "") -> LostRank:
        """The sentence about what is known of the others.

        Args:
            found: what another place has to say of it.
        """
        self._find_children()
        known, code = [], LOST
        until = time.monotonic() + (1.0 if found else 0.0)
        while len(self._living()) == len(self.children) > 0 and time.monotonic() < until:
            time.sleep(0.05)  # who has closed a connection may be about to end
        if self.parent is not None and (state := self._parent_state()) != "there":
            known.append(f"rank {self.rank - int(os.environ['LOCAL_RANK'])} (process {self.parent}) is {state}")
        for number, child in enumerate(self.children, start=1):
            name, ended = f"rank {self.rank + number} (process {child.pid})", child.poll()
            if ended is None and state_of(child.pid) == "stopped":
                known.append(f"{name} is stopped")
            elif ended is not None and ended < 0:
                known.append(f"{name} was killed by signal {-ended} ({_name_of(-ended)})")
            elif ended:
                known.append(f"{name} has ended with exit code {ended}, for a reason that it says itself")
                code = ended
        who = ", ".join(known) or f"one of the {self.world} ranks is gone or does not answer"
        waited = f" Ranks wait for each other for {self.timeout} (timeout of trainer.strategy)." if self.timeout else ""
        run = Path(self.trainer.default_root_dir).name
        again = f" Checkpoints are whole; go on with mapex fit --run {run}." if self.trainer.state.fn == "fit" else ""
        found = f" ({found})" if found else ""
        return LostRank(f"The job ends on rank {self.rank} since {who}{found}.{waited}{again}", code)

    def leave(self, seconds: float, stacks: bool = True) -> None:
        """Ends the watch, and the processes that this one has started after some time.

        Args:
            seconds: for which they may go on.
            stacks: whether those that do not end by then print where they are.
        """
        self._over.set()
        self._find_children()
        if self.parent is None:
            os.environ.pop(LAUNCHER, None)
        if self.parent is not None and self._parent_state() == "stopped":
            with suppress(OSError):
                os.kill(self.parent, signal.SIGCONT)  # so that it finds out
        for child in self._living():
            if state_of(child.pid) == "stopped":
                child.kill()
        until = time.monotonic() + seconds
        while self._living() and time.monotonic() < until:
            time.sleep(0.05)
        if (hung := self._living()) and stacks:
            for child in hung:
                child.send_signal(getattr(signal, "SIGUSR2", signal.SIGTERM))
            time.sleep(1.0)
        for child in hung:
            child.kill()

    def _living(self) -> list[subprocess.Popen[Any]]:
        return [child for child in self.children if child.poll() is None]

    def _parent_state(self) -> State:
        assert self.parent is not None
        return "gone" if os.getppid() != self.parent else state_of(self.parent)

    def _find_children(self) -> None:
        """Takes the processes over that Lightning has started, once there are some."""
        self.children = self.children or take_over(self.trainer)

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            self._find_children()
            failed = [child for child in self.children if child.poll() not in (None, *FINE)]
            if not failed and (self.parent is None or self._parent_state() != "gone"):
                continue
            if self._over.wait(GRACE):
                return
            error = self.lost()
            print(f"mapex: {error}", file=sys.stderr, flush=True)
            for child in self._living():
                child.kill()
            os._exit(error.code)


def take_over(trainer: pl.Trainer) -> list[subprocess.Popen[Any]]:
    """The processes that Lightning has started on this machine, which it then no longer watches.

    A thread of Lightning's takes any exit code of theirs but 0 for a crash, and then kills all others and this process
    in the middle of a sentence. It has no switch for that; here it gets an empty list of them.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher) or len(launcher.procs) < launcher.num_processes - 1:
        return []  # it has not started all of them yet
    watched, launcher.procs = launcher.procs, list(launcher.procs)  # to the latter it forwards signals
    watched.clear()
    return list(launcher.procs)


def _wake_with_parent() -> None:
    """Lets Linux wake this process when its parent ends, so that one that is stopped ends as well."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGCONT))


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


@contextmanager
def watched_ranks(trainer: pl.Trainer) -> Iterator[None]:
    """Sees to it that a job ends on all processes of this machine when it ends on one.

    Raises:
        LostRank: another rank is gone or does not answer.
    """
    others = LocalRanks(trainer)
    try:
        yield
    except BaseException as error:
        lost = others.lost(_said_by(error)) if from_another(error) else None
        fine = getattr(error, "code", None) in FINE
        others.leave(FAREWELL if fine else GRACE, stacks=fine or lost is not None)  # else the error tells the reason
        if lost is None:
            raise
        if torch.distributed.is_initialized():  # its threads may wait for the others when the process ends
            faulthandler.dump_traceback_later(2 * GRACE, exit=True)
        raise lost from error
    others.leave(FAREWELL)


def _said_by(error: BaseException) -> str:
    """What an error says itself, without the place in C++ where it was found and guesses at its cause."""
    lines = re.sub(r"^\[[^]]*\.cc:\d+\]\s*", "", str(error).strip()).split(". ")[0].splitlines()
    return lines[0][:200].rstrip(". ") if lines else type(error).__name__
