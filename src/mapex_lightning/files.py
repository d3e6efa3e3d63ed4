"""Files are written whole or not at all, and what a killed process leaves of them is swept."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mapex_lightning.errors import MapexError
from mapex_lightning.text import megabytes

FOREIGN = 86_400.0
"""Seconds after which a temporary file that nobody has written to is taken away, if its process cannot be asked for."""

LONGEST = 1_000_000
"""Bytes of settings or figures that are read. The settings of a run take some thousands."""

TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<place>[\w-]+)\.(?P<process>\d{1,9})\.(?P<word>\w+)\.part")
"""How temporary files are called; see `temporary`."""

OLD = "old"
"""The word of a folder that makes room for a new one."""

UNSYNCED = {errno.EACCES, errno.EBADF, errno.EINVAL}
"""What file systems answer that cannot sync a folder; PostgreSQL's ``fsync_fname`` passes over the same."""


def mark() -> str:
    """This process among all that may write into a folder: the host, its processes' namespace, and its number."""
    host = re.sub(r"[^\w-]", "-", platform.node())[:40]
    namespace = Path("/proc/self/ns/pid")  # containers that share a host's name count processes for themselves
    return f"{host}-{namespace.stat().st_ino if namespace.exists() else 0}.{os.getpid()}"


def temporary(path: Path, word: str = "new", by: str | None = None) -> Path:
    """The temporary file beside a target: ``.NAME.HOST-NAMESPACE.PROCESS.WORD.part``.

    Args:
        path: the target.
        word: what sets it apart from other temporary files of the same process and target.
        by: the `mark` of the process that answers for it; by default this one.
    """
    return path.with_name(f".{path.name}.{by or mark()}.{word}.part")


def sweep(folder: str | Path, below: bool = False) -> None:
    """Takes away temporary files that processes have left in a folder which were killed while they wrote.

    Left alone is what a living process of this host may be writing, and for a day what another host may be. A folder
    that was on its way out when its process died, with nothing in its place yet, comes back.

    Args:
        folder: it need not exist.
        below: whether to look into folders inside, too.
    """
    folder = Path(folder)
    for path in sorted(folder.rglob(".*.part") if below else folder.glob(".*.part")):
        found = TEMPORARY.fullmatch(path.name)
        if found is None or not _abandoned(path, found["place"], int(found["process"])):
            continue
        with suppress(OSError):  # another process sweeps too
            if found["word"] == OLD and not path.with_name(found["name"]).exists():
                path.replace(path.with_name(found["name"]))
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _abandoned(path: Path, place: str, process: int) -> bool:
    if place == mark().partition(".")[0]:
        try:
            os.kill(process, 0)  # sends nothing
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > FOREIGN
    return False


def local(path: str | Path) -> Path:
    """A path, which is no address.

    Raises:
        MapexError: it is one.
    """
    if "://" in str(path):
        raise MapexError(f"Checkpoints are read from local files; download {path} first and give the file's path.")
    return Path(path)


def write_whole(
    path: str | Path,
    writer: Callable[[Path], object],
    room: int = 0,
    check: Callable[[Path], object] = lambda beside: None,
) -> None:
    """Lets `writer` write a temporary file beside `path`, then renames it: a reader never meets half a file.

    File and name are on the disk when this returns, so that they outlast a crash of the machine.

    Args:
        path: the target; its folder is made.
        writer: called with the temporary path.
        room: bytes that it will about need; 0 where nobody knows.
        check: called with the temporary path when all of it is on the disk; where it raises, the old file stays.

    Raises:
        MapexError: the folder cannot be written to or the disk is full; the old file is untouched.
    """
    path = _named(path)
    beside = temporary(path)
    try:
        _make(path.parent)
        _check_room(path, room)
        writer(beside)
        _sync(beside)
        check(beside)
        beside.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):  # nothing to take away where nothing could be written
            beside.unlink()
    _sync_folder(path.parent)


def write_folder_whole(path: str | Path, writer: Callable[[Path], object]) -> None:
    """Lets `writer` fill a temporary folder beside `path`, then renames it; a folder that was there before goes.

    Raises:
        MapexError: the folder cannot be written to or the disk is full; the old one is untouched.
    """
    path = _named(path)
    beside, old = temporary(path), temporary(path, OLD)
    try:
        _make(path.parent)
        writer(beside)
        for part in (*beside.rglob("*"), beside):
            (_sync_folder if part.is_dir() else _sync)(part)
        if path.exists():
            path.replace(old)
        beside.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for leftover in (beside, old):
            shutil.rmtree(leftover, ignore_errors=True)
    _sync_folder(path.parent)


def read_text(path: Path) -> str:
    """A text file that a stranger may have put there, read only if it is no longer than a honest one.

    Raises:
        OSError: it is no file, or cannot be read.
        ValueError: it is too long, or no UTF-8.
    """
    if not path.is_file():  # a pipe would be waited for, and a device may have no end
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
    if (size := path.stat().st_size) > LONGEST:
        raise ValueError(f"{path.name} has {size:,} bytes; at most {LONGEST:,} are read")
    return path.read_text(encoding="utf-8")


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8, whole or not at all.

    Raises:
        MapexError: see `write_whole`.
    """
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def remove(path: str | Path) -> None:
    """Takes a file away, for good; a file that is not there is no error.

    Raises:
        MapexError: it is a folder, or the folder around it cannot be written to.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MapexError(f"{path} could not be removed ({error}). Check whose it is, and remove it by hand.") from error
    if path.parent.is_dir():
        _sync_folder(path.parent)


def _named(path: str | Path) -> Path:
    """A path with a name of its own, beside which something can be written.

    Raises:
        MapexError: it has none, such as ``.`` or ``..``.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise MapexError(f"What is written needs a name; found {path}, which is a folder that is there already.")
    return path


def _unwritten(path: Path, error: Exception) -> MapexError:
    return MapexError(
        f"{path} could not be written ({error}); what was there before is untouched. "
        "Check that its folder can be written to and has room."
    )


def _check_room(path: Path, room: int) -> None:
    """Says before anything is written that it will not fit; some file systems do not tell their size."""
    disk = shutil.disk_usage(path.parent)
    if disk.total and room > disk.free:
        raise MapexError(
            f"{path} needs {megabytes(room)}, and {megabytes(disk.free)} are free in {path.parent}; what was there "
            "before is untouched. Make room there, or write to another folder."
        )


def _make(folder: Path) -> None:
    """Makes a folder and those above it, whose names are on the disk then."""
    missing = [above for above in (folder, *folder.parents) if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk.

    Raises:
        MapexError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise MapexError(
                f"What was written in {folder} may not outlast a crash of the machine ({error}). Check its disk."
            ) from error
