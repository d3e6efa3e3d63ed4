"""Tables of shards: where samples lie, when a table is made again, and shards that cannot be used."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mapex_lightning.data.sets import tar
from mapex_lightning.errors import MapexError
from tests.sharding import write_shard

SAMPLES = {f"s{number}": bytes([number]) * (number * 300 + 1) for number in range(5)}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_shard(tmp_path / "a.tar", SAMPLES)
    tar.table_of.cache_clear()
    return tmp_path / "a.tar"


def samples(shard: Path, kept: Path) -> dict[str, bytes]:
    tar.table_of.cache_clear()
    rows = tar.table_of(shard, kept, "zarr.zip")
    return {row["key"].decode(): tar.read(shard, int(row["offset"]), int(row["size"])) for row in rows}


def test_every_sample_lies_where_its_table_says(shard: Path, tmp_path: Path) -> None:
    assert samples(shard, tmp_path / "t.npy") == SAMPLES
    assert samples(shard, tmp_path / "t.npy") == SAMPLES  # from the table that was kept


def test_the_length_is_known_without_the_shard_being_read_again(shard: Path, tmp_path: Path) -> None:
    samples(shard, tmp_path / "t.npy")
    kept = (tmp_path / "t.npy").stat().st_mtime_ns
    assert tar.length_of(shard, tmp_path / "t.npy", "zarr.zip") == 5
    assert (tmp_path / "t.npy").stat().st_mtime_ns == kept


def test_a_table_is_made_again_when_its_shard_is_another_or_it_is_damaged(shard: Path, tmp_path: Path) -> None:
    kept = tmp_path / "t.npy"
    samples(shard, kept)
    write_shard(shard, other := {"x": b"1", "y": b"22"})
    os.utime(shard, ns=(1, 1))  # as a tool that keeps the time of change would leave it
    assert samples(shard, kept) == other
    kept.write_bytes(kept.read_bytes()[:20])
    assert samples(shard, kept) == other


def test_members_of_other_kinds_and_folders_in_names_are_no_samples(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for name in ("deep/er/s1.json", "./deep/s1.ZARR.ZIP", "README"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    assert samples(tmp_path / "b.tar", tmp_path / "b.npy") == {"s1": b"x"}


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.05])
def test_a_shard_that_is_cut_is_refused_by_name(shard: Path, tmp_path: Path, keep: float) -> None:
    content = shard.read_bytes().rstrip(b"\0")
    shard.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(MapexError, match=r"Shard .*a\.tar .*(s\d\.zarr\.zip|its first member).*etch it again"):
        tar.table_of(shard, tmp_path / "t.npy", "zarr.zip")


def test_a_shard_that_is_cut_between_two_members_is_refused(shard: Path, tmp_path: Path) -> None:
    rows = tar.table_of(shard, tmp_path / "t.npy", "zarr.zip")
    blocks = -(-int(rows[2]["offset"] + rows[2]["size"]) // tarfile.BLOCKSIZE)
    shard.write_bytes(shard.read_bytes()[: blocks * tarfile.BLOCKSIZE])
    with pytest.raises(MapexError, match=r"a\.tar has no end: it stops after s2\.zarr\.zip"):
        samples(shard, tmp_path / "t.npy")


def test_what_is_no_tar_and_a_tar_without_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.tar").write_bytes(b"no tar" * 999)
    write_shard(tmp_path / "d.tar", {})
    with pytest.raises(MapexError, match=r"c\.tar is damaged"):
        tar.table_of(tmp_path / "c.tar", tmp_path / "t.npy", "zarr.zip")
    with pytest.raises(MapexError, match=r"d\.tar holds no member named KEY\.zarr\.zip"):
        tar.table_of(tmp_path / "d.tar", tmp_path / "t.npy", "zarr.zip")


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "e.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("s1.zarr.zip"))
    with pytest.raises(MapexError, match=r"e\.tar holds sample s1 twice"):
        tar.table_of(tmp_path / "e.tar", tmp_path / "t.npy", "zarr.zip")


def test_a_table_that_cannot_be_kept_is_an_error_with_a_way_out(shard: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MapexError, match=r"could not be written.*`index: FOLDER`"):
        tar.table_of(shard, tmp_path / "file" / "t.npy", "zarr.zip")


def test_a_missing_library_is_named_with_its_extra(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    with pytest.raises(MapexError, match=r"needs the Python package webdataset.*'mapex-lightning\[shards\]'"):
        tar.table_of(shard, tmp_path / "t.npy", "zarr.zip")


def test_a_table_holds_no_objects(shard: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert samples(shard, tmp_path / "t.npy") == SAMPLES  # never unpickled, made again
