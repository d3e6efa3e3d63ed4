"""The benchmark of pairs reads the same pixels out of every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from safetensors.numpy import save

from benchmarks import pairs
from benchmarks.loading import BATCH, FLOOR
from benchmarks.pairs import COPIES, PAIR, SHARD, STREAM, WIDE, Pairs, benge, every, main, mosaic, pixels, streamed
from mapex_lightning.data.sets import BigEarthNet, TerraMesh
from mapex_lightning.modality import S2_BANDS

SIDES = {"B01": 20, "B09": 20} | dict.fromkeys(("B02", "B03", "B04", "B08"), 120)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pairs of noise, as metadata and an LMDB of rico-hdl."""
    folder, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    columns: dict[str, list[str]] = {
        "patch_id": [f"S2A_scene_{n}_0" for n in range(9)],
        "s1_name": [f"S1A_scene_T_{n}_0" for n in range(9)],
    }
    with lmdb.open(str(folder / "Encoded"), map_size=2**24) as database, database.begin(write=True) as change:
        for s2, s1 in zip(*columns.values(), strict=True):
            radar = {band: rng.normal(-12, 3, (120, 120)).astype("f4") for band in ("VV", "VH")}
            sides = {band: SIDES.get(band, 60) for band in S2_BANDS}
            optical = {band: rng.integers(1, 9000, (side, side)).astype("u2") for band, side in sides.items()}
            change.put(s1.encode(), save(radar))
            change.put(s2.encode(), save(optical))
    labels: dict[str, Any] = {"labels": [["Pastures"]] * 9, "split": ["train", "validation", "test"] * 3}
    for name, rows in {"metadata": slice(0, 6), "metadata_for_patches_with_snow_cloud_or_shadow": slice(6, 9)}.items():
        table = {column: values[rows] for column, values in (columns | labels).items()}
        parquet.write_table(pyarrow.table(table), folder / f"{name}.parquet")
    return folder


def test_every_layout_of_the_pairs_holds_the_same_pixels(root: Path, tmp_path: Path) -> None:
    source = BigEarthNet(root, snow_and_cloud=True)
    others = [pairs.unpacked(root, tmp_path / "geotiff"), benge(root, tmp_path / "ben-ge-8k")]
    assert sorted(others[1].keys("train")) == sorted(every(source)) == sorted(every(others[0]))
    for key in every(source)[::4]:
        wanted = source.read(key, PAIR).images
        for other in others:
            for name, image in other.read(key, PAIR).images.items():
                np.testing.assert_array_equal(image, wanted[name])


def test_copies_are_the_pairs_under_other_names(root: Path) -> None:
    source = BigEarthNet(root, snow_and_cloud=True)
    copies = Pairs(source, COPIES)
    keys = copies.keys("train")
    assert len(set(keys)) == COPIES * 9
    tile = copies.read(keys[10], PAIR)
    assert tile.name == keys[10]
    np.testing.assert_array_equal(tile.images["s1"], source.read(keys[10].partition("/")[0], PAIR).images["s1"])


def test_shards_hold_mosaics_of_the_pairs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "FEW", 4)
    tars = pairs.write_shards(root, tmp_path)
    source, pair = TerraMesh(tmp_path), BigEarthNet(root, snow_and_cloud=True)
    assert list(source.keys("train"))[2] == f"train.{SHARD.format(1)}.0000002"
    tile, wanted = source.read(source.keys("train")[2], PAIR), mosaic(pair, every(pair), 2)
    assert tile.images["s2"].shape == (12, WIDE, WIDE)
    np.testing.assert_array_equal(tile.images["s2"], wanted["s2"])
    np.testing.assert_array_equal(tile.images["s1"], wanted["s1"].astype("f2").astype("f4"))
    seen: list[np.ndarray] = []

    def decode(raw: bytes) -> bytes:
        seen.append(pixels(raw))
        return raw

    streamed(tars, 2, decode, 0)
    assert len(seen) == 2 * 2 * 4
    assert {len(image) for image in seen} == {2, 12}
    assert any(np.array_equal(image, wanted["s2"]) for image in seen)


@pytest.mark.slow
def test_the_command_prints_every_layout(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MANY", "SOME", "FEW"):
        monkeypatch.setattr(pairs, name, BATCH)
    main([str(root), "--rounds", "1"])
    printed = capsys.readouterr().out
    rows = (FLOOR, "packed", "LMDB, BigEarthNet", "GeoTIFF, BigEarthNet", "GeoTIFF, BenGe", "shards, TerraMesh", STREAM)
    for name in rows:
        assert f"| {name} | " in printed
