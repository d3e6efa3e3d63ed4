"""Small files in the very layouts in which data sets are published: a few tiles in every split."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from mapex_lightning.modality import S2_BANDS

UTM = {"crs": "EPSG:32736", "transform": Affine(10, 0, 500000, 0, -10, 7800000)}
"""Where tiles lie that say so: 10 m pixels in the south of Mozambique's zone."""


def tiff(
    path: Path,
    pixels: np.ndarray,
    names: Sequence[str] = (),
    nodata: float | None = None,
    place: Mapping[str, Any] = UTM,
) -> None:
    """Writes a GeoTIFF (C, H, W) of the type of its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name, "nodata": nodata}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **shape, **place) as target:
            target.write(pixels)
            if names:
                target.descriptions = tuple(names)


def png(path: Path, pixels: np.ndarray) -> None:
    """Writes an 8-bit picture (H, W) or (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def levels(kind: str, first: float, count: int, side: int = 32) -> np.ndarray:
    """Bands (C, H, W) of one value each: first, first + 1 and so on."""
    return np.broadcast_to(np.arange(first, first + count)[:, None, None], (count, side, side)).astype(kind)


def halves(kind: str, left: int, right: int, side: int = 32) -> np.ndarray:
    """A mask (1, H, W) of two values."""
    mask = np.full((1, side, side), left, dtype=kind)
    mask[..., side // 2 :] = right
    return mask


def ombria(root: Path) -> None:
    """Two tiles for training (0001, 0002), one for validation (0014) and one for the test (0013), one event of 2021."""
    for number, part in (("0001", "train"), ("0002", "train"), ("0014", "train"), ("0013", "test")):
        for satellite in "12":
            names = {what: f"S{satellite}_{what}_{number}" for what in ("before", "after", "mask")}
            _pictures(root / f"OmbriaS{satellite}" / part, satellite, names)
    for satellite in "12":
        names = {"before": "imbefore_4", "after": "imafter_4", "mask": "gt_4"}
        _pictures(root / "2021" / "TIMOR" / f"Sentinel{satellite}", satellite, names)


def _pictures(folder: Path, satellite: str, names: Mapping[str, str]) -> None:
    """One tile of a satellite: grey or false colour, with a margin in the first rows."""
    for first, what in ((100, "before"), (50, "after")):
        picture = np.moveaxis(levels("uint8", first, 1 if satellite == "1" else 3), 0, -1).copy()
        picture[:2] = 255 if satellite == "1" else 0
        picture[-1, 0, 0] = 0  # a single band of false colour that measures nothing: dark, not a margin
        png(folder / what.upper() / f"{names[what]}.png", picture.squeeze())
    png(folder / "MASK" / f"{names['mask']}.png", halves("uint8", 0, 255)[0])


def sen1floods11(root: Path) -> None:
    """Chips of v1.1: Ghana_1 and Ghana_2 to train on, Spain_3, Spain_4 and Bolivia_5, and two weakly labelled ones."""
    events, lists = root / "v1.1" / "data" / "flood_events", root / "v1.1" / "splits" / "flood_handlabeled"
    lists.mkdir(parents=True)
    bands = [band.replace("B0", "B") for band in (*S2_BANDS[:10], "B10", *S2_BANDS[10:])]
    degrees = {"crs": "EPSG:4326", "transform": Affine(8.98e-5, 0, -0.78, 0, -8.98e-5, 38.1)}

    def chip(folder: Path, name: str, kind: str) -> None:
        radar, optical = levels("float32", -12, 2), levels("int16", 1000, 13)
        radar[:, 0] = np.nan
        optical[:, 1] = 0
        tiff(folder / f"S1{kind}" / f"{name}_S1{kind}.tif", radar, ("VV", "VH"), np.nan, degrees)
        tiff(folder / f"S2{kind}" / f"{name}_S2{kind}.tif", optical, bands, 0, degrees)

    def mask(folder: Path, name: str, kind: str, left: int, right: int) -> None:
        tiff(folder / kind / f"{name}_{kind}.tif", halves("int16", left, right), place=degrees)

    rows = {"train": ("Ghana_1", "Ghana_2"), "valid": ("Spain_3",), "test": ("Spain_4",), "bolivia": ("Bolivia_5",)}
    for part, names in rows.items():
        text = "".join(f"{name}_S1Hand.tif,{name}_LabelHand.tif\n" for name in names)
        (lists / f"flood_{part}_data.csv").write_text(text)
        for name in names:
            chip(events / "HandLabeled", name, "Hand")
            mask(events / "HandLabeled", name, "LabelHand", -1, 1)
            mask(events / "HandLabeled", name, "JRCWaterHand", 0, 0)
    for name in ("India_6", "Bolivia_7"):
        chip(events / "WeaklyLabeled", name, "Weak")
        mask(events / "WeaklyLabeled", name, "S1OtsuLabelWeak", 0, 1)
        mask(events / "WeaklyLabeled", name, "S2IndexLabelWeak", 1, 0)


def burnscars(root: Path) -> None:
    """Two scenes to train on, one whose tile is for validation (T10SEH) and one of the authors' validation."""
    for part, tile in (
        ("training", "T10SDH.2020248"),
        ("training", "T10SEH.2018190"),
        ("training", "T10SFF.2019187"),
        ("validation", "T14SMC.2018213"),
    ):
        name = f"subsetted_512x512_HLS.S30.{tile}.v1.4"
        scene = levels("float32", 1, 6) / 100
        scene[:, 0] = 9999
        place = {"crs": "EPSG:32610", "transform": Affine(30, 0, 500000, 0, -30, 4200000)}
        tiff(root / part / f"{name}_merged.tif", scene, place=place)
        tiff(root / part / f"{name}.mask.tif", halves("int16", -1, 1), place=place)


def cabuar(root: Path) -> None:
    """A patch in each fold, that of fold 3 without an image from before, and one of the challenge."""
    root.mkdir(parents=True, exist_ok=True)
    folds: list[tuple[str, int | str]] = [(f"0328d12a-4ad8-4504-8ac5-70089db10b4e_{fold}", fold) for fold in range(5)]
    for file, patches in (
        ("512x512.hdf5", folds),
        ("chabud_test.h5", [("10acd1a2-155a-445a-a269-13bebd9741a8_9", "chabud")]),
    ):
        with h5py.File(root / file, "w") as target:
            for key, fold in patches:
                group = target.create_group(key)
                group.attrs["fold"] = fold
                group.attrs["comments"] = "4-5"
                for first, image in ((100, "pre_fire"), (500, "post_fire")):
                    if (fold, image) != (3, "pre_fire"):
                        pixels = levels("uint16", first, 12)
                        pixels[:, 0] = 0
                        pixels[0, -1] = 0  # one dark band
                        group[image] = np.moveaxis(pixels, 0, -1)
                group["mask"] = np.moveaxis(halves("uint16", 0, 1), 0, -1)


OPTICAL_DAYS = {"2019-01-04": False, "2019-01-24": True}
RADAR_DAYS = {"2019-01-02": False, "2019-01-05": False, "2019-01-22": False, "2019-01-26": True, "2019-02-20": True}


def sen12flood(root: Path, places: Sequence[str] = ("0001", "0003", "0014", "7")) -> None:
    """Places to train on (0001, 0003), for validation (0014) and for the test (7), with the same days each."""
    lists: dict[str, dict[str, Any]] = {"S1": {}, "S2": {}}
    for place in places:
        optical = {day: f"S2_{day}" for day in OPTICAL_DAYS}
        radar = {day: f"S1B_IW_GRDH_1SDV_{day.replace('-', '')}T030823_015607_01D42A_6D09" for day in RADAR_DAYS}
        for name in optical.values():
            for number, band in enumerate(S2_BANDS):
                pixels = levels("uint16", 1000 + number, 1)
                pixels[:, :2] = 0
                tiff(root / place / f"{name}_{band}.tif", pixels)
        for name in radar.values():
            for number, band in enumerate(("VV", "VH")):
                tiff(root / place / f"{name}_corrected_{band}.tif", _power(0.1 / 10**number), place=_degrees())
        for sensor, names, days in (("S1", radar, RADAR_DAYS), ("S2", optical, OPTICAL_DAYS)):
            lists[sensor][place] = {"count": len(days), "folder": place, "geo": {"type": "Polygon"}} | {
                str(number): {"date": day, "FLOODING": days[day], "FULL-DATA-COVERAGE": True, "filename": names[day]}
                for number, day in enumerate(days, start=1)
            }
    for sensor, described in lists.items():
        (root / f"{sensor}list.json").write_text(json.dumps(described))


def _power(level: float, side: int = 48) -> np.ndarray:
    """Backscatter (1, H, W) as power, with nothing measured in the first rows."""
    pixels = np.full((1, side, side), level, dtype=np.float32)
    pixels[:, : side // 4] = 0
    return pixels


def _degrees(side: int = 48) -> dict[str, Any]:
    """A grid of latitude and longitude that covers the tile of `UTM` and more."""
    west, south, east, north = transform_bounds(UTM["crs"], "EPSG:4326", 499900, 7799580, 500420, 7800100)
    return {"crs": "EPSG:4326", "transform": Affine((east - west) / side, 0, west, 0, (south - north) / side, north)}
