"""Tiny files in the layouts that data sets of torchgeo are published in; band by band a value that names it.

Where nothing else is said, the pixels of the n-th stored band are n, from 1 on.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import rasterio
from PIL import Image

EUROSAT_CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
    "Pasture", "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip


def coded(count: int, side: int) -> np.ndarray:
    """Bands (count, side, side) of which the n-th holds n."""
    return np.arange(1, count + 1)[:, None, None] * np.ones((side, side))


def write(path: Path, pixels: np.ndarray, kind: str) -> None:
    """A GeoTIFF in Berlin's zone of UTM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 390000, 0, -10, 5820000)}
    count, height, width = pixels.shape
    with rasterio.open(path, "w", driver="GTiff", count=count, height=height, width=width, dtype=kind, **place) as file:
        file.write(pixels.astype(kind))


def eurosat(root: Path, prefix: str = "eurosat-100") -> None:
    """Three tiles in each split; a folder per class, though only two have tiles."""
    folder = root / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    for name in EUROSAT_CLASSES:
        (folder / name).mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"Forest_{number * 2 + 1}", f"Forest_{number * 2 + 2}", f"River_{number + 1}"]
        for name in names:
            write(folder / name.partition("_")[0] / f"{name}.tif", coded(13, 64), "uint16")
        (root / f"{prefix}-{split}.txt").write_text("".join(f"{name}.jpg\n" for name in names))
    for name in set(EUROSAT_CLASSES) - {"Forest", "River"}:  # ImageFolder wants a tile of each class
        write(folder / name / f"{name}_1.tif", coded(13, 1), "uint16")
        for split in ("train", "val", "test"):
            with (root / f"{prefix}-{split}.txt").open("a") as lines:
                lines.write(f"{name}_1.jpg\n")


def dfc2020(root: Path) -> None:
    """Two tiles in each split: mask values 4, 3 and 0 among them."""
    folder = root / "dfc2020_s1s2"
    mask = np.full((1, 256, 256), 4)
    mask[0, 0, :3] = [10, 3, 0]
    for split in ("train", "val", "test"):
        names = [f"ROIs0000_{split}_dfc_0_p{number}.tif" for number in range(2)]
        for name in names:
            write(folder / "s1" / name.replace("dfc", "s1"), -coded(2, 256), "float32")
            write(folder / "s2" / name.replace("dfc", "s2"), coded(13, 256), "uint16")
            write(folder / "dfc" / name, mask, "uint8")
        (folder / f"dfc-{split}-new.csv").write_text("".join(f"{name}\n" for name in names))


def sen12ms(root: Path, tiles: int = 8) -> None:
    """Tiles of spring, one of them for testing; the first of four land cover layers is IGBP."""
    for season in ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter"):
        (root / season).mkdir(parents=True)
    cover = coded(4, 256)
    cover[0, 0, :3] = [17, 0, 255]
    names = [f"ROIs1158_spring_s2_1_p{number}.tif" for number in range(tiles)]
    for name in names:
        for source, pixels, kind in (("s1", -coded(2, 256), "float32"), ("s2", coded(13, 256), "uint16")):
            write(root / "ROIs1158_spring" / f"{source}_1" / name.replace("s2", source), pixels, kind)
        write(root / "ROIs1158_spring" / "lc_1" / name.replace("s2", "lc"), cover, "uint16")
    (root / "train_list.txt").write_text("".join(f"{name}\n" for name in names[1:]))
    (root / "test_list.txt").write_text(f"{names[0]}\n")


def so2sat(root: Path) -> None:
    """Three tiles in each split; intensities are 0.01 (VH) and 0.1 (VV), reflectance is the band's place / 100."""
    root.mkdir(parents=True)
    radar = np.zeros((3, 32, 32, 8))
    radar[..., 4], radar[..., 5] = 0.01, 0.1
    optical = np.broadcast_to(np.arange(1, 11) / 100, (3, 32, 32, 10))
    for name in ("training", "validation", "testing"):
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["sen1"], file["sen2"], file["label"] = radar, optical, np.eye(17)[[16, 5, 0]]


