"""Names and colours of the classes of a raster, as geographic information systems read them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from xml.etree import ElementTree

import numpy as np
from rasterio.io import DatasetWriter

from mapex_lightning.errors import MapexError

NODATA = 255
"""What a raster of classes holds where there is none."""

_FIRST = ((0, 158, 115), (230, 159, 0), (0, 114, 178), (213, 94, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66))
"""Colours that the colour-blind tell apart (Wong 2011, doi:10.1038/nmeth.1618), black left out."""


def colour(index: int) -> tuple[int, int, int]:
    """The colour of a class, red, green and blue from 0 to 255; always the same for the same index."""
    red, green, blue = _colours()[index].tolist()
    return red, green, blue


@cache
def _colours() -> np.ndarray:
    """(255, 3): each is as far as can be from those before it (Glasbey et al. 2007, doi:10.1002/col.20327)."""
    levels = np.arange(40, 230, 30)
    mixed = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    lightness = _lab(mixed)[:, 0]
    every = np.concatenate([np.array(_FIRST), mixed[(lightness > 25) & (lightness < 90)]])
    places, chosen = _lab(every), list(range(len(_FIRST)))
    nearest = np.min([np.linalg.norm(places - places[one], axis=1) for one in chosen], axis=0)
    while len(chosen) < NODATA:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return every[chosen]


def _lab(colours: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of sRGB from 0 to 255 to CIELAB under D65, in which distances are what the eye sees."""
    share = colours / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def check_classes(classes: Sequence[str]) -> None:
    """A raster of classes has 8 bits.

    Raises:
        MapexError: there are more classes than fit.
    """
    if len(classes) > NODATA:
        raise MapexError(
            f"A map holds {NODATA} classes at the most; found {len(classes)}. Write probabilities instead."
        )


def write_legend(target: DatasetWriter, classes: Sequence[str]) -> None:
    """Gives the one uint8 band of a GeoTIFF a colour table, and a tag ``class_INDEX`` with the name of each class.

    Args:
        target: open, and nothing is written yet: a colour table cannot be added to a file that has begun.
        classes: names by index.
    """
    table = {index: (*colour(index), 255) for index in range(len(classes))}
    target.write_colormap(1, {**table, NODATA: (0, 0, 0, 0)})
    target.update_tags(1, **{f"class_{index}": name for index, name in enumerate(classes)})


def category_names(classes: Sequence[str]) -> str:
    """What GDAL and QGIS look for in ``FILE.aux.xml`` beside a GeoTIFF, which has no place for class names itself."""
    root = ElementTree.Element("PAMDataset")
    names = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in classes:
        ElementTree.SubElement(names, "Category").text = name
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
