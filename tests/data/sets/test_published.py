"""What published sets share: files that are found where people unpack them."""

from __future__ import annotations

from pathlib import Path

from mapex_lightning.data.sets.published import beneath


def test_files_are_found_in_the_root_or_one_level_below_and_the_root_comes_first(tmp_path: Path) -> None:
    assert beneath(tmp_path / "absent", "lists/a.csv") is None
    deep, below, here = (tmp_path / folder / "lists" / "a.csv" for folder in ("x/y", "x", "."))
    for file, found in ((deep, None), (below, below), (here, here)):
        file.parent.mkdir(parents=True)
        file.touch()
        assert beneath(tmp_path, "lists/a.csv") == found
