"""Sources: a file with some named bands on one grid, read in parts."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.io import DatasetReader
from rasterio.windows import Window

from mapex_lightning.data import raster
from mapex_lightning.data.scenes.grid import Grid, grid_of
from mapex_lightning.data.scenes.warp import Part
from mapex_lightning.errors import MapexError

_RESOLUTION = re.compile(r"_\d+m$")
_SEPARATOR = re.compile(r"[_.\-]")


class Source(ABC):
    """Some bands on one grid. Making one opens nothing; a source that travels to another process opens its file there.

    Attributes:
        path: the file.
    """

    path: Path

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the open file, which belongs to its process."""
        return {**self.__dict__, "_file": None}

    @property
    @abstractmethod
    def bands(self) -> tuple[str, ...]:
        """The bands by name, in stored order."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """Where its pixels lie."""

    @abstractmethod
    def read(self, bands: Sequence[str], part: Part) -> np.ndarray:
        """Pixels (C, height, width) float32 of a part inside the grid; invalid ones are NaN.

        Raises:
            MapexError: the file is damaged.
        """

    @abstractmethod
    def _open(self) -> Any:
        """Opens the file."""

    @property
    def _opened(self) -> Any:
        """The file, opened once per process: a fork must not share a handle."""
        if self._file is None or self._file[0] != os.getpid():
            self._file = (os.getpid(), self._open())
        return self._file[1]


class RasterFile(Source):
    """Bands of a GeoTIFF, a COG, a JPEG 2000 file or anything else that rasterio opens.

    Args:
        path: the file.
        names: its bands, in stored order. By default what its band descriptions say or, of a single band, what its
            name ends in.
        nodata: the value of invalid pixels, in addition to what the file declares.
        scales: per band a factor, and
        offsets: per band a summand, that make the stored value the one that is handed over; by default it is as stored.
        trusted: see `mapex_lightning.data.raster.open_raster`.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str] | None = None,
        nodata: float | None = None,
        scales: Mapping[str, float] | None = None,
        offsets: Mapping[str, float] | None = None,
        *,
        trusted: bool = True,
    ) -> None:
        super().__init__(path)
        self.trusted = trusted
        self.names = None if names is None else tuple(names)
        self.nodata, self.scales, self.offsets = nodata, scales or {}, offsets or {}

    @property
    def count(self) -> int:
        """The number of its bands."""
        return int(self._dataset.count)

    @property
    def described(self) -> bool:
        """Whether its band descriptions can serve as names: there is one per band and none twice."""
        found = self._dataset.descriptions
        return all(found) and len(set(found)) == len(found)

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """The bands by name.

        Raises:
            MapexError: there are no names, or another number than bands.
        """
        if self.names is not None:
            if len(self.names) != self.count:
                raise MapexError(
                    f"{self.path} has {self.count} bands, and {len(self.names)} names were given for them "
                    f"({', '.join(self.names)}). Give one per band, in stored order."
                )
            return self.names
        if self.described:
            return tuple(self._dataset.descriptions)
        if self.count == 1:
            return (ending(self.path),)
        raise MapexError(
            f"{self.path} does not name its {self.count} bands. Say what they are, in stored order: mapex tiles "
            "--bands SENSOR=A,B, or bands in data.reading of a config; or set band descriptions in the file."
        )

    @cached_property
    def grid(self) -> Grid:
        """Where its pixels lie.

        Raises:
            MapexError: the file does not say.
        """
        source = self._dataset
        return grid_of(self.path, source.crs, tuple(source.transform), source.shape, bool(source.gcps[0]))

    @property
    def declared(self) -> str:
        """The scale and offset that the file declares and that are not applied; empty where there is none."""
        scales, offsets = set(self._dataset.scales), set(self._dataset.offsets)
        if scales == {1.0} and offsets == {0.0}:
            return ""
        return f"scale {_numbers(scales)} and offset {_numbers(offsets)}"

    def read(self, bands: Sequence[str], part: Part) -> np.ndarray:
        """Pixels of a part."""
        window = Window(part.column, part.row, part.width, part.height)
        indexes = [self.bands.index(band) + 1 for band in bands]
        pixels = raster.pixels_of(self.path, self._dataset, indexes, bands, window)
        if self.nodata is not None:
            pixels[pixels == self.nodata] = np.nan
        for image, band in zip(pixels, bands, strict=True):
            image *= self.scales.get(band, 1.0)
            image += self.offsets.get(band, 0.0)
        return pixels

    @property
    def _dataset(self) -> DatasetReader:
        return self._opened

    def _open(self) -> DatasetReader:
        return raster.open_raster(self.path, trusted=self.trusted)


def ending(path: Path) -> str:
    """The band that a file's name ends in: B04 of B04.tif, T32TMT_20220101T103421_B04_10m.jp2 and HLS.v2.0.B04.tif."""
    return _SEPARATOR.split(_RESOLUTION.sub("", path.stem))[-1]


def _numbers(values: set[float]) -> str:
    return " or ".join(f"{value:g}" for value in sorted(values))
