"""The checksum of a checkpoint: the comment of the zip archive that torch writes, over all bytes before it.

torch checks nothing of a file that it maps into memory, and a bit that has flipped in a weight looks like a weight.
``head -c -64 FILE | sha256sum`` gives what ``tail -c 64 FILE`` says.
"""

from __future__ import annotations

import io
import os
import time
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from mapex_lightning.errors import MapexError

WORDS = b"mapex sha256:"
"""How the comment begins; the SHA-256 of all bytes up to here follows."""

DIGITS = 64
"""Bytes of the checksum, in hexadecimal digits."""

END = b"PK\5\6"
"""How the last record of a zip archive begins. It ends in two bytes for the length of the comment."""

END_SIZE = 22
"""Bytes of that record."""

SETTLED = 1.0
"""Seconds after which a file cannot change without changing its time; clocks of file systems tick in milliseconds."""

_verified: set[tuple[int, ...]] = set()
"""Files, as they are on the disk, that this process has read through."""


class ChecksumWriter:
    """A file for `torch.save` that takes the checksum of what leaves memory to its end.

    Args:
        file: where all of it goes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = sha256()
        self.held = b""
        """The last bytes so far: in the end the record that has to tell of the comment."""
        self.error: BaseException | None = None

    def write(self, data: memoryview | bytes) -> None:
        """Hands on all but the last bytes."""
        if self.error is not None:
            return
        try:
            if len(data) < END_SIZE:
                data = self.held + bytes(data)
            else:
                self._put(self.held)
            self._put(data[:-END_SIZE])
            self.held = bytes(data[-END_SIZE:])
        except BaseException as error:  # on its way through torch it would become another, or end the process
            self.error = error

    def flush(self) -> None:
        """Nothing to do before the end."""

    def finish(self) -> None:
        """Writes the end and the checksum.

        Raises:
            BaseException: what writing has met on the way.
        """
        if self.error is not None:
            raise self.error
        assert self.held.startswith(END)
        comment = len(WORDS) + DIGITS
        self._put(self.held[:-2] + comment.to_bytes(2, "little") + WORDS)
        self.file.write(self.digest.hexdigest().encode())

    def _put(self, data: memoryview | bytes) -> None:
        self.digest.update(data)
        self.file.write(data)


def verify(path: Path, name: str) -> bool:
    """Reads a file through and compares it with its checksum, once in this process as long as it stays as it is.

    Args:
        path: the file.
        name: what the error calls it.

    Returns:
        False where it carries no checksum.

    Raises:
        MapexError: it is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        state = os.fstat(file.fileno())
        size = state.st_size - DIGITS
        file.seek(max(0, size - len(WORDS)))
        end = file.read()
        if len(end) < len(WORDS) + DIGITS or not end.startswith(WORDS):
            return False
        as_it_is = (state.st_dev, state.st_ino, state.st_size, state.st_ctime_ns)
        if as_it_is not in _verified:
            file.seek(0)
            if _digest(file, size) != end.removeprefix(WORDS):
                raise damaged(name, "its bytes do not give the checksum at its end")
            if time.time() - state.st_ctime > SETTLED:
                _verified.add(as_it_is)
    return True


def damaged(name: str, why: str) -> MapexError:
    """The error for a file that is not what was written."""
    return MapexError(f"{name} is damaged: {why}. Copy it anew from where it is whole, or take an earlier one.")


def _digest(file: io.FileIO, size: int) -> bytes:
    """The checksum of the first bytes of a file."""
    digest, buffer = sha256(), memoryview(bytearray(2**20))
    while size and (count := file.readinto(buffer[:size])):
        digest.update(buffer[:count])
        size -= count
    return digest.hexdigest().encode()
