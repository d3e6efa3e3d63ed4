"""Rasters on disk: named bands and class masks, read and written."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from mapex_lightning.data.legend import NODATA, write_legend
from mapex_lightning.data.one_grid import on_one_grid
from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.files import write_whole
from mapex_lightning.tiles import IGNORED

_OPENING = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
"""For GDAL: look for a file's companions by name, and do not list its folder, which may hold thousands, for each."""

OFFLINE = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_SKIP": "DAAS,EEDA,EEDAI,GTI,HTTP,NGW,OGCAPI,PLMOSAIC,STACIT,STACTA,WCS,WMS,WMTS",
}
"""For GDAL: no file is fetched, though a VRT may name one, and there are no formats that are services elsewhere.

These are environment variables of GDAL, because it opens what a VRT names only when pixels are read. Who has set them
already wants it otherwise.
"""
for _name, _value in OFFLINE.items():
    os.environ.setdefault(_name, _value)

PLAIN = [
    *("GTiff", "PNG", "JPEG", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "WEBP", "GIF", "BMP"),
    *("PNM", "ENVI", "EHdr", "AAIGrid", "NITF", "GRIB", "SRTMHGT", "DTED"),
]
"""For GDAL: formats that hold their pixels themselves.

Others may name files elsewhere, or on the network: VRT, WMS, HFA (whose pixels may be in an .ige file of any name) and
NetCDF, which is HDF5 inside.
"""

POINTING = (b"<VRT", b"<GDAL", b"EHFA_HEADER_TAG", b"\x89HDF", b"CDF")
"""How files of such formats begin."""

MASK = ".msk"
"""What GDAL appends to the name of a raster to find its mask, in small or in capital letters."""


def read(path: Path, bands: Sequence[str], names: Sequence[str] | None = None) -> np.ndarray:
    """Reads named bands.

    Values are those that are stored. A scale and offset in the file are not applied, because the modality's unit
    already says what a stored value is.

    Args:
        path: a raster of one of the formats in `PLAIN`.
        bands: the C bands wanted, by name, in the order wanted.
        names: what the file's bands are called if the file has no band descriptions, in stored order.

    Returns:
        Shape (C, H, W), float32; nodata and masked pixels are NaN.

    Raises:
        MapexError: the file is missing, damaged or no raster, or lacks a band.
    """
    with open_raster(path) as source:
        return pixels_of(path, source, _indexes(path, source.descriptions, names, bands), bands)


def read_placed(
    path: Path, bands: Sequence[str], names: Sequence[str] | None = None, *, trusted: bool = False
) -> tuple[np.ndarray, GeoReference | None]:
    """Reads named bands as `read` does, and where they lie as `georeference` does, in one opening of the file.

    Args:
        path: a raster.
        bands: see `read`.
        names: see `read`.
        trusted: see `open_raster`.

    Raises:
        MapexError: as for `read`.
    """
    with open_raster(path, trusted=trusted) as source:
        return pixels_of(path, source, _indexes(path, source.descriptions, names, bands), bands), _place(source)


def read_together(files: Mapping[str, Path], side: int | None = None) -> np.ndarray:
    """Reads bands that lie in a file each, on one grid; coarser ones are repeated onto it.

    Args:
        files: C rasters of one band that cover the same ground, by the name of the band.
        side: rows and columns of the grid; None is that of the finest of these files.

    Returns:
        Shape (C, H, W), float32; nodata and masked pixels are NaN.

    Raises:
        MapexError: as for `read`, or the sides of a file do not divide those of the grid.
    """
    stored = {band: _only_band(path, band) for band, path in files.items()}
    return on_one_grid(stored, lambda band: f"{files[band]} (band {band})", side)


def _only_band(path: Path, band: str) -> np.ndarray:
    """A raster of one band: (H, W) float32, NaN where invalid."""
    with open_raster(path) as source:
        if source.count != 1:
            raise MapexError(
                f"{path} must hold band {band} alone; found {source.count} bands. Fetch or unpack it again."
            )
        (pixels,) = pixels_of(path, source, [1], [band])
        return np.asarray(pixels)


def read_mask(path: Path, *, trusted: bool = False) -> np.ndarray:
    """Reads a class mask: one band of class indexes.

    Args:
        path: a raster.
        trusted: see `open_raster`.

    Returns:
        Shape (H, W), int64; nodata and masked pixels are `IGNORED`.

    Raises:
        MapexError: as for `read`, or the mask has several bands or values that are not whole numbers.
    """
    with open_raster(path, trusted=trusted) as source:
        if source.count != 1:
            raise MapexError(f"Mask {path} must have one band of class indexes; found {source.count} bands.")
        stored = _pixels(path, source, [1], ["class"])[0]
    valid = stored.compressed()
    if not np.array_equal(valid, np.round(valid)):
        raise MapexError(f"Mask {path} must hold whole class indexes; found fractions or NaN. Declare its nodata.")
    mask: np.ndarray = stored.filled(0).astype(np.int64)
    mask[np.ma.getmaskarray(stored)] = IGNORED
    return mask


