"""A user's own tiles: rasters and labels as the manifest says, and errors that name the tile."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from mapex_lightning.data import raster
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.tileset import GeoReference, Task
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, Modality
from mapex_lightning.tiles import IGNORED
from tests.layouts import png

S1, DEM = MODALITIES["s1"], MODALITIES["dem"]
SHARP = Modality("sharp", ("pan",), 5.0, "one", (0.0,), (1.0,))


def place(gsd: float = 10.0, east: float = 0.0, epsg: int = 32632) -> GeoReference:
    return GeoReference(rasterio.CRS.from_epsg(epsg).to_wkt(), (gsd, 0.0, 500_000.0 + east, 0.0, -gsd, 5_000_000.0))


def image(seed: int, bands: int, side: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(bands, side, side)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tile a has s1 (bands swapped) and sharp, tile b only s1 without band descriptions; a has a mask."""
    raster.write(tmp_path / "a_s1.tif", image(0, 2), ["VH", "VV"], place())
    raster.write(tmp_path / "a_sharp.tif", image(1, 1, 8), ["pan"], place(5.0))
    raster.write(tmp_path / "b_s1.tif", image(2, 2), ["", ""], place())
    raster.write_mask(tmp_path / "a_mask.tif", np.array([[0, 1], [IGNORED, 0]]).repeat(4, 0).repeat(4, 1), place(5.0))
    return tmp_path


def tiles(
    folder: Path,
    task: Task = "multiclass",
    labels: tuple[str, str] = ("River", "Forest"),
    classes: list[str] | None = None,
) -> Folder:
    """The set of tiles a (train) and b (test)."""
    rows = f"a,train,{labels[0]},a_s1.tif,a_sharp.tif\nb,test,{labels[1]},b_s1.tif,\n"
    (folder / "tiles.csv").write_text("tile,split,label,s1,sharp\n" + rows)
    return Folder(folder / "tiles.csv", task, classes)


def test_bands_are_found_by_their_descriptions(folder: Path) -> None:
    np.testing.assert_array_equal(tiles(folder).read("a", [S1]).images["s1"], image(0, 2)[::-1])


def test_a_file_without_descriptions_is_taken_in_the_order_of_the_modality(folder: Path) -> None:
    np.testing.assert_array_equal(tiles(folder).read("b", [S1]).images["s1"], image(2, 2))


def test_a_missing_sensor_is_no_key_and_keys_know_it(folder: Path) -> None:
    source = tiles(folder)
    assert set(source.read("a", [S1, SHARP]).images) == {"s1", "sharp"}
    assert set(source.read("b", [S1, SHARP]).images) == {"s1"}
    assert (source.keys("test"), source.keys("test", [S1]), source.keys("test", [SHARP])) == (["b"], ["b"], [])


def test_class_names_are_sorted_where_none_are_given(folder: Path) -> None:
    source = tiles(folder)
    assert source.classes == ("Forest", "River")
    assert (source.label("a"), source.label("b")) == (1, 0)


def test_several_names_are_a_multi_hot_label(folder: Path) -> None:
    source = tiles(folder, "multilabel", ("River; Forest", "Meadow"))
    assert source.classes == ("Forest", "Meadow", "River")
    np.testing.assert_array_equal(source.label("a"), [1, 0, 1])
    np.testing.assert_array_equal(source.label("b"), [0, 1, 0])


def test_a_mask_is_a_label(folder: Path) -> None:
    source = tiles(folder, "segmentation", ("a_mask.tif", ""), classes=["dry", "wet"])
    tile = source.read("a", [SHARP])
    assert isinstance(tile.target, np.ndarray)
    assert tile.target.shape == tile.images["sharp"].shape[1:]
    assert set(tile.target.ravel()) == {IGNORED, 0, 1}


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation"])
def test_an_empty_label_is_no_label(folder: Path, task: Task) -> None:
    assert tiles(folder, task, ("", ""), classes=["x"]).read("a", [S1]).target is None


def test_nodata_reaches_the_tile_as_nan(folder: Path) -> None:
    with rasterio.open(folder / "a_s1.tif", "r+") as target:
        target.nodata = -99
        target.write(np.full((4, 4), -99, dtype=np.float32), 1)
    read = tiles(folder).read("a", [S1]).images["s1"]
    assert np.isnan(read[1]).all()
    assert np.isfinite(read[0]).all()


def test_the_georeference_is_that_of_the_finest_sensor(folder: Path) -> None:
    found = tiles(folder).georeference("a")
    assert found is not None
    assert found.transform == place(5.0).transform


