"""How a run ends that was told to stop: it goes back into Slurm's queue, or says with which command it goes on."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

import lightning.pytorch as pl

from mapex_lightning.errors import TRY_AGAIN, Preempted
from mapex_lightning.train.liveness import take_over

ANSWER = 60
"""Seconds in which Slurm has to answer."""


def job() -> str | None:
    """The Slurm job of this process, of an array its part; None outside of Slurm."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue(number: str, against: str = "") -> str | None:
    """Sees to it that a Slurm job that has been told to stop is in the queue again.

    Args:
        number: see `job`.
        against: why this process should not put it there, a clause; empty where nothing speaks against it.

    Returns:
        Why it is not there, a clause; None where it is, be it that Slurm has put it there itself, to pre-empt it or for
        ``scontrol requeue``. A job that is being ended is left to whoever ends it.
    """
    try:
        shown = dict(word.partition("=")[::2] for word in _scontrol("show", "job", number).split())
        if int(shown.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT", 0)):
            return None
        if shown.get("Reason") == "TimeLimit":
            return "its time limit is over"
        if (state := shown.get("JobState", "RUNNING")) != "RUNNING":
            return f"it is being ended, as by scancel (its state is {state})"
        if shown.get("Requeue") == "0":
            return "it was submitted with --no-requeue"
        if against:
            return against
        _scontrol("requeue", number)
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)} failed ({error.stderr.strip() or f'exit code {error.returncode}'})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"scontrol could not be asked ({error})"
    return None


def _scontrol(*words: str) -> str:
    """What it answers; a job's name and comment may be in any encoding."""
    return subprocess.run(
        ["scontrol", *words], check=True, capture_output=True, text=True, errors="replace", timeout=ANSWER
    ).stdout


def leave(trainer: pl.Trainer, kept: str, name: str, named: bool) -> NoReturn:
    """Ends the run in all of its processes, of which none is over before the job is back in Slurm's queue.

    The exit code is `TRY_AGAIN` in the queue as well: what follows in a batch script must not begin with half a run.
    Slurm does not mind, since a job that is queued again has no end yet.

    Args:
        trainer: of the run.
        kept: what was kept, a sentence's beginning.
        name: of the run.
        named: whether the command that started it has this name, so that it goes on when it is run again.

    Raises:
        Preempted: always.
    """
    sentence = _sentence(kept, name, named) if trainer.is_global_zero else ""
    take_over(trainer)
    trainer.strategy.barrier()  # none ends before that: Lightning would take it for a crash and kill the others
    raise Preempted(sentence, TRY_AGAIN)


def _sentence(kept: str, name: str, named: bool) -> str:
    """What becomes of the run, once that is settled."""
    how = f"go on with the same command and --run {name}, or: mapex fit --run {name}."
    number = job()
    if number is None:
        return f"{kept}; {how}"
    anew = "" if named else f"its command has no --run {name} and would begin anew"
    why = requeue(number, anew)
    if why is not None:
        return f"{kept}; {how} Job {number} was not put back into the queue: {why}."
    return f"{kept}; job {number} is back in the queue." + (f" But {anew}: cancel it, and {how}" if anew else "")