def georeference(path: Path, *, trusted: bool = False) -> GeoReference | None:
    """Where a raster lies, or None where the file does not say.

    Args:
        path: a raster.
        trusted: see `open_raster`.

    Raises:
        MapexError: the file is missing, damaged or no raster.
    """
    with open_raster(path, trusted=trusted) as source:
        return _place(source)


def write(path: Path, image: np.ndarray, bands: Sequence[str], place: GeoReference | None = None) -> None:
    """Writes named bands as a GeoTIFF; the file appears whole or not at all.

    Args:
        path: where to.
        image: shape (C, H, W); floating point images declare NaN as their nodata value.
        bands: C names, stored as band descriptions.
        place: where the image lies.

    Raises:
        MapexError: the folder is missing or cannot be written.
    """
    assert image.ndim == 3 and len(image) == len(bands), (image.shape, bands)
    _write(path, image, bands, place, np.nan if np.issubdtype(image.dtype, np.floating) else None)


def write_mask(
    path: Path, mask: np.ndarray, place: GeoReference | None = None, classes: Sequence[str] | None = None
) -> None:
    """Writes class indexes (H, W) as a one-band uint8 GeoTIFF, in which `legend.NODATA` stands for `IGNORED`.

    Args:
        path: where to.
        mask: from 0 to 254, or `IGNORED`.
        place: where the mask lies.
        classes: their names, which are stored together with a colour each.

    Raises:
        MapexError: the folder is missing or cannot be written.
    """
    assert mask.ndim == 2 and mask.max(initial=0) < NODATA, (mask.shape, mask.max(initial=0))
    stored = np.where(mask == IGNORED, NODATA, mask).astype(np.uint8)
    _write(path, stored[None], ["class"], place, NODATA, classes)


def open_raster(path: Path, *, trusted: bool = False) -> DatasetReader:
    """Opens a raster, for its header or for several windows; whoever opens it closes it.

    GDAL looks for companions beside it. A mask (``.msk``) is opened with the first pixels, as whatever it is, so it is
    checked here. Overviews (``.ovr``) are for coarser reads than ours, and an ``.aux.xml`` names no file but those.

    Args:
        path: the file.
        trusted: whether it may be of any format, and so point to other files as a VRT does; otherwise of `PLAIN`.

    Raises:
        MapexError: the file is missing, damaged or no raster, or points to others and may not.
    """
    if not path.exists():
        raise MapexError(f"There is no raster {path}. Check the path, and that the data set is unpacked in full.")
    if path.is_dir():
        raise MapexError(f"{path} is a folder, not a raster. Give the file inside it.")
    if not trusted and path.suffix.lower() != MASK:
        for mask in (f"{path}{MASK}", f"{path}{MASK.upper()}"):
            if os.path.lexists(mask):
                _check_mask(Path(mask), path)
    try:
        with rasterio.Env(**_OPENING), _ungeoreferenced_is_fine(), _watched() as lost:
            source = DatasetReader(str(path), driver=None if trusted else PLAIN)
    except RasterioError as error:
        if not trusted and _points(path):
            raise MapexError(
                f"{path} holds no pixels itself, or is of a format in which it need not (VRT, HFA, NetCDF): it may "
                "point to files elsewhere. Write it as a GeoTIFF with gdal_translate, or say outside: true of a Folder "
                "whose manifest you trust."
            ) from error
        raise MapexError(f"{path} cannot be opened as a raster ({error}). Fetch or unpack it again.") from error
    if lost.tags:
        source.close()
        raise MapexError(
            f"{path} is damaged or cut short: of its header {', '.join(lost.tags)} cannot be read. "
            "Fetch or unpack it again."
        )
    return source


def pixels_of(
    path: Path, source: DatasetReader, indexes: Sequence[int], bands: Sequence[str], window: Window | None = None
) -> np.ndarray:
    """Reads a window of an open raster.

    Args:
        path: its path, for messages.
        source: the open raster.
        indexes: C bands by their 1-based positions.
        bands: their names, for messages.
        window: the part to read; None is the whole raster.

    Returns:
        Shape (C, H, W), float32; nodata and masked pixels are NaN.

    Raises:
        MapexError: the raster is damaged, or ends before the window does.
    """
    filled: np.ndarray = np.ma.filled(_pixels(path, source, indexes, bands, window).astype(np.float32), np.nan)
    return filled


