"""EuroSAT and its radar twins: published layouts, band order, a split that stays and those of the literature."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import rasterio

from mapex_lightning.data.sets.eurosat import BANDS, CLASSES, EuroSAT
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, Modality, modalities

S1, S2, RGB = modalities(["s1", "s2", "rgb"])
L1C = Modality("l1c", BANDS, 10.0, "reflectance x 10000", (0.0,) * 13, (1.0,) * 13)


def put(folder: Path, name: str, count: int) -> None:
    """One file as published: uint16 GeoTIFF with 13 bands, float32 with 2 or 8-bit JPEG with 3, filled with 1, 2, .."""
    kinds = {13: ("GTiff", "tif", "uint16"), 2: ("GTiff", "tif", "float32"), 3: ("JPEG", "jpg", "uint8")}
    driver, ending, kind = kinds[count]
    path = folder / name.rpartition("_")[0] / f"{name}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(1, count + 1)[:, None, None] * np.ones((64, 64))
    # A JPEG has no georeference: as in the published files, which must not make the reader warn.
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)} if count != 3 else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=driver, count=count, height=64, width=64, dtype=kind, **place) as target:
            target.write(values.astype(kind))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forest_1 with its twin, Forest_2 multispectral alone, River_10 in true colour alone."""
    for name in ("Forest_1", "Forest_2"):
        put(tmp_path / "EuroSAT_MS", name, 13)
    for name in ("Forest_1", "River_10"):
        put(tmp_path / "EuroSAT_RGB", name, 3)
    return tmp_path


def every(source: EuroSAT, *names: str) -> set[str]:
    wanted = modalities(names) if names else None
    return {key for split in SPLITS for key in source.keys(split, wanted)}


def test_bands_come_by_name_though_the_files_do_not_name_them(root: Path) -> None:
    tile = EuroSAT(root).read("Forest_1", [S2, L1C])
    np.testing.assert_array_equal(tile.images["s2"][:, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8, 13, 9, 11, 12])
    np.testing.assert_array_equal(tile.images["l1c"][:, 0, 0], np.arange(1, 14))


def test_keys_are_those_that_have_one_of_the_modalities(root: Path) -> None:
    source = EuroSAT(root)
    assert every(source, "s2") == {"Forest_1", "Forest_2"}
    assert every(source, "rgb") == {"Forest_1", "River_10"}
    assert every(source, "s2", "rgb") == every(source) == {"Forest_1", "Forest_2", "River_10"}


def test_radar_twins_have_the_same_name_and_stand_in_decibel(root: Path) -> None:
    put(root / "EuroSAT-SAR", "Forest_1", 2)
    assert every(EuroSAT(root, require=["s1", "s2", "rgb"])) == {"Forest_1"}
    tile = EuroSAT(root).read("Forest_1", [S1, S2])
    np.testing.assert_array_equal(tile.images["s1"][:, 0, 0], [1, 2])
    assert (S1.bands, S1.unit) == (("VV", "VH"), "dB")


def test_required_sensors_are_had_by_every_tile(root: Path) -> None:
    assert (
        every(EuroSAT(root, require=["s2"])) == every(EuroSAT(root, require=["s2"]), "s2") == {"Forest_1", "Forest_2"}
    )
    assert every(EuroSAT(root, require=["s2", "rgb"]), "rgb") == {"Forest_1"}


def test_only_its_own_sensors_can_be_required() -> None:
    with pytest.raises(MapexError, match="'dem'"):
        EuroSAT(require=["dem"])


def test_it_offers_what_it_can_read() -> None:
    offered = [name for name, modality in MODALITIES.items() if EuroSAT().offers(modality)]
    assert offered == ["s1", "s2", "rgb", "s2_rgb", "s2_rededge", "s2_nir", "s2_swir"]


def test_a_twin_that_is_absent_is_no_key(root: Path) -> None:
    source = EuroSAT(root)
    assert {key: set(source.read(key, [S2, RGB]).images) for key in every(source)} == {
        "Forest_1": {"s2", "rgb"},
        "Forest_2": {"s2"},
        "River_10": {"rgb"},
    }


@pytest.mark.parametrize(
    "layout",
    [
        "EuroSAT_MS",
        "EuroSATallBands",
        "eurosat-ms/EuroSAT_MS",
        "ds/images/remote_sensing/otherDatasets/sentinel_2/tif",
        "EuroSATallBands/ds/images/remote_sensing/otherDatasets/sentinel_2/tif",
    ],
)
def test_it_is_found_in_every_published_layout(tmp_path: Path, layout: str) -> None:
    put(tmp_path / layout, "Pasture_3", 13)
    assert every(EuroSAT(tmp_path), "s2") == {"Pasture_3"}


def test_the_old_name_of_true_colour_is_found(tmp_path: Path) -> None:
    put(tmp_path / "2750", "SeaLake_7", 3)
    assert every(EuroSAT(tmp_path)) == {"SeaLake_7"}


def test_the_label_is_in_the_name(root: Path) -> None:
    source = EuroSAT(root)
    assert source.read("River_10", [RGB]).target == source.label("River_10") == CLASSES.index("River")


def test_multispectral_tiles_say_where_they_lie(root: Path) -> None:
    found = EuroSAT(root).georeference("Forest_2")
    assert found is not None
    assert found.transform == (10, 0, 0, 0, -10, 0)
    assert EuroSAT(root).georeference("River_10") is None


def test_tiles_that_are_added_move_no_other(root: Path) -> None:
    before = {split: set(EuroSAT(root).keys(split)) for split in SPLITS}
    put(root / "EuroSAT_MS", "Forest_3", 13)
    after = {split: set(EuroSAT(root).keys(split)) for split in SPLITS}
    assert all(before[split] == after[split] - {"Forest_3"} for split in SPLITS)


