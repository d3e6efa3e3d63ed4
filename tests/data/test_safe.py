"""Sentinel-2 products as ESA hands them out: the finest of each band, as reflectance x 10000."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import rasterio

from mapex_lightning.data.grid import Grid
from mapex_lightning.data.scene import Scene
from mapex_lightning.errors import MapexError
from tests import scenes

FINE, COARSE = scenes.grid(10.0, 16), scenes.grid(20.0, 8)

L2A = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info><PROCESSING_BASELINE>05.11</PROCESSING_BASELINE></Product_Info>
    <Product_Image_Characteristics>
      <Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
      {offsets}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-2A_User_Product>
"""
L2A_OFFSETS = """<BOA_ADD_OFFSET_VALUES_LIST>
        <BOA_ADD_OFFSET band_id="3">-1000</BOA_ADD_OFFSET>
        <BOA_ADD_OFFSET band_id="8">-1200</BOA_ADD_OFFSET>
      </BOA_ADD_OFFSET_VALUES_LIST>"""
L1C = """<n1:Level-1C_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd">
  <n1:General_Info><Product_Image_Characteristics>
    <QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>
    <Radiometric_Offset_List><RADIO_ADD_OFFSET band_id="3">-1000</RADIO_ADD_OFFSET></Radiometric_Offset_List>
  </Product_Image_Characteristics></n1:General_Info>
</n1:Level-1C_User_Product>
"""

STORED = np.arange(900, 900 + 256, dtype=np.uint16).reshape(16, 16)


def image(path: Path, grid: Grid, pixels: np.ndarray) -> None:
    """A JPEG 2000 file without loss, as in a product; it does not declare its nodata value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        count=1,
        height=grid.height,
        width=grid.width,
        dtype="uint16",
        crs=grid.crs,
        transform=rasterio.Affine(*grid.transform),
        QUALITY="100",
        REVERSIBLE="YES",
    ) as file:
        file.write(pixels[None])


def product(folder: Path, metadata: Mapping[str, str], level: str = "L2A") -> Path:
    safe = folder / f"S2B_MSI{level}_20240830T100559_N0511_R022_T32TPS_20240830T134009.SAFE"
    images = safe / "GRANULE" / f"{level}_T32TPS_A039090_20240830T100559" / "IMG_DATA"
    start = "T32TPS_20240830T100559"
    stored = STORED.copy()
    stored[0, 0] = 0
    if level == "L2A":
        image(images / "R10m" / f"{start}_B04_10m.jp2", FINE, stored)
        image(images / "R10m" / f"{start}_TCI_10m.jp2", FINE, stored)
        image(images / "R20m" / f"{start}_B04_20m.jp2", COARSE, stored[::2, ::2])
        image(images / "R20m" / f"{start}_B8A_20m.jp2", COARSE, stored[::2, ::2])
    else:
        image(images / f"{start}_B04.jp2", FINE, stored)
        image(images / f"{start}_B10.jp2", COARSE, stored[::2, ::2])
    for name, text in metadata.items():
        (safe / name).write_text(text)
    return safe


def test_each_band_comes_at_its_finest_without_the_offset_of_the_baseline(tmp_path: Path) -> None:
    scene = Scene([product(tmp_path, {"MTD_MSIL2A.xml": L2A.format(offsets=L2A_OFFSETS)})])
    assert scene.bands == ("B04", "B8A")
    assert scene.grid[1:] == FINE[1:]
    red = scene.read(["B04"], FINE)[0]
    assert np.isnan(red[0, 0])
    np.testing.assert_array_equal(red[1:], STORED[1:].astype(np.float32) - 1000)
    np.testing.assert_array_equal(scene.read(["B8A"], COARSE)[0, 1:], STORED[2::2, ::2].astype(np.float32) - 1200)


def test_before_baseline_four_there_is_no_offset(tmp_path: Path) -> None:
    scene = Scene([product(tmp_path, {"MTD_MSIL2A.xml": L2A.format(offsets="")})])
    np.testing.assert_array_equal(scene.read(["B04"], FINE)[0, 1:], STORED[1:])


def test_another_quantification_becomes_reflectance_times_ten_thousand(tmp_path: Path) -> None:
    text = L2A.format(offsets=L2A_OFFSETS).replace(">10000<", ">5000<")
    scene = Scene([product(tmp_path, {"MTD_MSIL2A.xml": text})])
    np.testing.assert_array_equal(scene.read(["B04"], FINE)[0, 1:], (STORED[1:].astype(np.float32) - 1000) * 2)


def test_level_1c_is_read_with_offsets_of_its_own(tmp_path: Path) -> None:
    scene = Scene([product(tmp_path, {"MTD_MSIL1C.xml": L1C}, "L1C")])
    assert scene.bands == ("B04", "B10")
    np.testing.assert_array_equal(scene.read(["B04"], FINE)[0, 1:], STORED[1:].astype(np.float32) - 1000)
    np.testing.assert_array_equal(scene.read(["B10"], COARSE)[0, 1:], STORED[2::2, ::2])


@pytest.mark.parametrize("metadata", [{}, {"MTD_MSIL2A.xml": "<cut"}, {"MTD_MSIL2A.xml": "<whole/>"}])
def test_values_are_never_guessed(metadata: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"MTD_MSIL2A\.xml.* what .*values are.*again"):
        _ = Scene([product(tmp_path, metadata)]).bands


def test_a_band_alone_is_refused_because_its_offset_lies_elsewhere(tmp_path: Path) -> None:
    safe = product(tmp_path, {"MTD_MSIL2A.xml": L2A.format(offsets=L2A_OFFSETS)})
    band = next(safe.rglob("*_B04_10m.jp2"))
    with pytest.raises(MapexError, match=r"is a part of .*\.SAFE, whose metadata.*Give"):
        _ = Scene([band]).bands


def test_sentinel_1_is_refused_with_a_way_out(tmp_path: Path) -> None:
    safe = tmp_path / "S1A_IW_GRDH_1SDV_20240830T053501_20240830T053526_055440_06C2F5_1D2C.SAFE"
    (safe / "measurement").mkdir(parents=True)
    with pytest.raises(MapexError, match="calibrated"):
        _ = Scene([safe]).bands


def test_a_product_without_images_is_refused(tmp_path: Path) -> None:
    safe = tmp_path / "x.SAFE"
    safe.mkdir()
    (safe / "MTD_MSIL2A.xml").write_text(L2A.format(offsets=""))
    with pytest.raises(MapexError, match="no images"):
        _ = Scene([safe]).bands
