"""A folder is held by one process, and by none that is dead."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mapex_lightning.errors import MapexError
from mapex_lightning.lock import LOCK, locked

HOLDER = """
import sys
from pathlib import Path
from mapex_lightning.lock import locked
with locked(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder until it reads a line."""
    words = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_folder_that_another_process_holds_is_refused_until_that_has_ended(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as other:
        with pytest.raises(MapexError, match=rf"run is being worked on by process {other.pid} on .*--run NAME"):
            locked(tmp_path / "run").__enter__()
        other.communicate("\n", timeout=60)
        assert not (tmp_path / "run" / LOCK).exists()
        with locked(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).read_text().split()[1] == str(os.getpid())


def test_what_a_killed_process_leaves_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(60)
        assert (tmp_path / LOCK).exists()
        with locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_is_back_from_the_queue_waits_for_the_end_of_its_earlier_self(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        with locked(tmp_path, patience=60):
            pass


def test_a_file_system_without_locks_is_gone_by_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with holder(tmp_path) as other:
        with pytest.raises(MapexError, match=f"process {other.pid} on"):
            locked(tmp_path).__enter__()
        other.send_signal(signal.SIGKILL)
        other.wait(60)
        with locked(tmp_path):
            pass
    (tmp_path / LOCK).write_text("elsewhere 1\n")  # whether that lives cannot be known
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MapexError, match="cannot be written to"):
        locked(tmp_path / "file" / "run").__enter__()