def lists(folder: Path, stem: str, train: str, val: str, test: str) -> None:
    """Three lists as torchgeo publishes them: a line per tile, named like its picture."""
    for split, lines in zip(SPLITS, (train, val, test), strict=True):
        (folder / f"{stem}-{split}.txt").write_text("".join(f"{line}.jpg\n" for line in lines.split()))


@pytest.mark.parametrize("below", ["", "lists"])
def test_published_splits_are_read_from_their_lists(root: Path, below: str) -> None:
    (root / below).mkdir(exist_ok=True)
    lists(root / below, "eurosat", train="River_10 Forest_7", val="Forest_2", test="Forest_1")
    lists(root / below, "eurosat-spatial", train="Forest_1 Forest_2", val="", test="River_10")
    assert [EuroSAT(root, split="torchgeo").keys(split) for split in SPLITS] == [
        ["River_10"],
        ["Forest_2"],
        ["Forest_1"],
    ]
    assert [EuroSAT(root, split="spatial").keys(split) for split in SPLITS] == [
        ["Forest_1", "Forest_2"],
        [],
        ["River_10"],
    ]


def test_a_tile_that_no_list_names_is_left_out(root: Path) -> None:
    lists(root, "eurosat", train="Forest_1", val="", test="")
    assert every(EuroSAT(root, split="torchgeo")) == {"Forest_1"}


def test_a_list_that_is_missing_says_where_it_is(root: Path) -> None:
    lists(root, "eurosat-spatial", train="Forest_1", val="", test="")
    (root / "eurosat-spatial-val.txt").unlink()
    with pytest.raises(MapexError, match=r"no eurosat-spatial-val\.txt in .*huggingface\.co/datasets/torchgeo/eurosat"):
        EuroSAT(root, split="spatial").keys("train")


def test_a_tile_in_two_lists_is_refused(root: Path) -> None:
    lists(root, "eurosat", train="Forest_1", val="", test="Forest_1")
    with pytest.raises(MapexError, match=r"eurosat-test\.txt lists Forest_1\.jpg, which is in train too"):
        EuroSAT(root, split="torchgeo").keys("train")


@pytest.mark.parametrize("split", ["hash", "spatial"])
def test_without_tiles_no_list_is_asked_for(tmp_path: Path, split: Literal["hash", "spatial"]) -> None:
    with pytest.raises(MapexError, match="No EuroSAT tiles"):
        EuroSAT(tmp_path, split=split).keys("train")


def test_order_is_by_class_and_number(tmp_path: Path) -> None:
    for number in (10, 2, 33):
        put(tmp_path / "EuroSAT_MS", f"Forest_{number}", 13)
    numbers = [int(key.split("_")[1]) for key in EuroSAT(tmp_path).keys("train")]
    assert numbers == sorted(numbers)
    assert len(numbers) > 1


@pytest.mark.parametrize("names", [["s2"], ["rgb"], ["s1"], ["s2", "rgb"]])
def test_an_empty_folder_says_what_to_fetch(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(MapexError, match=r"No EuroSAT tiles for .*unpack EuroSAT(_MS|_RGB|-SAR)\.zip of"):
        EuroSAT(tmp_path / "absent").keys("train", modalities(names))


def test_constructing_reads_nothing() -> None:
    assert EuroSAT("nowhere").classes == CLASSES


def test_a_damaged_tile_is_named(root: Path) -> None:
    path = root / "EuroSAT_MS" / "Forest" / "Forest_2.tif"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(MapexError, match=r"Forest_2\.tif"):
        EuroSAT(root).read("Forest_2", [S2])


def test_a_file_of_another_number_of_bands_is_refused(root: Path) -> None:
    put(root / "EuroSAT_RGB", "River_11", 3)
    (root / "EuroSAT_RGB" / "River" / "River_11.jpg").rename(root / "EuroSAT_MS" / "Forest" / "Forest_4.tif")
    with pytest.raises(MapexError, match=r"Forest_4\.tif has 3 bands without names where 13 are expected"):
        EuroSAT(root).read("Forest_4", [S2])


def test_what_it_cannot_give_is_refused(root: Path) -> None:
    with pytest.raises(MapexError, match="EuroSAT cannot give modality dem"):
        EuroSAT(root).keys("train", modalities(["dem"]))
    with pytest.raises(MapexError, match="no tile 'Tundra_1'"):
        EuroSAT(root).label("Tundra_1")


def test_real_tiles_and_their_twins_show_the_same_place(shared_data: Callable[[str], Path]) -> None:
    shared_data("eurosat-rgb")
    source = EuroSAT(shared_data("eurosat-ms").parent)
    keys = [key for key in source.keys("test", [S2]) if not key.startswith("SeaLake")]  # flat water correlates little
    assert len(keys) > 50
    for key in keys[:25]:
        images = source.read(key, [S2, RGB]).images
        red, same = images["s2"][S2.bands.index("B04")].ravel(), images["rgb"][0].ravel()
        assert np.corrcoef(red, same)[0, 1] > 0.8, key


def test_real_forest_is_bright_in_the_narrow_near_infrared_and_dark_in_cirrus(
    shared_data: Callable[[str], Path],
) -> None:
    source = EuroSAT(shared_data("eurosat-ms"))
    forest = [key for key in source.keys("train") if key.startswith("Forest")][:10]
    mean = np.mean([source.read(key, [L1C]).images["l1c"].mean((1, 2)) for key in forest], axis=0)
    assert mean[BANDS.index("B8A")] > 1500 > 1200 > mean[BANDS.index("B04")] > 100 > mean[BANDS.index("B10")]
