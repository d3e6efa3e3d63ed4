"""Signals that tell to stop set a flag and nothing else, in every process of a run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from mapex_lightning.signals import STOP_SIGNALS, listening, told_to_stop


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_sets_the_flag_and_a_second_one_changes_nothing(number: int) -> None:
    before = signal.getsignal(number)
    with listening():
        assert not told_to_stop()
        signal.raise_signal(number)
        assert told_to_stop()
        signal.raise_signal(number)
        assert told_to_stop()
    assert not told_to_stop()
    assert signal.getsignal(number) == before


def test_another_thread_may_train_too() -> None:
    told: list[bool] = []

    def train() -> None:
        with listening():
            told.append(told_to_stop())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(60)
    assert told == [False]


READER = """
import sys
from mapex_lightning.signals import shield
shield()
print("reads", flush=True)
sys.stdin.readline()
print("has read", flush=True)
sys.stdin.readline()
"""


def test_a_data_worker_lives_on_after_a_stop_signal_unless_its_parent_ends_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reads\n"
        for number in STOP_SIGNALS:
            subprocess.run(["kill", f"-{int(number)}", str(reader.pid)], check=True)
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "has read\n"
        for _ in range(60):  # of two signals that are not yet taken the kernel keeps one, and that may be the other's
            reader.terminate()
            with suppress(subprocess.TimeoutExpired):
                reader.wait(1)
                break
        assert reader.poll() == 0


ROOT = Path(__file__).parents[1]

STARTER = """
import multiprocessing, sys
from tests.reading import read
worker = multiprocessing.get_context(sys.argv[1]).Process(target=read)
worker.start()
sys.stdin.readline()
worker.terminate()
worker.join(60)
print(worker.exitcode, flush=True)
"""


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_data_worker_ends_with_the_process_that_has_started_it_however_it_did(method: str, killed: bool) -> None:
    words = [sys.executable, "-c", STARTER, method]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "reads\n"
        if killed:
            starter.kill()
        try:
            said, _ = starter.communicate(None if killed else "\n", timeout=60)  # until all of them have closed it
        finally:
            with suppress(ProcessLookupError):
                os.killpg(starter.pid, signal.SIGKILL)
    assert said == ("" if killed else "0\n")