def test_the_georeference_of_a_mask_is_its_own(folder: Path) -> None:
    raster.write_mask(folder / "a_mask.tif", np.zeros((2, 2), dtype=np.int64), place(20.0))
    found = tiles(folder, "segmentation", ("a_mask.tif", ""), classes=["x"]).georeference("a")
    assert found is not None
    assert found.transform == place(20.0).transform


@pytest.mark.parametrize("side", [2, 8])
def test_a_mask_that_does_not_say_where_it_lies_takes_the_place_of_the_sensors(folder: Path, side: int) -> None:
    png(folder / "a_mask.png", np.zeros((side, side), dtype=np.uint8))
    source = tiles(folder, "segmentation", ("a_mask.png", ""), classes=["x"])
    assert source.read("a", [S1, SHARP]).images.keys() == {"s1", "sharp"}
    found = source.georeference("a")
    assert found is not None
    assert found.on(8, 8).transform == place(5.0).transform


def test_a_fingerprint_says_whether_labels_or_files_of_the_sensors_have_changed(folder: Path) -> None:
    before = tiles(folder).fingerprint([S1])
    (folder / "a_sharp.tif").unlink()
    assert tiles(folder).fingerprint([S1]) == before
    assert tiles(folder, labels=("River", "Meadow")).fingerprint([S1]) != before
    raster.write(folder / "b_s1.tif", image(3, 2), ["", ""], place())
    assert tiles(folder).fingerprint([S1]) != before


def test_a_fingerprint_says_whether_a_mask_has_changed(folder: Path) -> None:
    source = tiles(folder, "segmentation", ("a_mask.tif", ""), classes=["x"])
    before = source.fingerprint([S1])
    assert source.fingerprint([S1]) == before
    raster.write_mask(folder / "a_mask.tif", np.zeros((8, 8), dtype=np.int64), place(5.0))
    assert source.fingerprint([S1]) != before


def test_sensors_that_lie_apart_are_refused(folder: Path) -> None:
    raster.write(folder / "a_sharp.tif", image(1, 1, 8), ["pan"], place(5.0, east=30.0))
    with pytest.raises(MapexError, match="Tile a: s1 and sharp cover different ground"):
        tiles(folder).read("a", [S1, SHARP])


def test_half_a_pixel_is_no_matter(folder: Path) -> None:
    raster.write(folder / "a_sharp.tif", image(1, 1, 8), ["pan"], place(5.0, east=5.0))
    assert len(tiles(folder).read("a", [S1, SHARP]).images) == 2


@pytest.mark.parametrize("gsd", [5.0, 13.0, 30.0])
def test_pixels_of_another_size_than_the_modality_says_are_refused(folder: Path, gsd: float) -> None:
    says = rf"Tile a: the pixels of s1 are 9\.99 m wide by their georeference, and the modality has gsd: {gsd:g}\."
    with pytest.raises(MapexError, match=says):
        tiles(folder).read("a", [replace(S1, gsd=gsd)])


def test_pixels_that_are_no_squares_are_refused(folder: Path) -> None:
    oblong = place()._replace(transform=(7.1, 0.0, 500_000.0, 0.0, -14.1, 5_000_000.0))
    raster.write(folder / "a_s1.tif", image(0, 2), S1.bands, oblong)
    with pytest.raises(MapexError, match=r"Tile a: the pixels of s1 are 7\.1 wide and 14\.1 high"):
        tiles(folder).read("a", [S1])


@pytest.mark.parametrize(("epsg", "pixel"), [(3857, 10.0), (3857, 15.6), (4326, 1e-4)])
def test_projections_that_stretch_the_ground_are_no_reason_to_refuse(folder: Path, epsg: int, pixel: float) -> None:
    north = {3857: 6_446_275.0, 4326: 50.0}[epsg]
    where = GeoReference(rasterio.CRS.from_epsg(epsg).to_wkt(), (pixel, 0.0, 7.0, 0.0, -pixel, north))
    raster.write(folder / "b_s1.tif", image(2, 2), ["", ""], where)
    assert tiles(folder).read("b", [S1]).images.keys() == {"s1"}


def test_sensors_of_different_coordinate_systems_are_refused(folder: Path) -> None:
    raster.write(folder / "a_sharp.tif", image(1, 1, 8), ["pan"], place(5.0, epsg=32633))
    with pytest.raises(MapexError, match="Tile a: s1 and sharp have different coordinate systems"):
        tiles(folder).read("a", [S1, SHARP])


def test_a_raster_that_is_not_there_is_named_when_it_is_read(folder: Path) -> None:
    source = tiles(folder)
    (folder / "a_s1.tif").unlink()
    assert source.keys("train") == ["a"]
    with pytest.raises(MapexError, match=r"There is no raster .*a_s1\.tif"):
        source.read("a", [S1])


