"""What a process leaves behind that was killed while it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from mapex_lightning.files import mark, temporary


@cache
def dead() -> str:
    """The mark of a process of this host that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=60)
    return f"{mark().partition('.')[0]}.{process.pid}"


def abandoned(path: Path, by: str | None = None, age: float = 0.0) -> Path:
    """Half of a file beside its target, which a process has written some seconds ago; by default a dead one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary(path, by=by or dead())
    beside.write_bytes(b"half")
    os.utime(beside, (time.time() - age,) * 2)
    return beside
