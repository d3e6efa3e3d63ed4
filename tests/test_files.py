"""A file is whole at every moment: the old one or the new one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_folder_whole, write_text, write_whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that was there before."""
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("disk full"), KeyboardInterrupt(), KeyError("x")])
def test_a_writer_that_fails_midway_leaves_the_old_file_whole_and_nothing_else(
    file: Path, error: BaseException
) -> None:
    before = file.read_bytes()

    def fail(beside: Path) -> None:
        beside.write_bytes(b"half")
        raise error

    with pytest.raises((MapexError, KeyboardInterrupt, KeyError)):
        write_whole(file, fail)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_is_a_sentence_that_says_the_old_file_is_untouched(file: Path) -> None:
    def fail(beside: Path) -> None:
        raise OSError("No space left on device")

    with pytest.raises(MapexError, match=r"No space left.*untouched"):
        write_whole(file, fail)


def test_the_old_file_is_there_until_the_new_one_is_whole(file: Path) -> None:
    before = file.read_bytes()
    seen: list[bytes] = []

    def watch(beside: Path) -> None:
        beside.write_bytes(b"new")
        seen.append(file.read_bytes())

    write_whole(file, watch)
    assert seen == [before]
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


def test_who_reads_the_old_file_reads_it_to_its_end(file: Path) -> None:
    before = file.read_bytes()
    with file.open("rb") as reader:
        write_whole(file, lambda beside: beside.write_bytes(b"new"))
        assert reader.read() == before


def folder_of(path: Path, text: str) -> None:
    path.mkdir()
    (path / "part").write_text(text)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), KeyError("x")])
def test_a_folder_that_fails_midway_leaves_the_old_one_whole_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    folder_of(tmp_path / "store", "old")

    def fail(beside: Path) -> None:
        folder_of(beside, "half")
        raise error

    with pytest.raises((MapexError, KeyboardInterrupt, KeyError)):
        write_folder_whole(tmp_path / "store", fail)
    assert (tmp_path / "store" / "part").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path) -> None:
    folder_of(tmp_path / "store", "old")
    with pytest.raises(MapexError, match="untouched"):
        write_folder_whole(tmp_path / "store", lambda beside: None)  # writes nothing, so there is nothing to rename
    assert (tmp_path / "store" / "part").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_folder_whole(tmp_path / "made" / "store", partial(folder_of, text=text))
    assert (tmp_path / "made" / "store" / "part").read_text() == "new"
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["store"]


def test_text_is_written_as_utf_8_into_a_folder_that_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "page.html", "\N{RIGHTWARDS ARROW}")
    assert (tmp_path / "new" / "page.html").read_bytes() == b"\xe2\x86\x92"
