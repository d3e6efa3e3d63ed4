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
if [ "$1" = show ]; then echo "JobId=7 JobState={state} Reason=None Requeue={allowed} Restarts=0"; exit 0; fi
if [ {fails} = 1 ]; then echo "Requested operation is presently disabled" >&2; exit 1; fi
"""


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of Slurm, wherever the tests run."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def slurm(
    folder: Path, monkeypatch: pytest.MonkeyPatch, state: str = "RUNNING", allowed: int = 1, fails: int = 0
) -> Path:
    """A ``scontrol`` that writes down how it is called; the file that it writes to."""
    program, log = folder / "scontrol", folder / "calls.txt"
    program.write_text(SCONTROL.format(log=log, state=state, allowed=allowed, fails=fails))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return log


def left(named: bool = True) -> tuple[str, int]:
    """What a run says when it leaves, and its exit code."""
    with pytest.raises(Preempted) as stop:
        leave(trainer_of(), "stopped after step 3", "mine", named)
    return str(stop.value), stop.value.code


def test_outside_of_slurm_a_run_says_how_it_goes_on() -> None:
    said, code = left()
    assert code == TRY_AGAIN == os.EX_TEMPFAIL
    assert said == ("stopped after step 3; go on with the same command and --run mine, or: mapex fit --run mine.")


def test_a_job_goes_back_into_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = slurm(tmp_path, monkeypatch)
    assert left() == ("stopped after step 3; job 7 is back in the queue.", 0)
    assert log.read_text() == "show job 7\nrequeue 7\n"


def test_of_an_array_one_part_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = slurm(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert job() == "5_2"
    assert left()[1] == 0
    assert log.read_text() == "show job 5_2\nrequeue 5_2\n"


@pytest.mark.parametrize(
    ("case", "named", "why"),
    [
        ({"allowed": 0}, True, "it was submitted with --no-requeue"),
        ({"state": "COMPLETING"}, True, r"it is being ended \(its state is COMPLETING\)"),
        ({"fails": 1}, True, r"scontrol requeue 7 failed \(Requested operation is presently disabled\)"),
        ({}, False, "its command has no --run mine and would begin anew"),
    ],
)
def test_a_job_that_does_not_go_back_says_why(
    case: dict[str, Any], named: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm(tmp_path, monkeypatch, **case)
    with pytest.raises(
        Preempted, match=rf"mapex fit --run mine\. Job 7 was not put back into the queue: {why}"
    ) as stop:
        leave(trainer_of(), "stopped after step 3", "mine", named)
    assert stop.value.code == TRY_AGAIN


def test_where_there_is_no_scontrol_that_is_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "scontrol could not be asked" in (requeue("7") or "")
