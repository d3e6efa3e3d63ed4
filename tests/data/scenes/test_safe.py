"""Sentinel-2 products as ESA hands them out: the finest of each band, as reflectance x 10000."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mapex_lightning.data.scenes.scene import Scene
from mapex_lightning.errors import MapexError
from tests import scenes

FINE, COARSE = scenes.grid(10.0, 16), scenes.grid(20.0, 8)

L1C = """<n1:Level-1C_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd">
  <n1:General_Info><Product_Image_Characteristics>
    <QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>
    <Radiometric_Offset_List><RADIO_ADD_OFFSET band_id="3">-1000</RADIO_ADD_OFFSET></Radiometric_Offset_List>
  </Product_Image_Characteristics></n1:General_Info>
</n1:Level-1C_User_Product>
"""

STORED = np.arange(900, 900 + 256, dtype=np.uint16).reshape(16, 16)


def product(folder: Path, metadata: Mapping[str, str], level: str = "L2A") -> Path:
    safe = folder / f"S2B_MSI{level}_20240830T100559_N0511_R022_T32TPS_20240830T134009.SAFE"
    images = safe / "GRANULE" / f"{level}_T32TPS_A039090_20240830T100559" / "IMG_DATA"
    start = "T32TPS_20240830T100559"
    stored = STORED.copy()
    stored[0, 0] = 0
    if level == "L2A":
        scenes.jp2(images / "R10m" / f"{start}_B04_10m.jp2", FINE, stored)
        scenes.jp2(images / "R10m" / f"{start}_TCI_10m.jp2", FINE, stored)
        scenes.jp2(images / "R20m" / f"{start}_B04_20m.jp2", COARSE, stored[::2, ::2])
        scenes.jp2(images / "R20m" / f"{start}_B8A_20m.jp2", COARSE, stored[::2, ::2])
    else:
        scenes.jp2(images / f"{start}_B04.jp2", FINE, stored)
        scenes.jp2(images / f"{start}_B10.jp2", COARSE, stored[::2, ::2])
    for name, text in metadata.items():
        (safe / name).write_text(text)
    return safe


def test_each_band_comes_at_its_finest_without_the_offset_of_the_baseline(tmp_path: Path) -> None:
    scene = Scene([product(tmp_path, {"MTD_MSIL2A.xml": scenes.L2A.format(offsets=scenes.L2A_OFFSETS)})])
    assert scene.bands == ("B04", "B8A")
    assert scene.grid[1:] == FINE[1:]
    red = scene.read(["B04"], FINE)[0]
    assert np.isnan(red[0, 0])
    np.testing.assert_array_equal(red[1:], STORED[1:].astype(np.float32) - 1000)
    np.testing.assert_array_equal(scene.read(["B8A"], COARSE)[0, 1:], STORED[2::2, ::2].astype(np.float32) - 1200)


def test_before_baseline_four_there_is_no_offset(tmp_path: Path) -> None:
    scene = Scene([product(tmp_path, {"MTD_MSIL2A.xml": scenes.L2A.format(offsets="")})])
    np.testing.assert_array_equal(scene.read(["B04"], FINE)[0, 1:], STORED[1:])


def test_another_quantification_becomes_reflectance_times_ten_thousand(tmp_path: Path) -> None:
    text = scenes.L2A.format(offsets=scenes.L2A_OFFSETS).replace(">10000<", ">5000<")
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
    safe = product(tmp_path, {"MTD_MSIL2A.xml": scenes.L2A.format(offsets=scenes.L2A_OFFSETS)})
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
    (safe / "MTD_MSIL2A.xml").write_text(scenes.L2A.format(offsets=""))
    with pytest.raises(MapexError, match="no images"):
        _ = Scene([safe]).bands
