"""A run that was told to stop goes back into Slurm's queue where that is wanted and possible, and says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mapex_lightning.errors import TRY_AGAIN, Preempted
from mapex_lightning.train.preemption import job, leave, requeue
from tests.workshop import trainer_of

SCONTROL = """#!/bin/sh
echo "$@" >> {log}
if [ "$1" = show ]; then
  echo "JobId=7 JobState={state} Reason={reason} Requeue={allowed} Restarts={restarts} Comment=$(printf '\\351')"
  exit 0
fi
if [ {fails} = 1 ]; then echo "Requested operation is presently disabled" >&2; exit 1; fi
"""


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of Slurm, wherever the tests run."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def slurm(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str = "RUNNING",
    reason: str = "None",
    restarts: int = 0,
    allowed: int = 1,
    fails: int = 0,
) -> Path:
    """A ``scontrol`` that writes down how it is called; the file that it writes to."""
    program, log = folder / "scontrol", folder / "calls.txt"
    answers = {"state": state, "reason": reason, "restarts": restarts, "allowed": allowed, "fails": fails}
    program.write_text(SCONTROL.format(log=log, **answers))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return log


def left(named: bool = True) -> str:
    """What a run says when it leaves."""
    with pytest.raises(Preempted) as stop:
        leave(trainer_of(), "stopped after step 3", "mine", named)
    assert stop.value.code == TRY_AGAIN  # so that what follows in a batch script does not begin with half a run
    return str(stop.value)


def test_outside_of_slurm_a_run_says_how_it_goes_on() -> None:
    assert left() == "stopped after step 3; go on with the same command and --run mine, or: mapex fit --run mine."
    assert TRY_AGAIN == os.EX_TEMPFAIL


@pytest.mark.parametrize("times", [0, 2])
def test_a_job_goes_back_into_the_queue(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = slurm(tmp_path, monkeypatch, restarts=times)
    if times:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(times))
    assert left() == "stopped after step 3; job 7 is back in the queue."
    assert log.read_text() == "show job 7\nrequeue 7\n"


@pytest.mark.parametrize("named", [True, False])
def test_a_job_that_slurm_has_put_back_itself_says_so(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = slurm(tmp_path, monkeypatch, state="COMPLETING", restarts=3)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    said = left(named)
    assert said.startswith("stopped after step 3; job 7 is back in the queue.")
    assert ("its command has no --run mine and would begin anew: cancel it, and go on with" in said) is not named
    assert log.read_text() == "show job 7\n"


def test_of_an_array_one_part_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = slurm(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert job() == "5_2"
    assert "job 5_2 is back" in left()
    assert log.read_text() == "show job 5_2\nrequeue 5_2\n"


@pytest.mark.parametrize(
    ("case", "named", "why"),
    [
        ({"allowed": 0}, True, "it was submitted with --no-requeue"),
        ({"state": "COMPLETING"}, True, "it is being ended, as by scancel (its state is COMPLETING)"),
        ({"state": "COMPLETING", "reason": "TimeLimit"}, True, "its time limit is over"),
        ({"fails": 1}, True, "scontrol requeue 7 failed (Requested operation is presently disabled)"),
        ({}, False, "its command has no --run mine and would begin anew"),
    ],
)
def test_a_job_that_does_not_go_back_says_why(
    case: dict[str, Any], named: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm(tmp_path, monkeypatch, **case)
    assert left(named).endswith(f"mapex fit --run mine. Job 7 was not put back into the queue: {why}.")


def test_where_there_is_no_scontrol_that_is_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "scontrol could not be asked" in (requeue("7") or "")
