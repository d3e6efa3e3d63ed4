"""Settings have the names of the command line, and are read from run folders without trusting them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mapex_lightning.errors import MapexError
from mapex_lightning.settings import SETTINGS, among, flat, read_settings

NESTED = {
    "model": {"class_path": "a.FineTune", "init_args": {"optimiser": {"lr": 0.1}, "classes": None}},
    "data": {"sets": [{"class_path": "b.Folder", "init_args": {"root": "c"}}], "modalities": ["s1", "s2"]},
}


def test_settings_are_named_as_on_the_command_line() -> None:
    assert flat(NESTED) == {
        "model": "a.FineTune",
        "model.optimiser.lr": 0.1,
        "model.classes": None,
        "data.sets.0": "b.Folder",
        "data.sets.0.root": "c",
        "data.modalities": ["s1", "s2"],
    }


@pytest.mark.parametrize(("name", "one"), [("data.root", True), ("data.root.0", True), ("data.roots", False)])
def test_a_setting_is_among_others_by_its_name_or_a_higher_one(name: str, one: bool) -> None:
    assert among(name, ("data.root", "run")) is one


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: !!python/object/apply:os.getcwd []", "\x00"])
def test_what_are_no_settings_is_refused_with_the_name_of_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text(text)
    with pytest.raises(MapexError, match=rf"{SETTINGS} (cannot be read|holds no settings)"):
        read_settings(tmp_path)


def test_where_there_are_none_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_settings(tmp_path)