@contextmanager
def _ungeoreferenced_is_fine() -> Iterator[None]:
    """Photographs have no georeference; that is a fact about them and not worth a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


class _Lost(logging.Handler):
    """What GDAL could not read of a header: it goes on without, and rasterio only logs it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.tags: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the name of a tag that is cut off, such as that of the coordinate system or of the bands' names."""
        self.tags += re.findall(r'IO error during reading of "(\w+)"', record.getMessage())


@contextmanager
def _watched() -> Iterator[_Lost]:
    logger, lost = logging.getLogger("rasterio._env"), _Lost()
    logger.addHandler(lost)
    try:
        yield lost
    finally:
        logger.removeHandler(lost)


def _place(source: DatasetReader) -> GeoReference | None:
    if source.crs is None:
        return None
    return GeoReference(source.crs.to_wkt(), tuple(source.transform)[:6], source.shape)


def _check_mask(mask: Path, path: Path) -> None:
    """Makes sure that the mask beside a raster holds its pixels itself, and lies there.

    Raises:
        MapexError: it points or leads elsewhere, or is no raster.
    """
    if mask.resolve().parent not in (path.parent.resolve(), path.resolve().parent):
        raise MapexError(f"{mask} leads to {mask.resolve()}, away from {path}. Put the file itself there.")
    open_raster(mask).close()


def _points(path: Path) -> bool:
    """Whether a file is of a format that may say where pixels are, and no damaged raster."""
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(POINTING)


def _indexes(
    path: Path, described: Sequence[str | None], names: Sequence[str] | None, bands: Sequence[str]
) -> list[int]:
    """The 1-based positions of the wanted bands in a file."""
    stored = list(described) if any(described) else names
    if stored is None:
        raise MapexError(
            f"{path} does not name its bands, and {', '.join(bands)} are wanted. "
            "Set band descriptions in the file, for instance with `rio edit-info` or gdal_edit."
        )
    if len(stored) != len(described):
        raise MapexError(
            f"{path} has {len(described)} bands without names where {len(stored)} are expected "
            f"({', '.join(map(str, stored))}). Set band descriptions in the file."
        )
    for band in bands:
        if band not in stored:
            raise unknown("band", band, filter(None, stored), f"Looked in {path}; ask for a band that it has")
        if stored.count(band) > 1:
            raise MapexError(f"{path} has {stored.count(band)} bands named {band}. Make its band descriptions unique.")
    return [stored.index(band) + 1 for band in bands]


def _pixels(
    path: Path, source: DatasetReader, indexes: Sequence[int], bands: Sequence[str], window: Window | None = None
) -> np.ma.MaskedArray:
    """Reads (C, H, W) with invalid pixels masked; rasterio's own error does not name the file."""
    whole = Window(0, 0, source.width, source.height)
    part = whole if window is None else window
    if not _within(part, whole):
        raise MapexError(
            f"{path} has {source.height} rows and {source.width} columns, so {part} lies outside. Ask for less."
        )
    kinds = {source.dtypes[index - 1] for index in indexes}
    if any(kind.startswith("complex") for kind in kinds):
        raise MapexError(
            f"{path} holds complex numbers (bands {', '.join(bands)}), as radar does before detection. "
            "Detect and calibrate it first, so that it holds backscatter in dB."
        )
    try:
        pixels: np.ma.MaskedArray = source.read(indexes, window=part, masked=True)
    except RasterioError as error:
        raise MapexError(
            f"{path} cannot be read (bands {', '.join(bands)}, {part}): the file is damaged or cut short. "
            "Fetch or unpack it again."
        ) from error
    return pixels


def _within(part: Window, whole: Window) -> bool:
    """Whether a window lies inside another; rasterio itself clips silently."""
    rows = part.row_off >= 0 and part.row_off + part.height <= whole.height
    columns = part.col_off >= 0 and part.col_off + part.width <= whole.width
    return bool(rows and columns)


def _write(
    path: Path,
    pixels: np.ndarray,
    bands: Sequence[str],
    place: GeoReference | None,
    nodata: float | None,
    classes: Sequence[str] | None = None,
) -> None:
    """Writes a GeoTIFF, whole or not at all."""
    count, height, width = pixels.shape
    profile = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name, "nodata": nodata}
    if place is not None:
        profile |= {"crs": place.crs, "transform": Affine(*place.transform)}

    def fill(beside: Path) -> None:
        with (
            _ungeoreferenced_is_fine(),
            rasterio.open(beside, "w", driver="GTiff", compress="deflate", **profile) as target,
        ):
            target.descriptions = tuple(bands)
            if classes is not None:
                write_legend(target, classes)
            target.write(pixels)

    write_whole(path, fill)
