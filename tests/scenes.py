"""Small scenes whose pixels are a known function of the place: what tests of scenes, tiles and maps share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.warp import transform

from mapex_lightning.data import raster
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.modality import S2_BANDS

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

Function = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A value of each place, from easting and northing in UTM zone 32 north."""

HOME = rasterio.CRS.from_epsg(32632).to_wkt()
EAST, NORTH = 700_000.0, 5_200_000.0
"""Where the scenes begin: 2.6 degrees east of the zone's middle, so that the next zone is turned by 4 degrees."""


def grid(
    gsd: float = 10.0, side: int = 64, east: float = EAST, north: float = NORTH, epsg: int = 32632, width: int = 0
) -> Grid:
    """A grid of square pixels whose upper left corner is at a place of its own coordinate system."""
    crs = rasterio.CRS.from_epsg(epsg).to_wkt()
    return Grid(crs, (gsd, 0.0, east, 0.0, -gsd, north), side, width or side)


def beside(gsd: float, side: int, east: float, north: float, epsg: int) -> Grid:
    """A grid in another coordinate system whose upper left corner is at a place of the home zone."""
    (x,), (y,) = transform(HOME, rasterio.CRS.from_epsg(epsg), [east], [north])
    return grid(gsd, side, x, y, epsg)


def ramp(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Rises by 1 per 100 m eastward and by 2 per 100 m northward."""
    return (east - EAST) / 100 + (north - NORTH) / 50


def values(place: Grid, function: Function = ramp) -> np.ndarray:
    """What a function is at the middle of every pixel of a grid: (H, W)."""
    a, b, c, d, e, f = place.transform
    rows, columns = np.mgrid[: place.height, : place.width] + 0.5
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    east, north = transform(rasterio.CRS.from_wkt(place.crs), HOME, x.ravel(), y.ravel())
    return function(np.array(east), np.array(north)).reshape(x.shape)


def write(path: Path, place: Grid, bands: Sequence[str], function: Function = ramp) -> Path:
    """A GeoTIFF whose bands are the function, each 100 higher than the one before."""
    image = np.stack([values(place, function) + 100 * index for index in range(len(bands))]).astype(np.float32)
    raster.write(path, image, bands, place.place)
    return path


def jp2(path: Path, grid: Grid, pixels: np.ndarray) -> None:
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


def safe(product: Path, ground: Grid, function: Function = ramp) -> Path:
    """A Sentinel-2 product of level 2A; each band is the function, 100 higher than the one before, plus 1500."""
    start = "T32TPS_20240830T100559"
    images = product / "GRANULE" / "L2A_T32TPS_A039090_20240830T100559" / "IMG_DATA"
    for index, band in enumerate(S2_BANDS):
        gsd = 10 if band in ("B02", "B03", "B04", "B08") else 60 if band == "B09" else 20
        grid = ground.at(gsd)
        pixels = np.round(values(grid, function) + 1500 + 100 * index).astype(np.uint16)
        jp2(images / f"R{gsd}m" / f"{start}_{band}_{gsd}m.jp2", grid, pixels)
    (product / "MTD_MSIL2A.xml").write_text(L2A.format(offsets=L2A_OFFSETS))
    return product
