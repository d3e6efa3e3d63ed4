"""Names and colours of the classes of a raster, as geographic information systems read them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from xml.etree import ElementTree

from rasterio.io import DatasetWriter

from mapex_lightning.errors import MapexError

NODATA = 255
"""What a raster of classes holds where there is none."""

_SAFE = ((0, 158, 115), (230, 159, 0), (0, 114, 178), (213, 94, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66))
"""Colours that the colour-blind tell apart (Wong 2011, doi:10.1038/nmeth.1618), black left out."""

_GOLDEN = 0.618034
"""Hues that are this share of the circle apart never come close to each other."""

_SHADES = (0.25, 0.6, 0.8, 0.42)
"""Lightness, in turns, of the classes beyond."""


def colour(index: int) -> tuple[int, int, int]:
    """The colour of a class, red, green and blue from 0 to 255; always the same for the same index."""
    if index < len(_SAFE):
        return _SAFE[index]
    red, green, blue = colorsys.hls_to_rgb(index * _GOLDEN % 1, _SHADES[index % len(_SHADES)], 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


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
