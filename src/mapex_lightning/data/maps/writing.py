"""Maps on disk: filled row by row in a temporary file, then made a Cloud-Optimised GeoTIFF or a Zarr store.

Axes: K bands, H and W cells of the map.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.shutil import copy
from rasterio.transform import Affine
from rasterio.windows import Window

from mapex_lightning.data.extras import imported
from mapex_lightning.data.legend import NODATA, category_names, check_classes, write_legend
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.errors import MapexError
from mapex_lightning.files import temporary, write_folder_whole, write_text, write_whole

ROWS = 64
"""Rows that are copied at a time."""

HEAVY = 2**23
"""Bytes of a block of a GeoTIFF, unpacked, that are more than one wants to read for one place."""


class Product(NamedTuple):
    """A file to be made from values per cell.

    Attributes:
        path: the file; ``.zarr`` makes a Zarr store, anything else a GeoTIFF.
        bands: names of the bands.
        dtype: of the file.
        nodata: what stands where nothing is valid.
        encode: makes rows of the file (bands, rows, W) from values (K, rows, W), which are NaN where nothing is valid.
        classes: names of the classes that the one band holds, if it does.
    """

    path: Path
    bands: tuple[str, ...]
    dtype: str
    nodata: float
    encode: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...] = ()

    @property
    def zarr(self) -> bool:
        """Whether it is a Zarr store."""
        return self.path.suffix == ".zarr"


def class_map(path: Path, classes: Sequence[str]) -> Product:
    """The likeliest class: one band uint8 with names and colours."""
    check_classes(classes)
    return Product(path, ("class",), "uint8", NODATA, _likeliest, tuple(classes))


def label_map(path: Path, classes: Sequence[str]) -> Product:
    """Labels that do not exclude each other: per class a band uint8, 1 where its probability is a half or more."""
    return Product(path, tuple(classes), "uint8", NODATA, _present)


def probabilities(path: Path, classes: Sequence[str]) -> Product:
    """The probability of every class: per class a band float32."""
    return Product(path, tuple(classes), "float32", np.nan, _as_they_are)


def features(path: Path, width: int) -> Product:
    """What an encoder says of a patch: per feature a band float32."""
    names = tuple(f"feature_{index}" for index in range(width))
    return Product(path, names, "float32", np.nan, _as_they_are)


def _likeliest(values: np.ndarray) -> np.ndarray:
    valid = np.isfinite(values).all(0)
    best = np.where(valid, values, 0).argmax(0)
    return np.where(valid, best, NODATA)[None].astype(np.uint8)


def _present(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values >= 0.5, NODATA).astype(np.uint8)


def _as_they_are(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32, copy=False)


class Draft:
    """A product in the making: one process writes its rows into a temporary GeoTIFF beside the target.

    Rows lie one by one in it, so that whatever is written is written once. Making one is the proof that the folder can
    be written to.

    Args:
        product: what is made.
        cells: the cells of the map.
        by: the process that answers for the temporary files of this run; see `mapex_lightning.files.mark`.
        rank: of the process.

    Raises:
        MapexError: the target is a folder, or its own cannot be written to; of a Zarr store, zarr is not installed.
    """

    def __init__(self, product: Product, cells: Grid, by: str, rank: int = 0) -> None:
        self.product, self.cells, self.by = product, cells, by
        self.path = self._of(rank)
        if product.zarr:
            _zarr()
            _check_axes(cells)
        if product.path.exists() and product.path.is_dir() != product.zarr:
            found = "folder" if product.path.is_dir() else "file"
            raise MapexError(f"{product.path} is a {found} already. Give the map another name.")
        if product.path.exists() and not os.access(product.path, os.W_OK):
            raise MapexError(f"{product.path} is there and may not be written. Give the map another name.")
        profile: dict[str, object] = {"count": len(product.bands), "height": cells.height, "width": cells.width}
        profile |= {"dtype": product.dtype, "nodata": product.nodata, "crs": cells.crs}
        try:
            product.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = rasterio.open(
                self.path,
                "w",
                driver="GTiff",
                transform=Affine(*cells.transform),
                compress="deflate",
                zlevel=1,  # quick: the file is read once and thrown away
                blockysize=1,
                sparse_ok=True,
                bigtiff="yes",
                **profile,
            )
            self._file.descriptions = product.bands
            if product.classes:
                write_legend(self._file, product.classes)
        except (OSError, RasterioError) as error:
            raise MapexError(
                f"{product.path} cannot be written ({error}). Check that its folder can be written to and has room."
            ) from error

    def write(self, top: int, values: np.ndarray) -> None:
        """Writes values (K, rows, W) from row `top` on."""
        self._put(top, self.product.encode(values))

    def _of(self, rank: int) -> Path:
        """The temporary file of a process."""
        return temporary(self.product.path, f"rank{rank}", self.by)

    def _put(self, top: int, rows: np.ndarray) -> None:
        try:
            self._file.write(rows, window=Window(0, top, rows.shape[2], rows.shape[1]))
        except RasterioError as error:
            raise MapexError(f"{self.path} could not be written ({error}). Check that there is room.") from error

    def close(self) -> None:
        """Ends writing; the file stays."""
        self._file.close()

    def discard(self) -> None:
        """Takes the temporary file away."""
        self._file.close()
        with suppress(OSError):
            self.path.unlink()

    def finish(self, others: Sequence[range] = ()) -> None:
        """Adds the rows of the other processes and makes the product, whole or not at all.

        Args:
            others: the rows of each process from rank 1 on, all of which have closed their files.

        Raises:
            MapexError: the target cannot be written.
        """
        for rank, rows in enumerate(others, 1):
            with rasterio.open(self._of(rank)) as source:
                for top in range(rows.start, rows.stop, ROWS):
                    self._put(top, _rows(source, top, min(ROWS, rows.stop - top)))
            self._of(rank).unlink()
        self.close()
        if self.product.zarr:
            write_zarr(self.path, self.product, self.cells)
        else:
            write_cog(self.path, self.product)


def _rows(source: DatasetReader, top: int, count: int) -> np.ndarray:
    rows: np.ndarray = source.read(window=Window(0, top, source.width, count))
    return rows


def write_cog(part: Path, product: Product) -> None:
    """Makes a Cloud-Optimised GeoTIFF with overviews; class names lie in ``PATH.aux.xml`` too, where GIS look for them.

    Overviews show the most frequent class, or of numbers the mean.

    Raises:
        MapexError: the target cannot be written.
    """
    whole = product.dtype == "uint8"
    resampling = "mode" if whole else "average"
    settings = {
        "compress": "deflate",
        "predictor": "no" if whole else "yes",
        "blocksize": _block(len(product.bands), np.dtype(product.dtype).itemsize),
        "overview_resampling": resampling,
        "bigtiff": "if_safer",
    }
    write_whole(product.path, lambda beside: copy(part, beside, driver="COG", **settings))
    names = product.path.with_name(f"{product.path.name}.aux.xml")
    if product.classes:
        write_text(names, category_names(product.classes))
    else:
        names.unlink(missing_ok=True)  # of an earlier map of that name


def _block(bands: int, size: int) -> int:
    """Side of a block: 512 cells, or fewer where so many bands, which lie together, would make it a heavy read."""
    side = 512
    while side > 64 and side**2 * bands * size > HEAVY:
        side //= 2
    return side


def write_zarr(part: Path, product: Product, cells: Grid) -> None:
    """Makes a Zarr store with the variable ``features`` (feature, y, x), its coordinates and ``spatial_ref`` (CF).

    Raises:
        MapexError: the target cannot be written.
    """
    zarr = _zarr()
    a, _, c, _, e, f = cells.transform
    axes = {"y": f + e * (np.arange(cells.height) + 0.5), "x": c + a * (np.arange(cells.width) + 0.5)}

    def fill(beside: Path) -> None:
        store = zarr.open_group(beside, mode="w")
        for name, places in axes.items():
            store.create_array(name, data=places, dimension_names=(name,))
        place = store.create_array("spatial_ref", shape=(), dtype="int64")
        place.attrs.update(crs_wkt=cells.crs, GeoTransform=" ".join(map(str, (c, a, 0.0, f, 0.0, e))))
        shape = (len(product.bands), cells.height, cells.width)
        chunks = (shape[0], min(ROWS, shape[1]), min(ROWS, shape[2]))
        names = ("feature", "y", "x")
        cube = store.create_array(
            "features", shape=shape, chunks=chunks, dtype="float32", fill_value=np.nan, dimension_names=names
        )
        cube.attrs.update(grid_mapping="spatial_ref")
        with rasterio.open(part) as source:
            for top in range(0, cells.height, ROWS):
                count = min(ROWS, cells.height - top)
                cube[:, top : top + count] = _rows(source, top, count)

    write_folder_whole(product.path, fill)


def _zarr() -> Any:
    return imported("zarr", "cubes", "A map as a Zarr store, unlike one as .tif,")


def _check_axes(cells: Grid) -> None:
    """A Zarr store has a coordinate per row and per column."""
    _, b, _, d, _, _ = cells.transform
    if b or d:
        raise MapexError("The scene is rotated on its map, and a Zarr store has x and y axes only. Write a .tif.")
