"""A folder is worked on by one process at a time: whoever works on it holds its lock."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mapex_lightning.errors import MapexError

LOCK = ".lock"
"""Name of the lock in a folder; it says who holds it."""

OWN = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
"""Opens the file itself: what a link leads to would be emptied."""

HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds a folder, which is made, while this is open.

    The system takes the lock from a process that dies, on this machine or on another one that shares the folder, so
    that what a killed process leaves behind is in nobody's way. Processes that this one forks do not have it.

    Args:
        folder: to hold.
        patience: seconds to wait for whoever holds it.

    Raises:
        MapexError: another process holds it, or the folder cannot be written to.
    """
    until = time.monotonic() + patience
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while (file := _taken(folder / LOCK)) is None:
            if time.monotonic() >= until:
                raise MapexError(
                    f"{folder} is being worked on by {_holder(folder / LOCK)}. Wait until that has ended, or end it; "
                    "or begin another run with --run NAME."
                )
            time.sleep(0.5)
    except OSError as error:
        raise MapexError(f"{folder} cannot be written to ({error}). Check that it can be, and has room.") from error
    with file:
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()


def _taken(path: Path) -> IO[str] | None:
    """The lock, open and held; None where another process holds it."""
    while True:
        file = os.fdopen(os.open(path, OWN, 0o666), "a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                file.close()
                return None
            if _lives(path):  # a file system without locks: what is written in the file is all there is to go by
                file.close()
                return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # not one that its holder has just removed
                break
        file.close()
    file.truncate(0)
    file.write(f"{platform.node()} {os.getpid()}\n")
    file.flush()
    return file


def _holder(path: Path) -> str:
    host, pid = _written(path)
    return f"process {pid} on {host}" if host else "another process"


def _lives(path: Path) -> bool:
    """Whether the process that the lock names lives on this machine."""
    host, pid = _written(path)
    if host != platform.node() or pid in ("", str(os.getpid())):
        return False
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError) as error:
        return isinstance(error, PermissionError)
    return True


def _written(path: Path) -> tuple[str, str]:
    try:
        host, pid = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "", ""
    return host, pid
