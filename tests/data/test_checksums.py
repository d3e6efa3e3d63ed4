"""Checksums tell changed and missing files, and never leave their folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mapex_lightning.data import checksums
from mapex_lightning.data.checksums import CHECKSUMS
from mapex_lightning.errors import MapexError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "s1").mkdir(parents=True)
    for name in ("tiles.csv", "s1/a b.tif", "s1/c.tif"):
        (root / name).write_text(name)
    return root


def test_what_was_written_is_verified(folder: Path) -> None:
    assert checksums.write(folder) == folder / CHECKSUMS
    assert checksums.verify(folder) == (("s1/a b.tif", "s1/c.tif", "tiles.csv"), (), ())
    before = (folder / CHECKSUMS).read_bytes()
    checksums.write(folder)
    assert (folder / CHECKSUMS).read_bytes() == before


def test_changed_and_missing_files_are_named(folder: Path) -> None:
    checksums.write(folder)
    (folder / "tiles.csv").write_text("other")
    (folder / "s1/c.tif").unlink()
    assert checksums.verify(folder) == (("s1/a b.tif",), ("tiles.csv",), ("s1/c.tif",))


def test_chosen_files_and_known_digests_give_the_same_list(folder: Path) -> None:
    text = checksums.write(folder, ["tiles.csv"]).read_text()
    checksums.write_digests(folder, {"tiles.csv": checksums.digest(folder / "tiles.csv")})
    assert (folder / CHECKSUMS).read_text() == text


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_and_we_read_each_other(folder: Path) -> None:
    checksums.write(folder)
    subprocess.run(["sha256sum", "--check", "--strict", CHECKSUMS], cwd=folder, check=True, capture_output=True)
    made = subprocess.run(["sha256sum", "./tiles.csv"], cwd=folder, check=True, capture_output=True, text=True).stdout
    (folder / CHECKSUMS).write_text(made)
    assert checksums.verify(folder).same == ("tiles.csv",)


@pytest.mark.parametrize("path", ["../secret", "s1/../../secret", "/etc/hostname", "link", "out/secret", "a\nb", " a"])
def test_a_path_out_of_the_folder_is_neither_written_nor_read(path: str, folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "out").symlink_to(folder.parent)
    with pytest.raises(MapexError, match=r"leads out of|cannot stand in"):
        checksums.write(folder, [path])
    assert not (folder / CHECKSUMS).exists()
    (folder / CHECKSUMS).write_text(f"{'0' * 64}  {path}\n")
    with pytest.raises(MapexError, match=r"leads out of|cannot stand in|is not `SHA-256"):
        checksums.verify(folder)


def test_a_link_that_stays_inside_is_a_file_like_others(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "tiles.csv")
    checksums.write(folder)
    assert "link" in checksums.verify(folder).same


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("abc  tiles.csv\n", "line 1"), (f"{'0' * 64}  a\n" * 2, "listed twice"), (None, "cannot be read")],
)
def test_a_list_that_is_none_gets_a_sentence(text: str | None, sentence: str, folder: Path) -> None:
    if text is not None:
        (folder / CHECKSUMS).write_text(text)
    with pytest.raises(MapexError, match=sentence):
        checksums.verify(folder)
