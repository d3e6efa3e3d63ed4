"""Maps: Cloud-Optimised, placed exactly, with names and colours; whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray
from rasterio.shutil import copy

from mapex_lightning.data import raster
from mapex_lightning.data.legend import NODATA, colour
from mapex_lightning.data.maps import writing
from mapex_lightning.data.maps.writing import Draft, Product
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.errors import MapexError
from mapex_lightning.tiles import IGNORED

CELLS = Grid(rasterio.CRS.from_epsg(32632).to_wkt(), (10.0, 0.0, 500_005.0, 0.0, -10.0, 5_000_000.0), 700, 600)
CLASSES = ("forest", "meadow", "water & ice")


def values_of(cells: Grid = CELLS) -> np.ndarray:
    """Probabilities of three classes, with an empty corner."""
    noise = np.random.default_rng(0).random((3, cells.height, cells.width), dtype=np.float32)
    noise[:, :100, :50] = np.nan
    shares: np.ndarray = noise / noise.sum(0)
    return shares


def make(product: Product, cells: Grid = CELLS, world: int = 1) -> None:
    """Writes a map as `world` processes would."""
    values = values_of(cells)
    bounds = [cells.height * part // world for part in range(world + 1)]
    drafts = [Draft(product, cells, "mark", rank) for rank in range(world)]
    for draft, start, stop in zip(drafts, bounds[:-1], bounds[1:], strict=True):
        for top in range(start, stop, 90):
            draft.write(top, values[:, top : min(top + 90, stop)])
    for draft in drafts[1:]:
        draft.close()
    drafts[0].finish([range(bounds[rank], bounds[rank + 1]) for rank in range(1, world)])
    drafts[0].discard()


@pytest.mark.parametrize("world", [1, 3])
def test_a_class_map_holds_the_likeliest_class_and_no_class_where_nothing_is(tmp_path: Path, world: int) -> None:
    make(writing.class_map(tmp_path / "map.tif", CLASSES), world=world)
    mask = raster.read_mask(tmp_path / "map.tif")
    assert (mask[:100, :50] == IGNORED).all()
    valid = mask != IGNORED
    assert valid.sum() == 700 * 600 - 100 * 50
    np.testing.assert_array_equal(mask[valid], values_of().argmax(0)[valid])


def test_a_map_lies_where_the_scene_lies_and_is_cloud_optimised(tmp_path: Path) -> None:
    make(writing.class_map(tmp_path / "map.tif", CLASSES))
    with rasterio.open(tmp_path / "map.tif") as read:
        assert read.crs == rasterio.CRS.from_wkt(CELLS.crs)
        assert (*read.transform[:6],) == CELLS.transform
        assert read.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (read.block_shapes, read.overviews(1)) == ([(512, 512)], [2])


def test_a_class_map_brings_names_and_colours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(writing.class_map(tmp_path / "map.tif", CLASSES))
    assert capfd.readouterr().err == ""  # where GDAL complains
    with rasterio.open(tmp_path / "map.tif") as read:
        assert (read.dtypes, read.nodata, read.descriptions) == (("uint8",), NODATA, ("class",))
        assert [read.colormap(1)[index] for index in range(3)] == [(*colour(index), 255) for index in range(3)]
        assert read.colormap(1)[NODATA][3] == 0
        assert [read.tags(1)[f"class_{index}"] for index in range(3)] == list(CLASSES)
    copy(tmp_path / "map.tif", tmp_path / "map.vrt", driver="VRT")  # says what GDAL knows of a file
    assert "<Category>water &amp; ice</Category>" in (tmp_path / "map.vrt").read_text()


def test_labels_that_do_not_exclude_each_other_have_a_band_each(tmp_path: Path) -> None:
    make(writing.label_map(tmp_path / "map.tif", CLASSES))
    with rasterio.open(tmp_path / "map.tif") as read:
        found = read.read()
        assert (read.descriptions, read.nodata) == (CLASSES, NODATA)
    values = values_of()
    np.testing.assert_array_equal(found == 1, values >= 0.5)
    np.testing.assert_array_equal(found == NODATA, np.isnan(values))


@pytest.mark.parametrize("world", [1, 2])
def test_probabilities_are_written_as_they_are(tmp_path: Path, world: int) -> None:
    make(writing.probabilities(tmp_path / "map.tif", CLASSES), world=world)
    found = raster.read(tmp_path / "map.tif", CLASSES)
    np.testing.assert_array_equal(found, values_of())
    assert not (tmp_path / "map.tif.aux.xml").exists()


def test_features_in_a_zarr_store_have_coordinates_and_a_place(tmp_path: Path) -> None:
    for _ in range(2):  # the second takes the place of the first
        make(writing.features(tmp_path / "new" / "map.zarr", 3))
    with xarray.open_dataset(tmp_path / "new" / "map.zarr", engine="zarr", consolidated=False) as read:
        np.testing.assert_array_equal(read["features"], values_of())
        assert read["features"].dims == ("feature", "y", "x")
        assert (float(read["x"][0]), float(read["y"][1])) == (500_010.0, 4_999_985.0)
        assert rasterio.CRS.from_wkt(read["spatial_ref"].attrs["crs_wkt"]) == rasterio.CRS.from_wkt(CELLS.crs)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["map.zarr"]


def test_nothing_but_the_map_stays(tmp_path: Path) -> None:
    make(writing.class_map(tmp_path / "new" / "map.tif", CLASSES), world=3)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"map.tif", "map.tif.aux.xml"}


def test_a_draft_that_is_given_up_leaves_the_old_map(tmp_path: Path) -> None:
    (tmp_path / "map.tif").write_text("old")
    draft = Draft(writing.class_map(tmp_path / "map.tif", CLASSES), CELLS, "mark")
    draft.write(0, values_of())
    draft.discard()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("map.tif", "old")]


@pytest.mark.parametrize("name", ["folder", "file.txt/map.tif"])
def test_what_cannot_be_written_is_said_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(MapexError, match=r"is a folder already|cannot be written"):
        Draft(writing.class_map(tmp_path / name, CLASSES), CELLS, "mark")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file.txt"}


def test_a_file_that_may_not_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "map.tif").write_text("old")
    monkeypatch.setattr("os.access", lambda *_: False)  # whoever runs the tests may write anything
    with pytest.raises(MapexError, match="may not be written"):
        Draft(writing.class_map(tmp_path / "map.tif", CLASSES), CELLS, "mark")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("map.tif", "old")]


def test_a_file_in_the_place_of_a_zarr_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "map.zarr").write_text("old")
    with pytest.raises(MapexError, match="is a file already"):
        Draft(writing.features(tmp_path / "map.zarr", 3), CELLS, "mark")


def test_a_rotated_map_is_no_zarr_store(tmp_path: Path) -> None:
    rotated = CELLS._replace(transform=(10.0, 1.0, 0.0, 1.0, -10.0, 0.0))
    with pytest.raises(MapexError, match="rotated"):
        Draft(writing.features(tmp_path / "map.zarr", 3), rotated, "mark")
    make(writing.features(tmp_path / "map.tif", 3), rotated)
    with rasterio.open(tmp_path / "map.tif") as read:
        assert (*read.transform[:6],) == rotated.transform
