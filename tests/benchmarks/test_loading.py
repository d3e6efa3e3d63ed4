"""The benchmark of loading reads the same pixels out of every layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks import loading
from benchmarks.loading import BATCH, FLOOR, L1C, PEER, Bare, layouts, main, manifest, per_band, stacked
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sets import EuroSAT, Packed
from mapex_lightning.data.sets.eurosat import CLASSES

PLACE = rasterio.Affine(10, 0, 0, 0, -10, 0)


@pytest.fixture
def eurosat(tmp_path: Path) -> Path:
    """As many tiles as a batch has, of noise, in the published layout."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "count": 13, "height": 64, "width": 64, "dtype": "uint16", "crs": "EPSG:32632"}
    for name in CLASSES:
        folder = tmp_path / "published" / "EuroSAT_MS" / name
        folder.mkdir(parents=True)
        for number in range(1, 8):
            with rasterio.open(folder / f"{name}_{number}.tif", "w", transform=PLACE, **profile) as target:
                target.write(rng.integers(0, 10_000, (13, 64, 64)).astype(np.uint16))
    return tmp_path / "published"


def test_every_layout_holds_the_same_pixels(eurosat: Path, tmp_path: Path) -> None:
    source = EuroSAT(eurosat)
    keys = ["Forest_1", "River_7"]
    pack(Packing(source, (L1C,), tmp_path / "packed"))
    store = Packed(tmp_path / "packed")
    others = [store, manifest(source, keys, tmp_path / "own.csv"), per_band(store, keys, tmp_path / "bands")]
    for key in keys:
        wanted = source.read(key, [L1C]).images["l1c"]
        for other in others:
            np.testing.assert_array_equal(other.read(key, [L1C]).images["l1c"], wanted)


def test_bare_tiles_become_a_batch_of_the_same_numbers() -> None:
    tiles = Bare(3, lambda number: np.full((2, 4, 4), number, dtype=np.uint16))
    assert stacked([tiles[number] for number in range(len(tiles))])[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_the_command_prints_every_layout(
    eurosat: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MANY", BATCH)
    monkeypatch.setattr(loading, "FEW", BATCH)
    main([str(eurosat), "--rounds", "1", "--steps", "1", "--workers", "0"])
    printed = capsys.readouterr().out
    for name in (FLOOR, PEER, "packed", "packed, finished", "GeoTIFF, EuroSAT", "GeoTIFF per band", "LMDB", "Zarr"):
        assert f"| {name} | " in printed
    assert "| pre-training nano from | tiles/s | waiting |" in printed


def test_what_is_not_installed_is_left_out(
    eurosat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> object:
        raise ImportError(f"No module named {name}")

    monkeypatch.setattr(loading, "import_module", absent)
    monkeypatch.setattr(loading, "FEW", 8)
    (tmp_path / "layouts").mkdir()
    assert not {PEER, "LMDB", "Zarr"} & set(layouts(eurosat, tmp_path / "layouts"))
    assert "Zarr is left out: No module named zarr" in capsys.readouterr().out


def test_real_tiles_can_be_read(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    source = EuroSAT(shared_data("eurosat-ms"))
    pack(Packing(source, (L1C,), tmp_path, size=8))
    store = Packed(tmp_path)
    assert store.files("l1c").dtype == "uint16"
    key = store.keys("train")[0]
    np.testing.assert_array_equal(
        store.read(key, [L1C]).images["l1c"], source.read(key, [L1C]).images["l1c"][:, 28:36, 28:36]
    )
