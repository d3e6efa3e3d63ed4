"""Checksums of a folder's files, in the format of ``sha256sum``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_text

CHECKSUMS = "checksums.sha256"
"""The name of the list, beside the files that it is about; ``sha256sum -c checksums.sha256`` reads it too."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class Verified(NamedTuple):
    """How the files of a folder compare with its list; paths are relative, with ``/``.

    Attributes:
        same: as listed.
        changed: there, with other bytes.
        missing: listed and not there.
    """

    same: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]


def digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal.

    Raises:
        MapexError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MapexError(f"{path} cannot be read ({error}). Check that it is a file, there and open to you.") from error


def write(root: Path, paths: Iterable[str | Path] | None = None) -> Path:
    """Writes the list of a folder.

    Args:
        root: the folder.
        paths: the files, relative to it; None is every file below it but the list itself.

    Returns:
        The list.

    Raises:
        MapexError: a path leads out of the folder, a file cannot be read, or the list cannot be written.
    """
    found = _below(root) if paths is None else (PurePosixPath(path).as_posix() for path in paths)
    return write_digests(root, {path: digest(inside(root, path)) for path in found})


def write_digests(root: Path, digests: Mapping[str, str]) -> Path:
    """Writes the list of a folder from digests that are known, for writers that have just hashed the bytes.

    Raises:
        MapexError: a path leads out of the folder or cannot be listed, or the list cannot be written.
    """
    for path in digests:
        inside(root, path)
    target = root / CHECKSUMS
    write_text(target, "".join(f"{digests[path]}  {path}\n" for path in sorted(digests)))
    return target


def read(root: Path) -> dict[str, str]:
    """The list of a folder: digests by relative path.

    Raises:
        MapexError: there is none, a line is none of ``sha256sum``'s, a path occurs twice or leads out of the folder.
    """
    source = root / CHECKSUMS
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MapexError(
            f"{source} cannot be read ({error}). Write it with `sha256sum` run in {root}, or leave checksums out."
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise MapexError(
                f"{source}, line {number}, is not `SHA-256, two spaces, relative path`. Write it with `sha256sum`."
            )
        path = PurePosixPath(parts[2]).as_posix()  # find writes ./a, sha256sum keeps it
        if path in found:
            raise MapexError(f"{source}, line {number}: {path} is listed twice. Write the list anew.")
        inside(root, path)
        found[path] = parts[1]
    return found


def verify(root: Path) -> Verified:
    """Compares the files of a folder with its list.

    Raises:
        MapexError: the list cannot be used (see `read`), or a file cannot be read.
    """
    same: list[str] = []
    changed: list[str] = []
    missing: list[str] = []
    for path, wanted in read(root).items():
        file = inside(root, path)
        if not file.is_file():
            missing.append(path)
        else:
            (same if digest(file) == wanted else changed).append(path)
    return Verified(tuple(same), tuple(changed), tuple(missing))


def inside(root: Path, path: str) -> Path:
    """The file of a relative path, which must lie inside the folder, links followed.

    Raises:
        MapexError: it leads out of the folder, or is no name that fits on a line.
    """
    parts = PurePosixPath(path)
    if path != path.strip() or not path.isprintable() or "\\" in path or parts == PurePosixPath():
        raise MapexError(f"{path!r} cannot stand in a list of checksums of {root}. Give the file a plainer name.")
    file = root / parts
    if parts.is_absolute() or ".." in parts.parts or not file.resolve().is_relative_to(root.resolve()):
        raise MapexError(
            f"{path} leads out of {root}; checksums are about the files in their own folder. Take it from the list."
        )
    return file


def _below(root: Path) -> list[str]:
    """Every file in a folder and its folders but the list itself, in order."""
    files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(path for path in files if path != CHECKSUMS)
