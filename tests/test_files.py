"""A file is whole at every moment: the old one or the new one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mapex_lightning.errors import MapexError
from mapex_lightning.files import (
    FOREIGN,
    OLD,
    TEMPORARY,
    mark,
    remove,
    sweep,
    temporary,
    write_folder_whole,
    write_text,
    write_whole,
)
from tests.abandoned import abandoned, dead


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that was there before."""
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("a bug"), KeyboardInterrupt(), KeyError("x")])
def test_a_writer_that_fails_midway_leaves_the_old_file_whole_and_nothing_else(
    file: Path, error: BaseException
) -> None:
    before = file.read_bytes()

    def fail(beside: Path) -> None:
        beside.write_bytes(b"half")
        raise error

    with pytest.raises(MapexError if isinstance(error, OSError) else type(error)):
        write_whole(file, fail)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("path", [".", "..", "folder/.."])
def test_what_has_no_name_of_its_own_is_not_written(path: str) -> None:
    for write in (write_whole, write_folder_whole):
        with pytest.raises(MapexError, match="needs a name; found"):
            write(path, lambda beside: pytest.fail("written"))


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


def test_what_does_not_fit_is_said_before_anything_is_written(file: Path) -> None:
    with pytest.raises(MapexError, match=r"old\.bin needs 1,000,000,000\.0 MB, and [\d.,]+ MB are free in .*Make room"):
        write_whole(file, lambda beside: pytest.fail("written"), room=10**15)
    assert file.read_bytes() == b"old"


def test_a_file_system_that_does_not_tell_its_size_is_written_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Unknown())
    write_whole(file, lambda beside: beside.write_bytes(b"new"), room=10**15)
    assert file.read_bytes() == b"new"


class Unknown:
    total = used = free = 0


def test_what_does_not_prove_itself_leaves_the_old_file_and_nothing_else(file: Path) -> None:
    def refuse(beside: Path) -> None:
        assert beside.read_bytes() == b"new"
        raise MapexError("not what was to be written")

    with pytest.raises(MapexError, match="not what was to be written"):
        write_whole(file, lambda beside: beside.write_bytes(b"new"), check=refuse)
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def synced(monkeypatch: pytest.MonkeyPatch, answer: Callable[[bool], None] = lambda folder: None) -> list[Path]:
    """Paths that reach the disk, in order, the name of a folder standing for the names in it."""
    real, paths = os.fsync, []

    def fsync(descriptor: int) -> None:
        paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        answer(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


def test_content_reaches_the_disk_before_its_name_does(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, there = temporary(file), []
    paths = synced(monkeypatch, lambda folder: there.append(beside.exists()))
    write_whole(file, lambda beside: beside.write_bytes(b"new"))
    assert paths == [beside, file.parent]
    assert there == [True, False]


def test_the_names_of_new_folders_reach_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = synced(monkeypatch)
    write_text(tmp_path / "a" / "b" / "c.txt", "c")
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(paths)


def test_all_of_a_folder_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, beside = synced(monkeypatch), temporary(tmp_path / "store")
    write_folder_whole(tmp_path / "store", partial(folder_of, text="new"))
    assert paths == [beside / "part", beside, tmp_path]


def fail_on_folders(number: int) -> Callable[[bool], None]:
    def answer(folder: bool) -> None:
        if folder:
            raise OSError(number, os.strerror(number))

    return answer


def test_a_file_system_that_cannot_sync_folders_is_written_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced(monkeypatch, fail_on_folders(errno.EINVAL))
    write_whole(file, lambda beside: beside.write_bytes(b"new"))
    assert file.read_bytes() == b"new"


def test_a_name_that_did_not_reach_the_disk_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced(monkeypatch, fail_on_folders(errno.EIO))
    with pytest.raises(MapexError, match=r"may not outlast a crash of the machine .*Check its disk"):
        write_whole(file, lambda beside: beside.write_bytes(b"new"))


def test_a_file_is_removed_and_one_that_is_gone_is_no_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = synced(monkeypatch)
    remove(file)
    remove(file)
    assert not list(file.parent.iterdir())
    assert paths == [file.parent, file.parent]


def test_a_folder_is_not_removed(file: Path) -> None:
    with pytest.raises(MapexError, match="could not be removed"):
        remove(file.parent)
    assert file.read_bytes() == b"old"


FAR = "far-away-4026531836.1"


@pytest.mark.parametrize("name", ["last.ckpt", "a b", ".hidden.part", "1.2.3", "x" * 150])
def test_every_temporary_file_is_known_by_its_name(name: str) -> None:
    path = temporary(Path("runs") / name)
    found = TEMPORARY.fullmatch(path.name)
    assert found is not None
    assert (path.parent, found["name"], int(found["process"])) == (Path("runs"), name, os.getpid())


def test_what_a_dead_process_has_left_is_swept(tmp_path: Path) -> None:
    abandoned(tmp_path / "last.ckpt")
    folder_of(temporary(tmp_path / "store", by=dead()), "half")
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_living_process_writes_stays_however_old(tmp_path: Path) -> None:
    mine = abandoned(tmp_path / "last.ckpt", mark(), age=10 * FOREIGN)
    parents = abandoned(tmp_path / "last.ckpt", f"{mark().partition('.')[0]}.{os.getppid()}", age=10 * FOREIGN)
    sweep(tmp_path)
    assert mine.exists()
    assert parents.exists()


@pytest.mark.parametrize(("age", "stays"), [(0.0, True), (0.9 * FOREIGN, True), (1.1 * FOREIGN, False)])
def test_what_another_host_may_be_writing_stays_for_a_day(tmp_path: Path, age: float, stays: bool) -> None:
    theirs = abandoned(tmp_path / "last.ckpt", FAR, age)
    sweep(tmp_path)
    assert theirs.exists() is stays


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    process = dead().rpartition(".")[2]
    names = {"last.ckpt", ".hidden", ".last.ckpt.part", f".last.ckpt.{process}.tmp", f"last.ckpt.{dead()}.new.part"}
    for name in names:
        (tmp_path / name).write_text("mine")
    sweep(tmp_path)
    sweep(tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == names


def test_folders_inside_are_swept_when_asked_for(tmp_path: Path) -> None:
    inside = abandoned(tmp_path / "pictures" / "a.png")
    sweep(tmp_path)
    assert inside.exists()
    sweep(tmp_path, below=True)
    assert not inside.exists()


@pytest.mark.parametrize("arrived", [False, True])
def test_a_folder_that_made_room_comes_back_unless_a_new_one_is_there(tmp_path: Path, arrived: bool) -> None:
    folder_of(temporary(tmp_path / "store", OLD, dead()), "old")
    folder_of(tmp_path / "store" if arrived else temporary(tmp_path / "store", by=dead()), "new")
    sweep(tmp_path)
    assert (tmp_path / "store" / "part").read_text() == ("new" if arrived else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


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
