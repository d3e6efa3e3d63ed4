"""SAFE folders: Sentinel-2 products as ESA hands them out, with the offsets that their metadata records.

Bands are handed over in ``reflectance x 10000``. Since processing baseline 04.00 (January 2022) a stored value is 1000
higher than that, which the product's metadata says band by band; reading the files without it would be silently wrong.
Layout and offsets: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from mapex_lightning.data.scenes.source import RasterFile
from mapex_lightning.errors import MapexError

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""By the number that the metadata counts them with."""

REFLECTANCE = 10_000.0
"""The value of a reflectance of 1."""

_IMAGE = re.compile(r".*_(?P<band>B\d\d|B8A)(?:_(?P<gsd>\d\d)m)?\.jp2")


class Level(NamedTuple):
    """How a processing level writes its metadata.

    Attributes:
        file: the file's name.
        quantification: the element that holds the stored value of a reflectance of 1.
        offset: the element that holds the summand of a band.
    """

    file: str
    quantification: str
    offset: str


LEVELS = (
    Level("MTD_MSIL2A.xml", "BOA_QUANTIFICATION_VALUE", "BOA_ADD_OFFSET"),
    Level("MTD_MSIL1C.xml", "QUANTIFICATION_VALUE", "RADIO_ADD_OFFSET"),
)


def is_safe(path: Path) -> bool:
    """Whether a folder is a SAFE product."""
    return path.is_dir() and (
        path.suffix == ".SAFE" or (path / "manifest.safe").exists() or (path / "GRANULE").is_dir()
    )


def refuse_if_inside(path: Path) -> None:
    """A band alone would be read without the offset that the product's metadata records.

    Raises:
        MapexError: a file is a part of a SAFE product.
    """
    product = next((parent for parent in path.absolute().parents if parent.suffix == ".SAFE"), None)
    if product is not None:
        raise MapexError(
            f"{path} is a part of {product.name}, whose metadata says what its values are. Give {product}."
        )


def sentinel2(product: Path) -> list[RasterFile]:
    """The bands of a Sentinel-2 product, level 1C or 2A, each at the finest resolution that is there.

    Args:
        product: the folder that ends in ``.SAFE``.

    Raises:
        MapexError: it is of another mission, or its metadata or its images are not there.
    """
    if (product / "measurement").is_dir() or product.name.startswith(("S1", "S3")):
        raise MapexError(
            f"{product} is no Sentinel-2 product. Sentinel-1 measurements are neither calibrated nor on a map: make "
            "them so with a terrain correction (SNAP, pyroSAR), or take a product that is, such as Sentinel-1 RTC."
        )
    level = next((level for level in LEVELS if (product / level.file).is_file()), None)
    if level is None:
        files = " or ".join(level.file for level in LEVELS)
        raise MapexError(f"{product} has no {files}, which says what its values are. Fetch or unpack it again.")
    scale, offsets = _values(product / level.file, level)
    finest: dict[str, tuple[int, Path]] = {}
    for path in sorted(product.glob("GRANULE/*/IMG_DATA/**/*.jp2")):
        found = _IMAGE.fullmatch(path.name)
        if found:
            band, gsd = found["band"], int(found["gsd"] or 0)
            if band in finest and finest[band][0] == gsd:
                raise MapexError(f"{product} has several granules, or {band} twice. Cut out one granule of it.")
            finest[band] = min(finest.get(band, (gsd, path)), (gsd, path))
    if not finest:
        raise MapexError(f"{product} has no images in GRANULE/*/IMG_DATA. Fetch or unpack it again.")
    return [
        RasterFile(path, [band], 0.0, {band: scale}, {band: scale * offsets.get(BANDS.index(band), 0.0)})
        for band, (_, path) in sorted(finest.items(), key=lambda item: BANDS.index(item[0]))
    ]


def _values(metadata: Path, level: Level) -> tuple[float, dict[int, float]]:
    """The factor that makes stored values reflectance x 10000, and the summands of stored values by a band's number."""
    try:
        root = ElementTree.parse(metadata).getroot()
        (quantification,) = (float(found.text or "") for found in root.iter(level.quantification))
        offsets = {int(found.attrib["band_id"]): float(found.text or "") for found in root.iter(level.offset)}
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise MapexError(
            f"{metadata} does not say what stored values are ({level.quantification}, {level.offset}; {error}). "
            "Fetch or unpack it again."
        ) from error
    return REFLECTANCE / quantification, offsets
