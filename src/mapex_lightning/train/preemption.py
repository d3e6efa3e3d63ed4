"""How a run ends that was told to stop: it goes back into Slurm's queue, or says with which command it goes on."""

from __future__ import annotations

import os
import re
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


def requeue(number: str) -> str | None:
    """Puts a running Slurm job back into the queue.

    Args:
        number: see `job`.

    Returns:
        Why it could not be, a clause; None where it was. A job that is being ended, by ``scancel`` or for another job,
        is left to whoever ends it.
    """
    try:
        shown = _scontrol("show", "job", number)
        if "Requeue=0" in shown.split():
            return "it was submitted with --no-requeue"
        state = re.search(r"JobState=(\w+)", shown)
        if state is not None and state[1] != "RUNNING":
            return f"it is being ended (its state is {state[1]})"
        _scontrol("requeue", number)
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)} failed ({error.stderr.strip() or f'exit code {error.returncode}'})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"scontrol could not be asked ({error})"
    return None


def _scontrol(*words: str) -> str:
    return subprocess.run(["scontrol", *words], check=True, capture_output=True, text=True, timeout=ANSWER).stdout


def leave(trainer: pl.Trainer, kept: str, name: str, named: bool) -> NoReturn:
    """Ends the run in all of its processes.

    Args:
        trainer: of the run.
        kept: what was kept, a sentence's beginning.
        name: of the run.
        named: whether the command that started it has this name, so that it goes on when it is run again.

    Raises:
        Preempted: always.
    """
    sentence, code = kept, TRY_AGAIN
    if trainer.is_global_zero:
        number = job()
        why = None
        if number is not None:
            why = requeue(number) if named else f"its command has no --run {name} and would begin anew"
            sentence += f"; job {number} is back in the queue" if why is None else ""
            code = 0 if why is None else TRY_AGAIN
        sentence += f"; go on with the same command and --run {name}, or: mapex fit --run {name}." if code else "."
        sentence += f" Job {number} was not put back into the queue: {why}." if why else ""
    code = trainer.strategy.broadcast(code)
    take_over(trainer)
    trainer.strategy.barrier()  # none ends before that: Lightning would take it for a crash and kill the others
    raise Preempted(sentence if trainer.is_global_zero else "", code)
