"""BigEarthNet: GeoTIFFs and the LMDB of rico-hdl, its official labels and splits, and the sample inside a wheel."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import lmdb
import numpy as np
import pyarrow
import pytest
import rasterio
from pyarrow import parquet
from safetensors.numpy import save

from mapex_lightning.data.sets.bigearthnet import CLASSES, CODES, BigEarthNet, rico
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, S2_BANDS, modalities
from mapex_lightning.tiles import IGNORED

S1, S2 = modalities(["s1", "s2"])
SIDES = {"B01": 20, "B09": 20} | dict.fromkeys(("B02", "B03", "B04", "B08"), 120)
METADATA = "metadata.parquet"
SNOW = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"


def stored(number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Both sensors of a patch, each band at its own resolution."""
    rng = np.random.default_rng(number)
    s1 = {band: rng.normal(-12, 3, (120, 120)).astype(np.float32) for band in ("VV", "VH")}
    sides = {band: SIDES.get(band, 60) for band in S2_BANDS}
    return s1, {band: rng.integers(1, 9000, (side, side)).astype(np.uint16) for band, side in sides.items()}


def tabled(path: Path, numbers: list[int], labels: list[list[str]], splits: list[str]) -> None:
    """A metadata file with the published columns, as far as they are read."""
    columns = {
        "patch_id": [f"S2_{number}" for number in numbers],
        "labels": labels,
        "split": splits,
        "s1_name": [f"S1_{number}" for number in numbers],
        "country": ["Austria"] * len(numbers),
    }
    parquet.write_table(pyarrow.table(columns), path)


