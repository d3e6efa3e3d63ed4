"""Manifests: what is read from CSV and Parquet, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mapex_lightning.data.manifest import Entry, read_manifest
from mapex_lightning.errors import MapexError

TABLE = "tile,split,label,s1,s2\na,train,Forest,a1.tif,a2.tif\nb,val,River,,b2.tif\n"


def written(folder: Path, text: str) -> Path:
    (folder / "tiles.csv").write_text(text, encoding="utf-8")
    return folder / "tiles.csv"


def test_rows_keep_their_order_and_an_empty_cell_is_no_sensor(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, TABLE))
    assert manifest.sensors == ("s1", "s2")
    assert list(manifest.entries.items()) == [
        ("a", Entry("train", "Forest", {"s1": "a1.tif", "s2": "a2.tif"})),
        ("b", Entry("val", "River", {"s2": "b2.tif"})),
    ]


def test_parquet_and_csv_say_the_same(tmp_path: Path) -> None:
    columns = {"tile": ["a", "b"], "split": ["train", "val"], "label": ["Forest", "River"]}
    sensors = {"s1": ["a1.tif", None], "s2": ["a2.tif", "b2.tif"]}
    parquet.write_table(pyarrow.table(columns | sensors), tmp_path / "tiles.parquet")
    assert read_manifest(tmp_path / "tiles.parquet") == read_manifest(written(tmp_path, TABLE))


def test_a_byte_order_mark_and_stray_spaces_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff" + TABLE.replace(",", " , "))
    assert read_manifest(path) == read_manifest(written(tmp_path, TABLE))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TABLE.replace("split", "part"), "no required column 'split'"),
        (TABLE.replace("\nb,", "\na,"), "row 2: tile id 'a' is empty or occurs twice"),
        (TABLE.replace("\nb,", "\n,"), "tile id '' is empty"),
        (TABLE.replace("val", "vall"), "no split 'vall'. Did you mean 'val'"),
        (TABLE + "c,test\n", "row 3: 2 cells under 5 columns"),
        (TABLE.replace("s1,s2", "s2,s2"), r"tiles\.csv has several columns s2"),
        ("", "is empty"),
    ],
    ids=["column", "twice", "nameless", "split", "short", "columns", "nothing"],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(MapexError, match=says):
        read_manifest(written(tmp_path, text))


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"no manifest .*tiles\.csv"):
        read_manifest(tmp_path / "tiles.csv")


def test_a_relative_manifest_is_said_to_count_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MapexError, match=f"no manifest own/tiles.csv in {tmp_path}"):
        read_manifest(Path("own/tiles.csv"))


@pytest.mark.parametrize("name", ["tiles.csv", "tiles.parquet"])
def test_bytes_that_are_no_table_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00nothing")
    with pytest.raises(MapexError, match=name):
        read_manifest(tmp_path / name)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiles.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MapexError, match=r"mapex-lightning\[parquet\]"):
        read_manifest(tmp_path / "tiles.parquet")