@pytest.mark.parametrize(
    ("bands", "says"),
    [
        (["VV", "HH"], r"no band 'VH'.*Known: HH, VV.*a_s1\.tif"),
        (["", "", ""], r"a_s1\.tif has 3 bands without names where 2 are expected \(VV, VH\)"),
    ],
    ids=["names", "number"],
)
def test_a_raster_of_other_bands_is_refused(folder: Path, bands: list[str], says: str) -> None:
    raster.write(folder / "a_s1.tif", image(0, len(bands)), bands, place())
    with pytest.raises(MapexError, match=says):
        tiles(folder).read("a", [S1])


def test_a_raster_that_was_cut_short_is_named(folder: Path) -> None:
    raster.write(folder / "a_s1.tif", image(0, 2, 64), list(S1.bands), place())
    path = folder / "a_s1.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MapexError, match=r"a_s1\.tif cannot be (read|opened).*again"):
        tiles(folder).read("a", [S1])


def test_it_offers_the_sensors_that_have_a_column(folder: Path) -> None:
    assert [one.name for one in (S1, DEM, SHARP) if tiles(folder).offers(one)] == ["s1", "sharp"]


def test_a_sensor_without_a_column_is_refused(folder: Path) -> None:
    with pytest.raises(MapexError, match=r"no sensor column 'dem'.*Known: s1, sharp.*Add a column dem"):
        tiles(folder).keys("train", [DEM])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_label_that_is_no_class_is_refused(folder: Path, task: Task) -> None:
    with pytest.raises(MapexError, match=r"no class 'Rivr'. Did you mean 'River'.*tile a"):
        tiles(folder, task, ("Rivr", ""), classes=["River"]).label("a")


def test_a_mask_value_that_is_no_class_is_refused(folder: Path) -> None:
    with pytest.raises(MapexError, match=r"a_mask\.tif of tile a holds 1, and there are 1 classes"):
        tiles(folder, "segmentation", ("a_mask.tif", ""), classes=["dry"]).label("a")


@pytest.mark.parametrize(("values", "hint"), [((0, 255), True), ((1, 255), False)])
def test_a_mask_of_0_and_255_may_mean_1(folder: Path, values: tuple[int, int], *, hint: bool) -> None:
    raster.write(folder / "a_mask.tif", np.array([[values]], dtype=np.uint8), ["class"], place(20.0))
    with pytest.raises(MapexError, match=r"Declare 255 as its nodata value") as caught:
        tiles(folder, "segmentation", ("a_mask.tif", ""), classes=["dry", "water"]).label("a")
    assert ("or write 1 instead if it stands for water" in str(caught.value)) == hint


def test_masks_need_class_names(folder: Path) -> None:
    with pytest.raises(MapexError, match="give `classes`"):
        tiles(folder, "segmentation")


def test_paths_count_from_the_root_that_is_given(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tiles(folder)
    moved = tmp_path_factory.mktemp("elsewhere") / "tiles.csv"
    moved.write_bytes((folder / "tiles.csv").read_bytes())
    assert Folder(moved, "multiclass", root=folder).read("a", [S1]).images.keys() == {"s1"}


def test_it_reaches_worker_processes(folder: Path) -> None:
    source = tiles(folder)
    source.keys("train")
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read("a", [S1]).images["s1"], source.read("a", [S1]).images["s1"])


def test_an_unknown_tile_is_refused(folder: Path) -> None:
    with pytest.raises(MapexError, match="no tile 'c'"):
        tiles(folder).read("c", [S1])


@pytest.mark.parametrize("name", ["a_s1.vrt", "a_s1.tif"])
@pytest.mark.parametrize("content", ["VRT", "WMS"])
def test_a_raster_that_points_elsewhere_is_read_only_from_a_manifest_that_is_trusted(
    name: str, content: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    raster.write(elsewhere / "a_s1.tif", image(0, 2), ["VH", "VV"], place())
    service = "<GDAL_WMS><Service name='TMS'><ServerUrl>http://localhost:9/${z}</ServerUrl></Service></GDAL_WMS>"
    (folder / name).write_text(service)
    if content == "VRT":
        (folder / name).unlink()
        copy(elsewhere / "a_s1.tif", folder / name, driver="VRT")
    source = tiles(folder)
    (folder / "tiles.csv").write_text((folder / "tiles.csv").read_text().replace("a_s1.tif", name))
    for ask in (lambda: source.read("a", [S1]), lambda: source.georeference("a")):
        with pytest.raises(MapexError, match=rf"{name} holds no pixels itself.*gdal_translate, or say outside: true"):
            ask()
    if content == "VRT":
        trusting = Folder(folder / "tiles.csv", "multiclass", outside=True)
        np.testing.assert_array_equal(trusting.read("a", [S1]).images["s1"], image(0, 2)[::-1])
        assert trusting.georeference("a") is not None
