"""ben-ge: the layout of ben-ge-8k, labels of WorldCover, and its published lists."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import save
from mapex_lightning.data.sets.benge import CLASSES, CODES, BenGe
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, S2_BANDS, modalities
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.tiles import IGNORED

S1, S2, DEM = modalities(["s1", "s2", "dem"])
NAME = "ben-ge-8k"
SIDES = {"B01": 20, "B09": 20} | dict.fromkeys(("B02", "B03", "B04", "B08"), 120)
PATCHES = [f"S2A_MSIL2A_20170701T093031_{number}_25" for number in range(5)]
PAIRS = [f"S1A_IW_GRDH_1SDV_20170701T050000_34TEM_{number}_25" for number in range(5)]
TREES, CROPS, WATER = (CLASSES.index(name) for name in ("tree_cover", "cropland", "permanent_water_bodies"))
FRACTIONS: Sequence[Mapping[int, float]] = (
    {TREES: 0.7, CROPS: 0.26, WATER: 0.04},
    {CROPS: 1.0},
    {WATER: 0.51, TREES: 0.49},
    {CROPS: 0.9, TREES: 0.1},
    {},
)


def put(path: Path, image: np.ndarray) -> None:
    """A raster of one band, 1,200 m wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    side = len(image)
    place = rasterio.Affine(1200 / side, 0, 500_000, 0, -1200 / side, 5_000_000)
    profile = {"height": side, "width": side, "dtype": image.dtype, "crs": "EPSG:32634", "transform": place}
    with rasterio.open(path, "w", driver="GTiff", count=1, **profile) as target:
        target.write(image, 1)


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """Patches 0 and 3 (training), 1 (validation), 2 (test) and 4, which no list names and which has no pixels."""
    return Path(shutil.copytree(written, tmp_path / NAME))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its files, written once."""
    base = tmp_path_factory.mktemp("published") / NAME
    for number, (patch, pair) in enumerate(zip(PATCHES[:4], PAIRS[:4], strict=True)):
        for at, band in enumerate(("VV", "VH")):
            put(base / "sentinel-1" / pair / f"{pair}_{band}.tif", np.full((120, 120), -10.5 - at, np.float32))
        for at, band in enumerate(S2_BANDS):
            side = SIDES.get(band, 60)
            put(
                base / "sentinel-2" / patch / f"{patch}_{band}.tif", np.full((side, side), 100 * at + number, np.uint16)
            )
        put(base / "dem" / f"{patch}_dem.tif", np.full((120, 120), 400 + number, np.int16))
        cover = np.tile(np.array([[10, 40], [95, 0]], np.uint8), (60, 60))
        put(base / "esaworldcover" / f"{patch}_esaworldcover.tif", cover)
    meta = ["patch_id,patch_id_s1,timestamp_s2,timestamp_s1,season_s2,season_s1,lon,lat"]
    meta += [f"{patch},{pair},t,t,0.9,0.9,21,46" for patch, pair in zip(PATCHES, PAIRS, strict=True)]
    (base / f"{NAME}_meta.csv").write_text("\n".join(meta))
    cover_table = [",".join(["filename", "patch_id", *CLASSES])]
    for patch, fractions in zip(PATCHES, FRACTIONS, strict=True):
        cells = [str(fractions.get(index, 0.0)) for index in range(len(CLASSES))]
        cover_table.append(",".join([f"{patch}_esaworldcover.tif", patch, *cells]))
    (base / f"{NAME}_esaworldcover.csv").write_text("\n".join(cover_table))
    listed(base, "train", 0, 3)
    listed(base, "val", 1)
    listed(base, "test", 2)
    return base


def listed(base: Path, ending: str, *numbers: int, name: str = NAME) -> None:
    """A list as published: an id per line, no header."""
    (base / "splits").mkdir(exist_ok=True)
    (base / "splits" / f"{name}_{ending}.csv").write_text("".join(f"{PATCHES[number]}\n" for number in numbers))


def test_splits_are_the_published_lists(root: Path) -> None:
    assert [BenGe(root).keys(split) for split in SPLITS] == [[PATCHES[0], PATCHES[3]], [PATCHES[1]], [PATCHES[2]]]


def test_it_is_found_one_level_down(root: Path) -> None:
    assert BenGe(root.parent).keys("val") == [PATCHES[1]]


def test_every_sensor_lies_on_the_fine_grid_in_its_unit(root: Path) -> None:
    images = BenGe(root).read(PATCHES[3], [S1, S2, DEM, MODALITIES["s2_swir"]]).images
    assert {name: image.shape for name, image in images.items()} == {
        "s1": (2, 120, 120), "s2": (12, 120, 120), "dem": (1, 120, 120), "s2_swir": (2, 120, 120)
    }  # fmt: skip
    np.testing.assert_array_equal(images["s1"][:, 0, 0], [-10.5, -11.5])
    np.testing.assert_array_equal(images["s2"][:, 60, 60], np.arange(12) * 100 + 3)
    np.testing.assert_array_equal(images["s2_swir"], images["s2"][-2:])
    assert images["dem"][0, 0, 0] == 403
    assert (S1.unit, S2.unit, DEM.unit) == ("dB", "reflectance x 10000", "metres")


def test_the_class_is_that_of_the_largest_fraction(root: Path) -> None:
    source = BenGe(root)
    assert [source.label(PATCHES[number]) for number in (0, 1, 2)] == [TREES, CROPS, WATER]


def test_labels_are_the_classes_above_a_share(root: Path) -> None:
    few, more = (np.asarray(BenGe(root, "multilabel", share).label(PATCHES[0])) for share in (0.05, 0.03))
    assert few.dtype == np.float32
    assert np.flatnonzero(few).tolist() == [TREES, CROPS]
    assert np.flatnonzero(more).tolist() == [TREES, CROPS, WATER]


def test_maps_are_masks_of_the_same_classes(root: Path) -> None:
    mask = BenGe(root, task="segmentation").read(PATCHES[0], [S1]).target
    np.testing.assert_array_equal(mask, np.tile([[TREES, CROPS], [CLASSES.index("mangroves"), IGNORED]], (60, 60)))


def test_every_class_has_a_code() -> None:
    assert set(CODES.values()) == {*range(11), IGNORED}


def test_a_patch_without_any_fraction_has_no_class(root: Path) -> None:
    listed(root, "test", 4)
    assert BenGe(root).label(PATCHES[4]) is None


def test_another_list_can_be_chosen(root: Path) -> None:
    listed(root, "train", 3, name="ben-ge-0.2")
    listed(root, "val", name="ben-ge-0.2")
    listed(root, "test", 0, 2, name="ben-ge-0.2")
    assert BenGe(root, subset="ben-ge-0.2").keys("test") == [PATCHES[0], PATCHES[2]]


def test_a_list_of_few_shots_takes_the_place_of_the_training_list(root: Path) -> None:
    listed(root, "train_k1_seed0", 3, 3)
    source = BenGe(root, few_shot="k1_seed0")
    assert [source.keys(split) for split in SPLITS] == [[PATCHES[3]], [PATCHES[1]], [PATCHES[2]]]


@pytest.mark.parametrize(("subset", "few_shot"), [("ben-ge-0.4", None), (None, "k5_seed1")])
def test_a_list_that_is_missing_says_which_there_are(root: Path, subset: str | None, few_shot: str | None) -> None:
    with pytest.raises(MapexError, match=r"no list .*(0\.4|k5_seed1).*; found ben-ge-8k_test\.csv, .*HSG-AIML/ben-ge"):
        BenGe(root, subset=subset, few_shot=few_shot).keys("train")


@pytest.mark.parametrize(("mine", "archive"), [("sentinel-2", "BigEarthNet-v1.0"), ("dem", "glo-30_dem")])
def test_the_whole_set_has_the_folders_of_its_archives(root: Path, mine: str, archive: str) -> None:
    (root / mine).rename(root / archive)
    assert set(BenGe(root).read(PATCHES[0], [S2, DEM]).images) == {"s2", "dem"}


def test_a_sensor_without_its_folder_is_not_there(root: Path) -> None:
    shutil.rmtree(root / "dem")
    assert set(BenGe(root).read(PATCHES[0], [S1, DEM]).images) == {"s1"}
    with pytest.raises(MapexError, match=r"No ben-ge tiles for dem .* Wanted dem or glo-30_dem"):
        BenGe(root).keys("train", [DEM])


def test_maps_without_their_folder_are_named(root: Path) -> None:
    shutil.rmtree(root / "esaworldcover")
    with pytest.raises(MapexError, match=r"no folder .*esaworldcover, which holds the maps"):
        BenGe(root, task="segmentation").keys("train")


def test_a_place_is_known(root: Path) -> None:
    place = BenGe(root).georeference(PATCHES[0])
    assert place is not None
    assert place.transform[2::3] == (500_000, 5_000_000)


def test_a_file_that_is_missing_is_named(root: Path) -> None:
    next(root.glob(f"sentinel-2/{PATCHES[0]}/*_B8A.tif")).unlink()
    with pytest.raises(MapexError, match=r"no raster .*_B8A\.tif"):
        BenGe(root).read(PATCHES[0], [S2])


@pytest.mark.parametrize("table", ["meta", "esaworldcover"])
def test_a_column_that_is_missing_is_named(root: Path, table: str) -> None:
    path = root / f"{NAME}_{table}.csv"
    path.write_text(path.read_text().replace("patch_id,", "patch,", 1))
    with pytest.raises(MapexError, match=rf"no column 'patch_id' in .*_{table}\.csv"):
        BenGe(root).keys("train")


def test_without_files_it_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"No ben-ge tiles .*doi:10\.5281/zenodo\.8121208"):
        BenGe(tmp_path / "absent").keys("train")


def test_two_sets_are_not_guessed_between(root: Path) -> None:
    shutil.copytree(root, root.parent / "ben-ge-copy")
    with pytest.raises(MapexError, match="Several sets of ben-ge"):
        BenGe(root.parent).keys("train")


def test_a_share_is_a_fraction() -> None:
    with pytest.raises(MapexError, match="found 5"):
        BenGe(share=5)


@pytest.mark.slow
def test_its_config_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Encoder(preset("nano", modalities(["s1", "s2"]))), tmp_path / "runs" / "earlier" / "pruned.ckpt")
    once = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"]
    few = ["--data.batch_size", "2", "--data.size", "32", "--trainer.num_sanity_val_steps", "0"]
    few += ["--trainer.log_every_n_steps", "1"]
    assert main(["fit", "--config", "benge.yaml", "--data.root", str(root), *once, *few]) == 0
