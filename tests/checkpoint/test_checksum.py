"""A file proves itself whole: no byte of it can be another."""

from __future__ import annotations

import errno
import io
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import torch

from mapex_lightning.checkpoint import checksum
from mapex_lightning.checkpoint.checksum import DIGITS, WORDS, ChecksumWriter, verify
from mapex_lightning.errors import MapexError

WEIGHTS = torch.arange(7.0)
CONTENT = {"weights": WEIGHTS, "step": 3}


def write(file: BinaryIO, content: object = CONTENT) -> None:
    writer = ChecksumWriter(file)
    torch.save(content, cast("BinaryIO", writer))
    writer.finish()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.ckpt"
    with path.open("wb") as target:
        write(target)
    return path


def test_a_file_that_is_whole_proves_it(file: Path) -> None:
    assert verify(file, "a.ckpt")


def test_torch_reads_the_file_mapped_or_not(file: Path) -> None:
    for mapped in (False, True):
        found = torch.load(file, weights_only=True, mmap=mapped)
        assert torch.equal(found["weights"], WEIGHTS)


def test_zip_and_sha256_know_the_file_without_us(file: Path) -> None:
    content = file.read_bytes()
    digest = sha256(content[:-DIGITS]).hexdigest().encode()
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.comment == WORDS + digest == content[-len(WORDS) - DIGITS :]


def test_the_same_content_gives_the_same_bytes(file: Path) -> None:
    other = io.BytesIO()
    write(other)
    assert other.getvalue() == file.read_bytes()


def flip(file: Path, place: int) -> None:
    """Flips one bit of a byte; again, and it is as it was."""
    with file.open("rb+") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 1 << place % 8]))


def test_a_bit_that_flips_at_any_byte_is_found(file: Path) -> None:
    size = file.stat().st_size
    words = range(size - DIGITS - len(WORDS), size - DIGITS)
    for place in range(size):
        flip(file, place)
        if place in words:  # no longer a file that carries a checksum, which is for `read` to refuse
            assert not verify(file, "a.ckpt")
        else:
            with pytest.raises(
                MapexError, match=r"a\.ckpt is damaged: its bytes do not give the checksum at its end\."
            ):
                verify(file, "a.ckpt")
        flip(file, place)
    assert verify(file, "a.ckpt")


@pytest.mark.parametrize("content", [b"", b"short", WORDS, WORDS + b"0" * 63, bytes(1000)])
def test_a_file_without_a_checksum_is_known(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    assert not verify(tmp_path / "other", "other")


def test_a_file_is_read_through_once_as_long_as_it_stays_as_it_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, reads = checksum._digest, []

    def watched(file: io.FileIO, size: int) -> bytes:
        reads.append(size)
        return real(file, size)

    monkeypatch.setattr(checksum, "_digest", watched)
    monkeypatch.setattr(checksum, "SETTLED", -1.0)
    for _ in range(3):
        verify(file, "a.ckpt")
    assert len(reads) == 1
    file.write_bytes(file.read_bytes())
    verify(file, "a.ckpt")
    assert len(reads) == 2


def test_a_file_that_has_just_changed_is_read_through_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "SETTLED", 3600.0)
    assert verify(file, "a.ckpt")
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(MapexError, match="damaged"):
        verify(file, "a.ckpt")


class Full(io.BytesIO):
    """A file on a disk of so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: object) -> int:
        self.room -= len(memoryview(cast("bytes", data)))
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(cast("bytes", data))


def test_an_error_of_the_disk_comes_out_as_itself_wherever_it_strikes(file: Path) -> None:
    size = file.stat().st_size
    for room in range(0, size, size // 50):
        with pytest.raises(OSError, match="No space left"):
            write(Full(room))
    write(Full(size))


def test_an_interrupt_while_writing_comes_out_as_itself() -> None:
    class Interrupted(io.BytesIO):
        def write(self, data: object) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(Interrupted())
