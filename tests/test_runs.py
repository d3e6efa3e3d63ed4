"""A run has a folder of its own, and a later command finds what it wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mapex_lightning.errors import MapexError
from mapex_lightning.runs import find_checkpoint, new_run, own_checkpoint, runs_of


def touch(path: Path, when: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    os.utime(path, (when, when))
    return path


def test_the_first_run_has_the_plain_name(tmp_path: Path) -> None:
    assert new_run("pretrain", tmp_path / "runs") == tmp_path / "runs" / "pretrain"


def test_naming_a_run_makes_no_folder(tmp_path: Path) -> None:
    assert not new_run("pretrain", tmp_path).exists()


def test_every_later_run_has_the_next_number(tmp_path: Path) -> None:
    made = []
    for _ in range(11):
        made.append(new_run("pretrain", tmp_path))
        made[-1].mkdir()
    assert [folder.name for folder in made] == ["pretrain", *(f"pretrain-{n}" for n in range(2, 12))]


def test_a_deleted_run_does_not_give_its_number_to_another(tmp_path: Path) -> None:
    (tmp_path / "pretrain-7").mkdir()
    assert new_run("pretrain", tmp_path).name == "pretrain-8"


def test_runs_are_listed_newest_first_by_number_and_not_by_letter(tmp_path: Path) -> None:
    for name in ("a", "a-2", "a-10", "a-b", "ab", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a-11").touch()
    assert [folder.name for folder in runs_of("a", tmp_path)] == ["a-10", "a-2", "a"]


def test_a_dot_in_a_name_is_a_dot(tmp_path: Path) -> None:
    (tmp_path / "v1x0").mkdir()
    assert runs_of("v1.0", tmp_path) == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "two words", "a\n"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MapexError, match="A run's name is"):
        new_run(name, tmp_path)


def test_a_path_is_taken_as_given(tmp_path: Path) -> None:
    file = touch(tmp_path / "elsewhere" / "last.ckpt")
    touch(tmp_path / "runs" / "a" / "last.ckpt", 2000)
    assert find_checkpoint(file, tmp_path / "runs") == file


def test_a_bare_name_is_the_newest_file_of_that_name(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "last.ckpt", 1000)
    newest = touch(tmp_path / "b" / "last.ckpt", 3000)
    touch(tmp_path / "c" / "last.ckpt", 2000)
    touch(tmp_path / "d" / "best.ckpt", 4000)
    assert find_checkpoint("last.ckpt", tmp_path) == newest


def test_an_unknown_checkpoint_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    file = touch(tmp_path / "a" / "last.ckpt")
    with pytest.raises(MapexError, match=r"There is no checkpoint best.ckpt.*--ckpt") as caught:
        find_checkpoint("best.ckpt", tmp_path)
    assert str(file) in str(caught.value)


def test_of_many_checkpoints_the_newest_are_named(tmp_path: Path) -> None:
    for number in range(30):
        touch(tmp_path / f"run-{number}" / "last.ckpt", number)
    with pytest.raises(MapexError, match=r"Available: \S*run-29/last.ckpt, .*run-22/last.ckpt and 22 older ones\."):
        find_checkpoint("best.ckpt", tmp_path)


def test_without_any_checkpoint_the_sentence_says_none(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="Available: none below"):
        find_checkpoint("last.ckpt", tmp_path)


def test_a_path_is_not_looked_for_in_other_runs(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "last.ckpt")
    with pytest.raises(MapexError, match="There is no checkpoint"):
        find_checkpoint(Path("b") / "last.ckpt", tmp_path)


def test_a_runs_best_goes_before_its_last(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "last.ckpt", 2000)
    best = touch(tmp_path / "a" / "best.ckpt", 1000)
    assert own_checkpoint("a", tmp_path) == best


def test_the_newest_run_that_has_a_checkpoint_counts(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "best.ckpt")
    last = touch(tmp_path / "a-2" / "last.ckpt")
    (tmp_path / "a-3").mkdir()
    assert own_checkpoint("a", tmp_path) == last


def test_a_run_that_is_named_is_that_run_and_no_newer_one(tmp_path: Path) -> None:
    best = touch(tmp_path / "a" / "best.ckpt")
    touch(tmp_path / "a-2" / "best.ckpt")
    assert own_checkpoint("a", tmp_path, exactly=True) == best


def test_a_link_that_leads_nowhere_is_no_checkpoint(tmp_path: Path) -> None:
    last = touch(tmp_path / "a" / "last.ckpt")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "last.ckpt").symlink_to(tmp_path / "gone.ckpt")
    assert find_checkpoint("last.ckpt", tmp_path) == last
    with pytest.raises(MapexError, match="There is no checkpoint"):
        find_checkpoint("best.ckpt", tmp_path)


def test_another_runs_checkpoint_is_not_ones_own(tmp_path: Path) -> None:
    touch(tmp_path / "other" / "best.ckpt")
    with pytest.raises(MapexError, match=r"no trained model of the run 'a'.*random weights are not evaluated.*--ckpt"):
        own_checkpoint("a", tmp_path)


def test_a_checkpoint_is_not_fetched_from_elsewhere() -> None:
    with pytest.raises(MapexError, match=r"download https://example\.org/a\.ckpt first"):
        find_checkpoint("https://example.org/a.ckpt")
