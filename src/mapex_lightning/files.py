"""Files are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mapex_lightning.errors import MapexError


def write_whole(path: str | Path, writer: Callable[[Path], object]) -> None:
    """Lets `writer` write a temporary file beside `path`, then renames it: a reader never meets half a file.

    Args:
        path: the target; its folder is made.
        writer: called with the temporary path.

    Raises:
        MapexError: the folder cannot be written to or the disk is full; the old file is untouched.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise MapexError(
            f"{path} could not be written ({error}); what was there before is untouched. "
            "Check that its folder can be written to and has room."
        ) from error
    finally:
        with suppress(OSError):  # nothing to take away where nothing could be written
            beside.unlink()


def write_folder_whole(path: str | Path, writer: Callable[[Path], object]) -> None:
    """Lets `writer` fill a temporary folder beside `path`, then renames it; a folder that was there before goes.

    Raises:
        MapexError: the folder cannot be written to or the disk is full; the old one is untouched.
    """
    path = Path(path)
    beside, old = (path.with_name(f".{path.name}.{os.getpid()}.{word}") for word in ("tmp", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(beside)
        if path.exists():
            path.replace(old)
        beside.replace(path)
    except OSError as error:
        raise MapexError(
            f"{path} could not be written ({error}); what was there before is untouched. "
            "Check that its folder can be written to and has room."
        ) from error
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for leftover in (beside, old):
            shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8, whole or not at all.

    Raises:
        MapexError: see `write_whole`.
    """
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))
