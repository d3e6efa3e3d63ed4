"""TerraMesh and SSL4EO-S12 v1.1 in shards: what a tile is, how shards are joined by key, and what is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets import tar
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.sets.shards import Shards
from mapex_lightning.data.sets.ssl4eo import SSL4EO
from mapex_lightning.data.sets.terramesh import L1C_BANDS, TerraMesh
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import S2_BANDS, Modality, modalities
from tests.sharding import BANDS, TYPES, image, sample, write_set, write_shard, zarr_zip

S1, S2, RGB, DEM = modalities(["s1", "s2", "rgb", "dem"])
NDVI = Modality("ndvi", ("ndvi",), 10.0, "index", (0.3,), (0.3,))
LULC = Modality("lulc", ("class",), 10.0, "class", (4.0,), (2.0,))
ALL = [S1, S2, RGB, DEM, NDVI, LULC]
MAJORTOM = ["S2L2A", "S2L1C", "S1RTC", "S2RGB", "DEM", "NDVI", "LULC"]


@pytest.fixture
def terramesh(tmp_path: Path) -> Path:
    """Two shards of MajorTOM places and one of SSL4EO-S12 places to train on, one of each to validate on."""
    base = tmp_path / "TerraMesh"
    write_set(base, "train", "majortom_shard_000001", MAJORTOM, range(4))
    write_set(base, "train", "majortom_shard_000002", MAJORTOM, range(4, 7))
    write_set(base, "train", "ssl4eos12_shard_000794", ["S2L2A", "S1GRD", "DEM"], range(7, 9))
    write_set(base, "val", "majortom_shard_000001", ["S2L2A", "S1RTC"], range(10, 12))
    return tmp_path


@pytest.fixture
def ssl4eo(tmp_path: Path) -> Path:
    """Three places, each four times."""
    folders = ["S2L2A", "S1GRD", "DEM", "LULC"]
    write_set(tmp_path / "SSL4EO-S12-v1.1", "train", "ssl4eos12_shard_000001", folders, range(3), times=4)
    return tmp_path


def test_a_tile_is_what_its_sample_holds_of_every_sensor(terramesh: Path) -> None:
    source = TerraMesh(terramesh)
    key = source.keys("train", ALL)[5]
    assert key == "train.majortom_shard_000002.ssl4eos12_train_0000005"
    tile = source.read(key, ALL)
    for name, folder in (("s2", "S2L2A"), ("s1", "S1RTC"), ("rgb", "S2RGB"), ("dem", "DEM"), ("ndvi", "NDVI")):
        np.testing.assert_array_equal(tile.images[name], image(folder, 5)[0].astype("f4"))
        assert tile.images[name].dtype == np.float32
    assert set(np.unique(tile.images["lulc"])) == {6.0}
    assert (tile.name, tile.target) == (key, None)


def test_bands_are_found_by_name(terramesh: Path) -> None:
    some = Modality("some", ("B12", "B02"), 10.0, S2.unit, (0.0, 0.0), (1.0, 1.0))
    source = TerraMesh(terramesh)
    found = source.read(source.keys("train", [some])[0], [some]).images["some"]
    np.testing.assert_array_equal(found, image("S2L2A", 0)[0][[11, 1]])


def test_bands_that_are_stored_in_another_order_are_found_by_name_too(tmp_path: Path) -> None:
    bands = np.stack([np.full((8, 8), 2, "f2"), np.full((8, 8), 1, "f2")])[None]
    write_shard(tmp_path / "train" / "S1RTC" / "a.tar", {"k": zarr_zip(bands, ["vh", "vv"])})
    found = TerraMesh(tmp_path).read("train.a.k", [S1]).images["s1"]
    assert found[:, 0, 0].tolist() == [1.0, 2.0]


def test_the_level_says_which_sentinel_2_product_is_read(terramesh: Path) -> None:
    cirrus = Modality("s2", ("B10", "B02"), 10.0, S2.unit, (0.0, 0.0), (1.0, 1.0))
    source = TerraMesh(terramesh, level="1C")
    key = source.keys("train", [cirrus])[0]
    np.testing.assert_array_equal(source.read(key, [cirrus]).images["s2"], image("S2L1C", 0)[0][[10, 1]])
    assert not TerraMesh(terramesh).offers(cirrus)
    assert L1C_BANDS[10] == "B10"


def test_a_place_has_the_radar_of_its_source(terramesh: Path) -> None:
    source, corrected = TerraMesh(terramesh), TerraMesh(terramesh, radar=["S1RTC"])
    place = source.keys("train", [S2])[-1]
    np.testing.assert_array_equal(source.read(place, [S1]).images["s1"], image("S1GRD", 8)[0].astype("f4"))
    assert corrected.read(place, [S1]).images == {}
    assert len(corrected.keys("train", [S1])) == 7
    assert len(TerraMesh(terramesh, radar=["S1RTC"], require=["s1"]).keys("train", [S2])) == 7


def test_a_fingerprint_is_of_the_shards_of_the_sensors(terramesh: Path) -> None:
    s1 = modalities(["s1"])
    before = TerraMesh(terramesh).fingerprint(s1)
    for folder, changes in (("DEM", False), ("S1RTC", True)):
        os.utime(next((terramesh / "TerraMesh" / "train" / folder).glob("*.tar")), ns=(1, 1))
        assert (TerraMesh(terramesh).fingerprint(s1) != before) == changes


def test_keys_are_those_of_the_shards_of_a_split_in_order(terramesh: Path) -> None:
    keys = TerraMesh(terramesh).keys("train", [S2, S1])
    assert keys.lengths == [4, 3, 2]
    assert [int(key[-2:]) for key in keys] == list(range(9))
    assert len(set(keys)) == 9
    val = TerraMesh(terramesh).keys("val")
    assert [key.partition(".")[0] for key in val] == ["val", "val"]
    assert list(TerraMesh(terramesh).keys("test")) == []


def test_sensors_are_joined_by_key_whatever_their_order_in_the_shards(tmp_path: Path) -> None:
    for folder, order in (("S2L2A", (1, 2, 3)), ("DEM", (3, 1))):
        samples = {f"k{number}": sample(folder, number) for number in order}
        write_shard(tmp_path / "train" / folder / "a.tar", samples)
    source = TerraMesh(tmp_path)
    tiles = [source.read(key, [S2, DEM]) for key in source.keys("train", [DEM, S2])]
    assert [sorted(tile.images) for tile in tiles] == [["dem", "s2"], ["s2"], ["dem", "s2"]]
    for number, tile in zip((1, 2, 3), tiles, strict=True):
        for name, pixels in tile.images.items():
            np.testing.assert_array_equal(pixels, image({"s2": "S2L2A", "dem": "DEM"}[name], number)[0])


def test_each_time_of_a_place_is_a_tile_and_elevation_holds_for_all(ssl4eo: Path) -> None:
    source = SSL4EO(ssl4eo)
    keys = source.keys("train", [S2, DEM])
    assert (len(keys), keys.lengths) == (12, [12])
    assert keys[6] == "train.ssl4eos12_shard_000001.ssl4eos12_train_0000001.2"
    tiles = [source.read(keys[4 + time], [S2, S1, DEM, LULC]) for time in range(4)]
    for time, tile in enumerate(tiles):
        np.testing.assert_array_equal(tile.images["s2"], image("S2L2A", 1, times=4)[time])
        np.testing.assert_array_equal(tile.images["s1"], image("S1GRD", 1, times=4)[time])
        np.testing.assert_array_equal(tile.images["dem"], image("DEM", 1)[0])
        np.testing.assert_array_equal(tile.images["lulc"], image("LULC", 1)[0])


@pytest.mark.parametrize("kind", [TerraMesh, SSL4EO])
def test_every_folder_that_is_published_is_offered_with_its_bands(kind: type[Shards]) -> None:
    source = kind()
    assert all(source.offers(modality) for modality in ALL)
    assert source.sensors["s2"] == Sensor(S2_BANDS, S2.unit, 10.0)
    assert set(BANDS) - {folder for folders in source.folders.values() for folder in folders} <= {"S2L1C", "S1RTC"}


def test_two_sets_below_one_root_are_told_apart(terramesh: Path, ssl4eo: Path) -> None:
    assert terramesh == ssl4eo
    (terramesh / "train").mkdir()  # of some other data set
    assert len(TerraMesh(terramesh).keys("train", [S2])) == 9
    assert len(SSL4EO(terramesh).keys("train", [S2])) == 12
    assert list(TerraMesh(terramesh / "TerraMesh").keys("train")) == list(TerraMesh(terramesh).keys("train"))


def test_tables_are_made_once_and_kept_where_they_are_asked_for(terramesh: Path, tmp_path: Path) -> None:
    TerraMesh(terramesh, index=tmp_path / "tables").keys("train", [S2])
    assert not list((terramesh / "TerraMesh").rglob("*.npy"))
    made = sorted(file.relative_to(tmp_path / "tables").as_posix() for file in tmp_path.rglob("*.npy"))
    assert made == [
        "train/S2L2A/majortom_shard_000001.index.npy",
        "train/S2L2A/majortom_shard_000002.index.npy",
        "train/S2L2A/ssl4eos12_shard_000794.index.npy",
    ]


def test_a_set_and_its_keys_reach_worker_processes(terramesh: Path) -> None:
    source = TerraMesh(terramesh)
    keys = source.keys("train", [S2])
    assert list(pickle.loads(pickle.dumps(keys))) == list(keys)


def test_a_set_without_shards_says_which_folders_it_wants_and_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"No TerraMesh shards for s1 in .*S1RTC or S1GRD of tar files.*huggingface"):
        TerraMesh(tmp_path).keys("train", [S1])


def test_a_sensor_that_does_not_exist_cannot_be_required() -> None:
    with pytest.raises(MapexError, match=r"no sensor 's3' of TerraMesh"):
        TerraMesh(require=["s3"])


@pytest.mark.parametrize("key", ["", "train", "dev.majortom_shard_000001.x", "train.majortom_shard_000009.x"])
def test_an_id_that_is_none_is_refused(terramesh: Path, key: str) -> None:
    with pytest.raises(MapexError, match=r"TerraMesh has no tile .*SPLIT\.SHARD\.SAMPLE"):
        TerraMesh(terramesh).read(key, [S2])


@pytest.mark.parametrize("time", ["", ".x", ".4"])
def test_a_time_that_does_not_exist_is_refused(ssl4eo: Path, time: str) -> None:
    with pytest.raises(MapexError, match=r"has no tile .*SPLIT\.SHARD\.SAMPLE\.TIME"):
        SSL4EO(ssl4eo).read(f"train.ssl4eos12_shard_000001.ssl4eos12_train_0000001{time}", [S2])


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no zip": (lambda content: b"nothing", "not a zip file"),
    "cut": (lambda content: content[: len(content) // 2], "not a zip file"),
    "bits": (lambda content: content.replace(content[900:1000], b"\0" * 100), "Bad CRC|decompress"),
    "bands": (lambda content: zarr_zip(image("S1RTC", 0), "ab"), r"wanted `bands` of \(time, 12, row, column\)"),
    "names": (lambda content: zarr_zip(image("S2L2A", 0), [f"B{n:02d}" for n in range(12, 24)]), "no band 'B01'"),
}


@pytest.mark.parametrize(("damage", "found"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_sample_is_named_with_its_shard(tmp_path: Path, damage: Callable[[bytes], bytes], found: str) -> None:
    content = damage(sample("S2L2A", 0))
    write_shard(tmp_path / "train" / "S2L2A" / "a.tar", {"k0": content})
    with pytest.raises(MapexError, match=rf"Sample k0 of shard .*a\.tar cannot be used: .*({found})"):
        TerraMesh(tmp_path).read("train.a.k0", [S2])


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path, str]]:
        return Path.write_text, (self.path, "run")


def planted(path: Path) -> bytes:
    """A sample whose pixels are a pickle."""
    old, new = zipfile.ZipFile(io.BytesIO(sample("S2L2A", 0))), io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            content = old.read(name)
            if name == "bands/.zarray":
                pickled = {"dtype": "|O", "compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
                content = json.dumps(json.loads(content) | pickled).encode()
            archive.writestr(name, pickle.dumps(Planted(path)) if name == "bands/0.0.0.0" else content)
    return new.getvalue()


def test_nothing_in_a_sample_is_unpickled(tmp_path: Path) -> None:
    write_shard(tmp_path / "train" / "S2L2A" / "a.tar", {"k0": planted(tmp_path / "run")})
    with pytest.raises(MapexError, match=r"Sample k0 of shard .*cannot be used: it needs codec 'pickle'"):
        TerraMesh(tmp_path).read("train.a.k0", [S2])
    assert not (tmp_path / "run").exists()


def test_a_damaged_sample_is_skipped_in_training_and_another_takes_its_place(tmp_path: Path) -> None:
    samples = {f"k{number}": sample("S2L2A", number) for number in range(4)}
    write_shard(tmp_path / "train" / "S2L2A" / "a.tar", samples | {"k1": b"nothing"})
    data = TileData([TerraMesh(tmp_path)], ["s2"], size=16, batch_size=4, most_bad=0.5)
    with pytest.warns(UserWarning, match=r"Tile train\.a\.k1 is skipped: Sample k1 of shard"):
        (batch,) = data.train_dataloader()
    assert sorted(name[-1] for name in batch.names) == ["0", "2", "2", "3"]


def test_real_places_of_terramesh_survive_the_way_through_shards(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    places = shared_data("terramind-examples") / "examples"
    stored: dict[str, dict[str, np.ndarray]] = {}
    for folder in MAJORTOM:
        for file in sorted((places / folder).glob("*.tif")):
            with rasterio.open(file) as raster:
                stored.setdefault(folder, {})[file.stem] = raster.read()[None].astype(TYPES.get(folder, "i2"))
        samples = {key: zarr_zip(bands, BANDS[folder]) for key, bands in stored[folder].items()}
        write_shard(tmp_path / "val" / folder / "majortom_shard_000001.tar", samples)
    source, earlier = TerraMesh(tmp_path), TerraMesh(tmp_path, level="1C")
    tiles = [source.read(key, ALL) for key in source.keys("val", ALL)]
    assert len(tiles) == 5
    for tile in tiles:
        place = tile.name.rpartition(".")[2]
        reflectance, radar = tile.images["s2"], tile.images["s1"]
        np.testing.assert_array_equal(reflectance, stored["S2L2A"][place][0])
        # Units: reflectance x 10000 at about the level of the other product, decibels in which VH is the fainter one,
        # the index of the very red and infrared that are stored, metres above sea, nine covers.
        top = earlier.read(tile.name, [S2]).images["s2"]
        assert 0.3 < np.median(reflectance) / np.median(top) < 3
        assert -40 < radar.min() < radar.max() < 10
        assert radar[0].mean() > radar[1].mean() + 3
        assert -1 <= tile.images["ndvi"].min() <= tile.images["ndvi"].max() <= 1
        red, infrared = reflectance[S2_BANDS.index("B04")], reflectance[S2_BANDS.index("B08")]
        index = (infrared - red) / np.maximum(infrared + red, 1)
        assert np.corrcoef(index.ravel(), tile.images["ndvi"].ravel())[0, 1] > 0.95
        assert -10 <= tile.images["dem"].min() <= tile.images["dem"].max() < 9000
        assert set(np.unique(tile.images["lulc"]).tolist()) <= set(range(1, 10))
        assert {image.shape[1:] for image in tile.images.values()} == {(224, 224)}


def test_making_a_set_reads_nothing(tmp_path: Path) -> None:
    tar.table_of.cache_clear()
    TileData([TerraMesh(tmp_path / "absent"), SSL4EO(tmp_path / "absent")], ["s2"])
    assert tar.table_of.cache_info().misses == 0
