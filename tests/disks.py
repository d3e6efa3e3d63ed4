"""Small disks of their own, which can be filled, and places that nobody may write to; both take root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _ran(*words: str) -> bool:
    found = shutil.which(words[0])
    return found is not None and subprocess.run([found, *words[1:]], capture_output=True, timeout=60).returncode == 0


@contextmanager
def disk(place: Path, megabytes: int = 20) -> Iterator[Path]:
    """An empty disk; the test is skipped where none can be had."""
    place.mkdir()
    if not _ran("mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", str(place)):
        pytest.skip("a small disk can only be mounted by root, where the system lets it")
    try:
        yield place
    finally:
        _ran("umount", "-l", str(place))


def fill(place: Path, leave: int = 0) -> None:
    """Fills a disk but for some bytes."""
    with (place / "filler").open("ab") as file:
        while free := shutil.disk_usage(place).free - leave:
            if free < 4096:
                break
            file.write(bytes(min(free, 2**20)))
            file.flush()


@contextmanager
def made_immutable(folder: Path) -> Iterator[None]:
    """Lets nobody make, rename or remove anything in a folder, root included; skips where that cannot be had."""
    try:
        if not _ran("chattr", "+i", str(folder)):
            pytest.skip("a folder can only be made immutable by root, on a file system that knows of it")
        yield
    finally:
        _ran("chattr", "-i", str(folder))


def make_read_only(place: Path) -> None:
    """Lets nobody write to a disk any more, root included."""
    assert _ran("mount", "-o", "remount,ro", str(place))