def encoded(folder: Path, patches: dict[int, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> None:
    """An LMDB as rico-hdl writes it."""
    with lmdb.open(str(folder), map_size=2**25) as environment, environment.begin(write=True) as transaction:
        for number, (s1, s2) in patches.items():
            transaction.put(f"S1_{number}".encode(), save(s1))
            transaction.put(f"S2_{number}".encode(), save(s2))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Patches 1 (train), 2 (validation), 3 (test), and 4 (train) under snow."""
    encoded(tmp_path / "Encoded-BigEarthNet", {number: stored(number) for number in (1, 2, 3, 4)})
    labels = [["Arable land", "Urban fabric"], ["Marine waters"], ["Coniferous forest"]]
    tabled(tmp_path / METADATA, [1, 2, 3], labels, ["train", "validation", "test"])
    tabled(tmp_path / SNOW, [4], [["Mixed forest"]], ["train"])
    return tmp_path


def test_splits_are_the_official_ones(root: Path) -> None:
    assert [BigEarthNet(root).keys(split) for split in SPLITS] == [["S2_1"], ["S2_2"], ["S2_3"]]


def test_snow_and_cloud_come_only_when_asked_for(root: Path) -> None:
    assert BigEarthNet(root, snow_and_cloud=True).keys("train") == ["S2_1", "S2_4"]


def test_labels_are_multi_hot_in_the_official_order(root: Path) -> None:
    label = np.asarray(BigEarthNet(root).label("S2_1"))
    assert label.dtype == np.float32
    assert [CLASSES[index] for index in np.flatnonzero(label)] == ["Urban fabric", "Arable land"]
    assert len(CLASSES) == 19


@pytest.mark.parametrize("name", ["metadata.parquet", "data.mdb"])
def test_a_fingerprint_is_of_the_metadata_and_the_database(root: Path, name: str) -> None:
    before = BigEarthNet(root).fingerprint([])
    assert BigEarthNet(root).fingerprint([]) == before != BigEarthNet(root, snow_and_cloud=True).fingerprint([])
    os.utime(next(root.rglob(name)), ns=(1, 1))
    assert BigEarthNet(root).fingerprint([]) != before


def test_both_sensors_of_a_patch_lie_on_the_fine_grid(root: Path) -> None:
    s1, s2 = stored(2)
    tile = BigEarthNet(root).read("S2_2", [S1, S2])
    assert {name: image.shape for name, image in tile.images.items()} == {"s1": (2, 120, 120), "s2": (12, 120, 120)}
    assert all(image.dtype == np.float32 for image in tile.images.values())
    np.testing.assert_array_equal(tile.images["s1"], np.stack([s1["VV"], s1["VH"]]))
    for band, pixels in zip(S2_BANDS, tile.images["s2"], strict=True):
        step = 120 // len(s2[band])
        for row, column in ((0, 0), (0, step - 1), (step - 1, 0)):
            np.testing.assert_array_equal(pixels[row::step, column::step], s2[band])


def test_a_band_group_is_cut_out_of_the_same_pixels(root: Path) -> None:
    tile = BigEarthNet(root).read("S2_1", [S2, MODALITIES["s2_swir"]])
    np.testing.assert_array_equal(tile.images["s2_swir"], tile.images["s2"][-2:])


@pytest.mark.parametrize("below", ["", "ben", "ben/v2"])
@pytest.mark.parametrize("name", ["Encoded-BigEarthNet", "BigEarthNet.lmdb", "anything"])
def test_it_is_found_under_any_name_two_levels_down(root: Path, tmp_path: Path, below: str, name: str) -> None:
    folder = tmp_path / "moved" / below
    folder.mkdir(parents=True)
    (root / "Encoded-BigEarthNet").rename(folder / name if below != "ben/v2" else tmp_path / "moved" / name)
    (root / METADATA).rename(folder / METADATA)
    assert BigEarthNet(tmp_path / "moved").read("S2_1", [S1]).images["s1"].shape == (2, 120, 120)


def test_the_database_beside_the_metadata_is_taken(root: Path, tmp_path: Path) -> None:
    (tmp_path / "both" / "v1" / "old.lmdb").mkdir(parents=True)
    (tmp_path / "both" / "v1" / "old.lmdb" / "data.mdb").touch()
    (tmp_path / "both" / "v2").mkdir()
    for entry in ("Encoded-BigEarthNet", METADATA):
        (root / entry).rename(tmp_path / "both" / "v2" / entry)
    assert BigEarthNet(tmp_path / "both").read("S2_1", [S1]).name == "S2_1"


def test_two_sets_of_one_database_can_be_open_at_once(root: Path) -> None:
    one, other = BigEarthNet(root), BigEarthNet(root, snow_and_cloud=True)
    np.testing.assert_array_equal(one.read("S2_1", [S1]).images["s1"], other.read("S2_1", [S1]).images["s1"])


def _read(source: BigEarthNet) -> np.ndarray:
    return source.read("S2_1", [S1]).images["s1"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_read_what_this_one_reads(root: Path, method: str) -> None:
    source = BigEarthNet(root)
    here = _read(source)
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(source.read, ("S2_1", [S1])).get(60).images["s1"], here)
    np.testing.assert_array_equal(_read(source), here)


def _owners(source: BigEarthNet) -> tuple[int, set[int]]:
    """This process, and the processes that opened the databases which it holds after reading."""
    _read(source)
    return os.getpid(), {owner for path, (owner, _) in rico._OPEN.items() if source.root in path.parents}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_opens_a_handle_of_its_own(root: Path) -> None:
    source = BigEarthNet(root)
    assert _owners(source) == (os.getpid(), {os.getpid()})
    with multiprocessing.get_context("fork").Pool(1) as pool:
        child, owners = pool.apply(_owners, (source,))
    assert owners == {child}
    assert child != os.getpid()


def test_a_pickled_set_holds_no_handle(root: Path) -> None:
    source = BigEarthNet(root)
    here = _read(source)
    np.testing.assert_array_equal(_read(pickle.loads(pickle.dumps(source))), here)


def test_a_root_that_is_set_later_counts(root: Path) -> None:
    source = BigEarthNet()
    source.root = root
    assert source.keys("train") == ["S2_1"]


def test_without_a_root_the_sample_of_the_wheel_is_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    below = Path("configilm/extra/mock_data/BENv2")
    shutil.copytree(root / "Encoded-BigEarthNet", site / below / "BigEarthNet-V2-LMDB")
    shutil.copy(root / METADATA, site / below)
    (site / "configilm-0.7.1.dist-info").mkdir()
    (site / "configilm-0.7.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: configilm\nVersion: 0.7.1\n"
    )
    (site / "configilm-0.7.1.dist-info" / "RECORD").write_text(f"{(below / METADATA).as_posix()},,\n")
    (site / "configilm" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(site)
    assert BigEarthNet().read("S2_3", [S2]).images["s2"].shape == (12, 120, 120)


def test_the_wheel_holds_real_pairs() -> None:
    try:
        metadata.version("configilm")
    except metadata.PackageNotFoundError:
        pytest.skip("the wheel configilm is not installed: pip install --no-deps configilm==0.7.1")
    counts = [[len(BigEarthNet(snow_and_cloud=all_of).keys(split)) for split in SPLITS] for all_of in (False, True)]
    assert sum(counts[0]) == 18
    assert counts[1] == [8, 8, 8]
    key = BigEarthNet().keys("train")[0]
    assert {name: image.shape[0] for name, image in BigEarthNet().read(key, [S1, S2]).images.items()} == {
        "s1": 2, "s2": 12
    }  # fmt: skip


def test_without_the_wheel_its_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MapexError, match=r"pip install --no-deps configilm==0\.7\.1"):
        BigEarthNet().keys("train")


@pytest.mark.parametrize("package", ["pyarrow", "lmdb", "safetensors"])
def test_a_missing_package_names_the_extra(root: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MapexError, match=rf"package {package}: run `pip install 'mapex-lightning\[bigearthnet\]'`"):
        _read(BigEarthNet(root))


def test_a_patch_that_was_not_encoded_is_named(root: Path) -> None:
    tabled(root / METADATA, [9], [["Pastures"]], ["train"])
    with pytest.raises(MapexError, match="has no patch S1_9, which the metadata lists"):
        BigEarthNet(root).read("S2_9", [S1])


def test_a_damaged_patch_is_named(root: Path) -> None:
    with lmdb.open(str(root / "Encoded-BigEarthNet")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"S1_1", save(stored(1)[0])[:1000])
    with pytest.raises(MapexError, match=r"Patch S1_1 in .* is damaged"):
        _read(BigEarthNet(root))


def test_a_band_that_was_not_encoded_is_named(root: Path) -> None:
    s1, s2 = stored(5)
    encoded(root / "fresh", {5: (s1, {band: s2[band] for band in ("B02", "B03")})})
    shutil.rmtree(root / "Encoded-BigEarthNet")
    tabled(root / METADATA, [5], [["Pastures"]], ["train"])
    with pytest.raises(MapexError, match="has no band B01; it has B02, B03"):
        BigEarthNet(root).read("S2_5", [S2])


def test_a_band_of_another_grid_is_refused(root: Path) -> None:
    s1, _ = stored(1)
    with lmdb.open(str(root / "Encoded-BigEarthNet")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"S1_1", save(s1 | {"VH": s1["VH"][:100, :100].copy()}))
    with pytest.raises(
        MapexError, match=r"Patch S1_1 in .* band VH has 100 rows and 100 columns, which do not fit the 120 x 120"
    ):
        _read(BigEarthNet(root))


@pytest.mark.parametrize("file", [METADATA, SNOW])
def test_a_column_that_is_missing_is_named_with_its_file(root: Path, file: str) -> None:
    parquet.write_table(parquet.read_table(root / file).drop_columns(["split"]), root / file)
    with pytest.raises(MapexError, match=rf"/{file} has no column split\. Fetch {file}"):
        BigEarthNet(root, snow_and_cloud=True).keys("train")


@pytest.mark.parametrize("file", [METADATA, SNOW])
def test_a_damaged_table_is_named(root: Path, file: str) -> None:
    (root / file).write_bytes((root / file).read_bytes()[:300])
    with pytest.raises(MapexError, match=rf"/{file} cannot be read .* Fetch it again"):
        BigEarthNet(root, snow_and_cloud=True).keys("train")


def test_metadata_of_snow_and_cloud_that_is_missing_is_named(root: Path) -> None:
    (root / SNOW).unlink()
    with pytest.raises(MapexError, match=rf"metadata lacks .*/{SNOW}\. Fetch it from doi:"):
        BigEarthNet(root, snow_and_cloud=True).keys("train")


def test_however_text_is_stored_it_says_the_same(root: Path) -> None:
    text = pyarrow.large_string()
    large = {"patch_id": text, "labels": pyarrow.large_list(text), "split": text, "s1_name": text, "country": text}
    label, table = BigEarthNet(root).label("S2_1"), parquet.read_table(root / METADATA)
    parquet.write_table(table.cast(pyarrow.schema(large)), root / METADATA)
    assert BigEarthNet(root, snow_and_cloud=True).keys("train") == ["S2_1", "S2_4"]
    np.testing.assert_array_equal(BigEarthNet(root).label("S2_1"), label)


def test_patches_may_stand_in_any_order_and_in_many_row_groups(root: Path) -> None:
    rows = {3: "Pastures", 1: "Marine waters", 2: "Mixed forest"}
    tabled(root / METADATA, [*rows], [[label] for label in rows.values()], ["train", "train", "test"])
    parquet.write_table(parquet.read_table(root / METADATA), root / METADATA, row_group_size=1)
    source = BigEarthNet(root)
    assert (source.keys("train"), source.keys("test")) == (["S2_3", "S2_1"], ["S2_2"])
    for number, label in rows.items():
        np.testing.assert_array_equal(np.flatnonzero(source.label(f"S2_{number}")), [CLASSES.index(label)])
        s1, _ = stored(number)
        np.testing.assert_array_equal(source.read(f"S2_{number}", [S1]).images["s1"][0], s1["VV"])


def test_a_split_that_is_none_of_the_three_is_refused(root: Path) -> None:
    tabled(root / METADATA, [1], [["Pastures"]], ["dev"])
    with pytest.raises(MapexError, match=r"no split 'dev'\. Known: train, validation, test"):
        BigEarthNet(root).keys("train")


def test_a_label_outside_the_nineteen_is_refused(root: Path) -> None:
    tabled(root / METADATA, [1], [["Green urban areas"]], ["train"])
    with pytest.raises(MapexError, match="no label 'Green urban areas'"):
        BigEarthNet(root).keys("train")


def test_a_patch_without_labels_is_all_zero(root: Path) -> None:
    labels: list[list[str]] = [["Pastures"], [], ["Marine waters"]]
    tabled(root / METADATA, [1, 2, 3], labels, ["train"] * 3)
    source = BigEarthNet(root)
    assert [np.sum(source.label(key)) for key in source.keys("train")] == [1, 0, 1]


@pytest.mark.parametrize("lost", [METADATA, "Encoded-BigEarthNet"])
def test_what_is_not_there_is_named(root: Path, lost: str) -> None:
    (root / lost).rename(root.parent / f"{root.name}-{lost}")
    with pytest.raises(MapexError, match=r"(metadata\.parquet|data\.mdb) of BigEarthNet v2 in .*found none"):
        _read(BigEarthNet(root))


def test_two_databases_are_not_guessed_between(root: Path) -> None:
    encoded(root / "another", {1: stored(1)})
    with pytest.raises(MapexError, match=r"found .*Encoded-BigEarthNet.*another.* Give the folder of one"):
        _read(BigEarthNet(root))


def test_a_database_that_is_none_is_named(root: Path) -> None:
    (root / "Encoded-BigEarthNet" / "data.mdb").write_bytes(b"nothing" * 1000)
    with pytest.raises(MapexError, match="cannot be opened as an LMDB"):
        _read(BigEarthNet(root))


def test_an_unknown_patch_is_refused(root: Path) -> None:
    for ask in (BigEarthNet(root).label, lambda key: BigEarthNet(root).read(key, [S2])):
        with pytest.raises(MapexError, match="no patch 'S2_99'"):
            ask("S2_99")


PATCH = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
PAIR = "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57"
CODED = np.tile([[211, 312], [523, 124]], (60, 60)).astype(np.uint16)


def unpacked(root: Path, s1: dict[str, np.ndarray], s2: dict[str, np.ndarray], coded: np.ndarray) -> None:
    """One patch in the published folders: a GeoTIFF per band, whose sides are 120, 60 and 20 pixels."""
    places: dict[str, tuple[str, dict[str, np.ndarray], int | None]] = {}
    places["BigEarthNet-S1/S1B_IW_GRDH_1SDV_20170612T165809"] = (PAIR, s1, None)
    places["BigEarthNet-S2/S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"] = (PATCH, s2, 0)
    places["Reference_Maps/S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"] = (PATCH, {"reference_map": coded}, 0)
    for scene, (name, images, nodata) in places.items():
        (root / scene / name).mkdir(parents=True)
        for ending, image in images.items():
            side = len(image)
            profile = {"height": side, "width": side, "dtype": image.dtype, "nodata": nodata, "crs": "EPSG:32633"}
            place = rasterio.Affine(1200 / side, 0, 331_200, 0, -1200 / side, 5_331_600)
            path = root / scene / name / f"{name}_{ending}.tif"
            with rasterio.open(path, "w", driver="GTiff", count=1, transform=place, **profile) as target:
                target.write(image, 1)


def named(root: Path) -> None:
    """The metadata of that patch."""
    row = {"patch_id": [PATCH], "labels": [["Pastures"]], "split": ["train"], "country": ["Austria"], "s1_name": [PAIR]}
    row["s2v1_name"] = ["S2A_MSIL2A_20170613T101031_26_57"]
    parquet.write_table(pyarrow.table(row), root / METADATA)


@pytest.fixture
def layouts(tmp_path: Path) -> dict[str, Path]:
    """One patch with a pixel without data, as published and as encoded."""
    roots = {name: tmp_path / name for name in ("GeoTIFF", "LMDB")}
    s1, s2 = stored(7)
    s2["B02"][3, 5] = s2["B11"][0, 1] = 0
    for root in roots.values():
        root.mkdir()
        named(root)
    unpacked(roots["GeoTIFF"], s1, s2, CODED)
    with lmdb.open(str(roots["LMDB"] / "Encoded"), map_size=2**22) as database, database.begin(write=True) as change:
        change.put(PAIR.encode(), save(s1))
        change.put(PATCH.encode(), save(s2))
        change.put(f"{PATCH}_reference_map".encode(), save({"Data": CODED}))
    return roots


def test_both_layouts_give_the_same_tile_bit_for_bit(layouts: dict[str, Path]) -> None:
    wanted = [S1, S2, MODALITIES["s2_swir"]]
    files, database = (BigEarthNet(layouts[name]).read(PATCH, wanted) for name in ("GeoTIFF", "LMDB"))
    assert list(files.images) == ["s1", "s2", "s2_swir"]
    for name, image in files.images.items():
        assert image.dtype == database.images[name].dtype == np.float32
        assert image.tobytes() == database.images[name].tobytes()
    np.testing.assert_array_equal(files.target, database.target)


@pytest.mark.parametrize("layout", ["GeoTIFF", "LMDB"])
def test_coarse_bands_alone_lie_on_the_fine_grid(layouts: dict[str, Path], layout: str) -> None:
    assert BigEarthNet(layouts[layout]).read(PATCH, [MODALITIES["s2_swir"]]).images["s2_swir"].shape == (2, 120, 120)


@pytest.mark.parametrize("layout", ["GeoTIFF", "LMDB"])
def test_zero_is_no_reflectance(layouts: dict[str, Path], layout: str) -> None:
    holes = np.isnan(BigEarthNet(layouts[layout]).read(PATCH, [S2]).images["s2"])
    assert holes[1, 3, 5]
    assert holes[10, :2, 2:4].all()
    assert holes.sum() == 1 + 4


@pytest.mark.parametrize("layout", ["GeoTIFF", "LMDB"])
def test_maps_are_masks_of_the_same_nineteen_classes(layouts: dict[str, Path], layout: str) -> None:
    mask = BigEarthNet(layouts[layout], task="segmentation").read(PATCH, [S1]).target
    names = ["Arable land", "Coniferous forest", "Marine waters"]
    corner = [[CLASSES.index(names[0]), CLASSES.index(names[1])], [CLASSES.index(names[2]), IGNORED]]
    np.testing.assert_array_equal(mask, np.tile(corner, (60, 60)))


def test_every_class_has_a_code() -> None:
    assert set(CODES.values()) == {*range(19), IGNORED}


def test_only_geotiffs_say_where_a_patch_lies(layouts: dict[str, Path]) -> None:
    place = BigEarthNet(layouts["GeoTIFF"]).georeference(PATCH)
    assert place is not None
    assert place.transform == (10, 0, 331_200, 0, -10, 5_331_600)
    assert BigEarthNet(layouts["LMDB"]).georeference(PATCH) is None


def test_where_both_layouts_lie_pixels_come_from_one_and_the_place_from_the_other(layouts: dict[str, Path]) -> None:
    (layouts["LMDB"] / "Encoded").rename(layouts["GeoTIFF"] / "Encoded")
    shutil.rmtree(layouts["GeoTIFF"] / "BigEarthNet-S1")
    source = BigEarthNet(layouts["GeoTIFF"])
    assert source.read(PATCH, [S1]).images["s1"].shape == (2, 120, 120)
    assert source.georeference(PATCH) is not None


@pytest.mark.parametrize(("folder", "names"), [("BigEarthNet-S1", ["s1"]), ("BigEarthNet-S2", ["s2"])])
def test_a_sensor_that_was_not_unpacked_is_named(layouts: dict[str, Path], folder: str, names: list[str]) -> None:
    shutil.rmtree(layouts["GeoTIFF"] / folder)
    with pytest.raises(MapexError, match=f"no folder {folder} and no LMDB.* Unpack {folder} of the archives"):
        BigEarthNet(layouts["GeoTIFF"]).read(PATCH, modalities(names))


def test_maps_that_were_not_unpacked_are_named(layouts: dict[str, Path]) -> None:
    shutil.rmtree(layouts["GeoTIFF"] / "Reference_Maps")
    with pytest.raises(MapexError, match="no folder Reference_Maps"):
        BigEarthNet(layouts["GeoTIFF"], task="segmentation").label(PATCH)


def test_maps_that_were_not_encoded_are_named(root: Path) -> None:
    with pytest.raises(MapexError, match=r"no patch S2_1_reference_map.* that of the reference maps"):
        BigEarthNet(root, task="segmentation").label("S2_1")


def test_a_file_that_is_missing_is_named(layouts: dict[str, Path]) -> None:
    next(layouts["GeoTIFF"].glob("BigEarthNet-S2/*/*/*_B8A.tif")).unlink()
    with pytest.raises(MapexError, match=f"no raster .*{PATCH}_B8A.tif"):
        BigEarthNet(layouts["GeoTIFF"]).read(PATCH, [S2])


def test_folders_of_patches_are_never_listed(layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    scandir = os.scandir

    def watched(path: str) -> object:
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    BigEarthNet(layouts["GeoTIFF"]).read(BigEarthNet(layouts["GeoTIFF"]).keys("train")[0], [S1, S2])
    assert listed
    assert not [path for path in listed if "T33UUP" in path or "T165809" in path]


def test_real_patches_are_what_their_units_say(shared_data: Callable[[str], Path]) -> None:
    source = BigEarthNet(shared_data("bigearthnet-configilm"), snow_and_cloud=True)
    keys = [key for split in SPLITS for key in source.keys(split)]
    assert len(keys) == 24
    tiles = [source.read(key, [S1, S2]) for key in keys]
    for tile in tiles:
        assert -30 < tile.images["s1"][0].mean() < 0
        assert tile.images["s1"][0].mean() > tile.images["s1"][1].mean()  # VV is stronger than VH
        assert 0 <= tile.images["s2"].min() < tile.images["s2"].max() < 30_000
        assert np.asarray(tile.target).sum() >= 1