def ssl4eo_s12(root: Path, places: int = 1) -> None:
    """Places with four seasons each; bands lie in files of their own, at their own resolution."""
    bands = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
    seasons = ("20200301", "20200601", "20200901", "20201201")
    for place in range(places):
        for season in seasons:
            optical = root / "s2a" / f"{place:07}" / f"{season}T101031_{season}T101345_T33UUU"
            for number, band in enumerate(bands):
                side = 44 if band in ("B1", "B9") else 264 if band in ("B2", "B3", "B4", "B8") else 132
                write(optical / f"{band}.tif", np.full((1, side, side), number + 1), "uint16")
            radar = root / "s1" / f"{place:07}" / f"S1A_IW_GRDH_1SDV_{season}T052500_{season}T052525_031467_039F9F_3B8B"
            for number, band in enumerate(("VV", "VH")):
                write(radar / f"{band}.tif", np.full((1, 264, 264), -number - 1), "float32")


def ssl4eo_l(root: Path, places: int = 4) -> None:
    """Places with four seasons each; the first pixel is empty."""
    pixels = coded(7, 264)
    pixels[:, 0, 0] = 0
    for place in range(places):
        for date in ("20190301", "20190601", "20190901", "20191201"):
            write(root / f"ssl4eo_l_oli_sr/{place:07}/LC08_044034_{date}/all_bands.tif", pixels, "uint8")


def mmearth(root: Path, tiles: int = 5) -> None:
    """Tiles of 128 x 128; the last has no ascending radar. Every band has mean n and standard deviation 2."""
    root = root / "data_100k_v001"
    root.mkdir(parents=True)
    radar = np.broadcast_to(coded(8, 128) + 2, (tiles, 8, 128, 128)).copy()
    radar[:, 2:4] = -np.inf
    radar[-1, :4] = -np.inf
    names = [f"tile_{number}" for number in range(tiles)]
    with h5py.File(root / "data_100k_v001.h5", "w") as file:
        file["sentinel1"] = radar
        file["sentinel2"] = np.broadcast_to(coded(13, 128) * 2 + 1, (tiles, 13, 128, 128)).astype("uint16")
        file["aster"] = np.broadcast_to(coded(2, 128) + 4, (tiles, 2, 128, 128)).astype("int16")
        file["metadata"] = np.array([(name.encode(),) for name in names], dtype=[("name", "S20")])
    statistics = {
        name: {"mean": list(range(1, count + 1)), "std": [2.0] * count}
        for name, count in (("sentinel1", 8), ("sentinel2_l1c", 13), ("sentinel2_l2a", 13), ("aster", 2))
    }
    info = {
        name: {"S2_type": "l2a", "S2_DATE": "2020-06-01", "lat": 52.0, "lon": 13.0, "CRS": "EPSG:32633"}
        for name in names
    }
    for what, content in (("band_stats", statistics), ("splits", {"train": list(range(tiles))}), ("tile_info", info)):
        (root / f"data_100k_v001_{what}.json").write_text(json.dumps(content))


def landcoverai(root: Path) -> None:
    """Two tiles in each split, of colour 10, 20, 30; masks are pictures too."""
    (root / "output").mkdir(parents=True)
    colour = np.broadcast_to(np.array([10, 20, 30], dtype=np.uint8), (512, 512, 3))
    mask = np.full((512, 512), 3, dtype=np.uint8)
    for split in ("train", "val", "test"):
        names = [f"N-33-60-{split}_{number}" for number in range(2)]
        for name in names:
            Image.fromarray(colour).save(root / "output" / f"{name}.jpg", quality=100, subsampling=0)
            Image.fromarray(mask).save(root / "output" / f"{name}_m.png")
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def landcoverai_geo(root: Path, side: int = 40, gsd: float = 0.25) -> None:
    """One orthophoto and its mask, in Poland's coordinate system."""
    place = {"crs": "EPSG:2180", "transform": rasterio.Affine(gsd, 0, 400000, 0, -gsd, 500000)}
    for folder, pixels in (("images", coded(3, side)), ("masks", np.full((1, side, side), 2))):
        path = root / folder / "N-33-60-D-c-4-2.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        count = len(pixels)
        with rasterio.open(path, "w", "GTiff", side, side, count, dtype="uint8", **place) as file:
            file.write(pixels.astype("uint8"))


LAYOUTS = {
    "eurosat100": ("EuroSAT100", eurosat),
    "dfc2020": ("CopernicusBenchDFC2020S2", dfc2020),
    "sen12ms": ("SEN12MS", sen12ms),
    "so2sat": ("So2Sat", so2sat),
    "ssl4eo_s12": ("SSL4EOS12", ssl4eo_s12),
    "ssl4eo_l": ("SSL4EOL", ssl4eo_l),
    "mmearth": ("MMEarth", mmearth),
    "landcoverai": ("LandCoverAI100", landcoverai),
}
"""Per config that ships: the folder that its files lie in below ``data.root``, and what writes them."""
