"""Rasters: bands by name, invalid pixels as NaN, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from mapex_lightning.data import raster
from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.errors import MapexError
from mapex_lightning.tiles import IGNORED

PLACE = GeoReference(rasterio.CRS.from_epsg(32632).to_wkt(), (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))


@pytest.fixture
def image() -> np.ndarray:
    return np.arange(3 * 8 * 6, dtype=np.float32).reshape(3, 8, 6)


@pytest.fixture
def path(tmp_path: Path, image: np.ndarray) -> Path:
    raster.write(tmp_path / "image.tif", image, ["red", "green", "blue"], PLACE)
    return tmp_path / "image.tif"


def unnamed(path: Path, image: np.ndarray, **profile: object) -> Path:
    """A GeoTIFF as others write it: without band descriptions."""
    count, height, width = image.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=image.dtype.name,
        crs=PLACE.crs,
        transform=rasterio.Affine(*PLACE.transform),
        **profile,
    ) as target:
        target.write(image)
    return path


def test_what_is_written_is_read(path: Path, image: np.ndarray) -> None:
    read = raster.read(path, ["red", "green", "blue"])
    assert read.shape == (3, 8, 6)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, image)


def test_bands_come_by_name_in_the_order_wanted(path: Path, image: np.ndarray) -> None:
    read = raster.read(path, ["blue", "red"])
    np.testing.assert_array_equal(read, image[[2, 0]])


def test_place_survives_writing_and_reading(path: Path) -> None:
    place = raster.georeference(path)
    assert place is not None
    assert rasterio.CRS.from_wkt(place.crs) == rasterio.CRS.from_wkt(PLACE.crs)
    assert place.transform == PLACE.transform


def test_pixels_and_place_come_together(path: Path) -> None:
    read, place = raster.read_placed(path, ["blue", "red"])
    np.testing.assert_array_equal(read, raster.read(path, ["blue", "red"]))
    assert place == raster.georeference(path)


def test_a_window_is_that_part_of_the_whole(path: Path, image: np.ndarray) -> None:
    with raster.open_raster(path) as source:
        read = raster.pixels_of(path, source, [2], ["green"], Window(2, 1, 3, 4))
    np.testing.assert_array_equal(read, image[1:2, 1:5, 2:5])


@pytest.mark.parametrize("window", [Window(4, 0, 3, 3), Window(0, 6, 3, 3), Window(-1, 0, 3, 3)])
def test_a_window_that_leaves_the_raster_is_refused(path: Path, window: Window) -> None:
    with raster.open_raster(path) as source, pytest.raises(MapexError, match="8 rows and 6 columns"):
        raster.pixels_of(path, source, [1], ["red"], window)


def test_descriptions_in_the_file_win_over_the_names_of_the_data_set(path: Path, image: np.ndarray) -> None:
    np.testing.assert_array_equal(raster.read(path, ["red"], ["blue", "green", "red"]), image[:1])


def test_names_of_the_data_set_serve_a_file_without_descriptions(tmp_path: Path, image: np.ndarray) -> None:
    path = unnamed(tmp_path / "plain.tif", image)
    np.testing.assert_array_equal(raster.read(path, ["b"], ["a", "b", "c"]), image[1:2])


def test_nodata_is_nan_and_nothing_else_is(tmp_path: Path) -> None:
    path = unnamed(tmp_path / "holes.tif", np.array([[[0, 7], [9999, 1]]], dtype=np.uint16), nodata=9999)
    np.testing.assert_array_equal(raster.read(path, ["a"], ["a"])[0], [[0, 7], [np.nan, 1]])


def test_what_a_companion_file_says_is_heeded(tmp_path: Path) -> None:
    path, pixels = tmp_path / "picture.png", np.array([[[0, 7], [9, 1]]], dtype=np.uint8)
    profile = {"count": 1, "height": 2, "width": 2, "dtype": "uint8", "nodata": 9, "crs": PLACE.crs}
    with rasterio.open(path, "w", driver="PNG", transform=rasterio.Affine(*PLACE.transform), **profile) as target:
        target.write(pixels)
        target.descriptions = ("grey",)
    assert path.with_name("picture.png.aux.xml").exists()
    np.testing.assert_array_equal(raster.read(path, ["grey"])[0], [[0, 7], [np.nan, 1]])
    assert raster.georeference(path) == PLACE


def test_nan_stays_nan(tmp_path: Path, image: np.ndarray) -> None:
    image[1, 2, 3] = np.nan
    raster.write(tmp_path / "nan.tif", image, ["a", "b", "c"])
    np.testing.assert_array_equal(raster.read(tmp_path / "nan.tif", ["a", "b", "c"]), image)


def test_scale_and_offset_are_not_applied(path: Path, image: np.ndarray) -> None:
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = (1.0, 1e-4, 1.0), (0.0, -0.1, 0.0)
    np.testing.assert_array_equal(raster.read(path, ["green"]), image[1:2])


def test_a_picture_without_georeference_is_no_reason_to_warn(tmp_path: Path, image: np.ndarray) -> None:
    raster.write(tmp_path / "picture.tif", image, ["a", "b", "c"])
    np.testing.assert_array_equal(raster.read(tmp_path / "picture.tif", ["a"]), image[:1])
    assert raster.georeference(tmp_path / "picture.tif") is None


def test_what_stands_in_a_file_beside_the_raster_counts(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    profile = {"count": 1, "height": 4, "width": 4, "dtype": "uint8", "nodata": 7}
    place = rasterio.Affine(*PLACE.transform)
    with rasterio.open(path, "w", driver="PNG", crs=PLACE.crs, transform=place, **profile) as target:
        target.write(np.full((1, 4, 4), 7, dtype=np.uint8))
        target.descriptions = ("red",)
    assert path.with_suffix(".png.aux.xml").exists()
    found = raster.georeference(path)
    assert found is not None
    assert found.transform == PLACE.transform
    assert np.isnan(raster.read(path, ["red"])).all()


def test_an_unknown_band_is_named_with_its_file_and_the_nearest(path: Path) -> None:
    with pytest.raises(MapexError, match=r"no band 'gren'. Did you mean 'green'.*image\.tif"):
        raster.read(path, ["gren"])


def test_a_name_that_two_bands_share_is_refused(tmp_path: Path, image: np.ndarray) -> None:
    raster.write(tmp_path / "twice.tif", image, ["a", "a", "b"])
    with pytest.raises(MapexError, match=r"twice\.tif has 2 bands named a"):
        raster.read(tmp_path / "twice.tif", ["a"])


def test_a_wrong_number_of_unnamed_bands_is_refused(tmp_path: Path, image: np.ndarray) -> None:
    path = unnamed(tmp_path / "plain.tif", image)
    with pytest.raises(MapexError, match=r"plain\.tif has 3 bands without names where 2"):
        raster.read(path, ["a"], ["a", "b"])


def test_unnamed_bands_are_not_guessed(tmp_path: Path, image: np.ndarray) -> None:
    path = unnamed(tmp_path / "plain.tif", image)
    with pytest.raises(MapexError, match=r"plain\.tif does not name its bands"):
        raster.read(path, ["a"])


def test_a_truncated_file_is_named_with_the_bands_wanted(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 60_000, (2, 64, 64)).astype(np.uint16)
    path = unnamed(tmp_path / "cut.tif", noise)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(MapexError, match=r"cut\.tif cannot be (read \(bands a, b|opened)"):
        raster.read(path, ["a", "b"], ["a", "b"])


@pytest.mark.parametrize(("name", "says"), [("absent.tif", "no raster"), ("text.tif", "opened"), ("dir.tif", "folder")])
def test_what_is_no_raster_is_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "text.tif").write_text("not a raster")
    (tmp_path / "dir.tif").mkdir()
    with pytest.raises(MapexError, match=says) as caught:
        raster.read(tmp_path / name, ["a"])
    assert name in str(caught.value)


def test_a_mask_keeps_its_classes_and_what_is_ignored(tmp_path: Path) -> None:
    mask = np.array([[0, 3], [IGNORED, 200]])
    raster.write_mask(tmp_path / "mask.tif", mask, PLACE)
    read = raster.read_mask(tmp_path / "mask.tif")
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, mask)


def test_nodata_of_a_foreign_mask_is_ignored(tmp_path: Path) -> None:
    path = unnamed(tmp_path / "mask.tif", np.array([[[0, 255], [2, 1]]], dtype=np.uint8), nodata=255)
    np.testing.assert_array_equal(raster.read_mask(path), [[0, IGNORED], [2, 1]])


@pytest.mark.parametrize("bad", [0.5, np.nan])
def test_a_mask_of_fractions_is_refused(tmp_path: Path, bad: float) -> None:
    path = unnamed(tmp_path / "mask.tif", np.array([[[0, bad]]], dtype=np.float32))
    with pytest.raises(MapexError, match=r"mask\.tif must hold whole class indexes"):
        raster.read_mask(path)


def test_a_mask_of_several_bands_is_refused(path: Path) -> None:
    with pytest.raises(MapexError, match="one band of class indexes; found 3"):
        raster.read_mask(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MapexError, match=r"image\.tif could not be written \(no space left\)"):
        raster.write(path, image + 1, ["red", "green", "blue"], PLACE)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_writing_makes_the_folder(tmp_path: Path, image: np.ndarray) -> None:
    raster.write(tmp_path / "nowhere" / "image.tif", image, ["a", "b", "c"])
    assert [file.name for file in (tmp_path / "nowhere").iterdir()] == ["image.tif"]


def test_bands_in_a_file_each_come_on_one_grid(tmp_path: Path) -> None:
    fine, coarse = np.arange(16, dtype=np.uint16).reshape(1, 4, 4), np.array([[[1, 2], [3, 0]]], dtype=np.uint16)
    files = {"B02": unnamed(tmp_path / "B02.tif", fine), "B11": unnamed(tmp_path / "B11.tif", coarse, nodata=0)}
    together = raster.read_together(files)
    np.testing.assert_array_equal(together[0], fine[0])
    np.testing.assert_array_equal(together[1, ::2, ::2], [[1, 2], [3, np.nan]])
    np.testing.assert_array_equal(raster.read_together({"B11": files["B11"]}, side=4), together[1:])


def test_a_file_of_several_bands_is_none_of_one(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(MapexError, match=r"many\.tif must hold band B02 alone; found 3 bands"):
        raster.read_together({"B02": unnamed(tmp_path / "many.tif", image)})


def test_a_file_that_does_not_fit_the_grid_is_named(tmp_path: Path) -> None:
    path = unnamed(tmp_path / "odd.tif", np.ones((1, 3, 3), dtype=np.uint16))
    with pytest.raises(MapexError, match=r"odd\.tif \(band B02\) has 3 rows and 3 columns"):
        raster.read_together({"B02": path}, side=4)
