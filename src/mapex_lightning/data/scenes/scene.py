"""Scenes: what one sensor saw at one place, in whatever files it lies, read on any grid.

Axes: C bands, H and W pixels of the grid wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from mapex_lightning.data.crs import name_of
from mapex_lightning.data.decibels import DECIBELS, decibels, power
from mapex_lightning.data.scenes.cube import Cube, is_cube
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.scenes.safe import is_safe, refuse_if_inside, sentinel2
from mapex_lightning.data.scenes.source import RasterFile, Source
from mapex_lightning.data.scenes.warp import Part, Resampling, onto
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import IGNORED


@dataclass(frozen=True)
class Reading:
    """How the values of a sensor's files are to be read; by default as they are stored.

    Values become ``stored * scale + offset``, and decibels of that where they are wanted: the way to the unit of a
    modality. Of ``.SAFE`` folders stored means ``reflectance x 10000``, with the offset of the baseline taken off.

    Args:
        bands: what the bands of the rasters are called, in stored order over all of them, whatever they say themselves.
        nodata: the stored value of invalid pixels, in addition to what the files declare.
        scale: the factor, such as 10000 for reflectance that is stored as a fraction.
        offset: the summand, such as -1000 for single Sentinel-2 files since processing baseline 04.00 (nodata is 0).
        decibels: 10 times the decimal logarithm, for backscatter that is stored as power; NaN where it is not positive.
    """

    bands: tuple[str, ...] | None = None
    nodata: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    decibels: bool = False

    def plain(self) -> dict[str, Any]:
        """What differs from the values as they are stored, in plain types."""
        return {key: value for key, value in asdict(self).items() if value != getattr(STORED, key)}

    def converted(self, values: np.ndarray) -> np.ndarray:
        """Values of the same shape, float32, in the unit that is wanted."""
        if (self.scale, self.offset) != (1.0, 0.0):
            values = values * np.float32(self.scale) + np.float32(self.offset)
        if self.decibels:
            values = decibels(values)
        return values.astype(np.float32, copy=False)


STORED = Reading()
"""Values and names as they are stored."""

LOUDEST = 300.0
"""More decibels than anything has, of which the power still is a float32."""


class Scene:
    """The rasters that hold one sensor's bands at one place.

    Making one opens nothing. Files are opened when they are first read, once per process, and stay open: a scene may be
    handed to worker processes, but not to threads.

    A band's name is, in this order: what `reading` says; the band description in the file; of a file with a single
    band, what its name ends in (``B04.tif``, ``S1_VV.tif``, ``T32TMT_20220101T103421_B04_10m.jp2``); of a cube, the
    variable.

    Args:
        files: rasters (GeoTIFF, COG, VRT), NetCDF files, Zarr stores or Sentinel-2 ``.SAFE`` folders. No band may occur
            twice.
        unnamed: what the bands of an only raster that does not describe them are called, if it has as many.
        reading: how values are to be read; conversions come after warping.
        unit: that of the modality. Decibels are warped as power: the mean of backscatter is not that of its logarithm.
        trusted: False for files of a data set, which may be rasters only and point to no others; who names a scene on
            the command line knows what it is.
    """

    def __init__(
        self,
        files: Sequence[Path],
        unnamed: Sequence[str] | None = None,
        reading: Reading = STORED,
        *,
        unit: str | None = None,
        trusted: bool = True,
    ) -> None:
        if not files:
            raise MapexError("A scene needs one file or more.")
        self.files = tuple(Path(file) for file in files)
        self.unnamed = None if unnamed is None else tuple(unnamed)
        self.reading = reading
        self.unit = unit
        self.trusted = trusted

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """The bands by name, in stored order.

        Raises:
            MapexError: a file cannot be opened or does not name its bands, or a band occurs twice.
        """
        return tuple(self._holders)

    @cached_property
    def grid(self) -> Grid:
        """The grid of its finest band.

        Raises:
            MapexError: as for `bands`, or a file does not say where it lies.
        """
        return self.grid_of(self.bands)

    @property
    def remarks(self) -> list[str]:
        """What a user should know: a scale or an offset that files declare and that is not applied."""
        rasters = [source for source in self._sources if isinstance(source, RasterFile)]
        return [f"{file.path} declares {said}, which is not applied" for file in rasters if (said := file.declared)]

    def grid_of(self, bands: Sequence[str]) -> Grid:
        """The grid of the finest of some bands.

        Raises:
            MapexError: a band is not there, or a file does not say where it lies.
        """
        return min((self._holder(band).grid for band in bands), key=lambda grid: grid.gsd)

    def read(self, bands: Sequence[str], grid: Grid, resampling: Resampling | None = None) -> np.ndarray:
        """Bands on a grid: as stored where the pixels coincide, else warped.

        Args:
            bands: C names, in the order wanted.
            grid: where to; it may reach beyond the scene.
            resampling: see `onto` in `data.scenes.warp`; by default bilinear, or averages onto coarser pixels.

        Returns:
            Shape (C, H, W), float32; NaN where there is no valid pixel.

        Raises:
            MapexError: a band is not there, a file is damaged or does not say where it lies, or its values cannot be
                decibels.
        """
        out = np.empty((len(bands), grid.height, grid.width), dtype=np.float32)
        holders = [self._holder(band) for band in bands]
        for source in dict.fromkeys(holders):
            rows = [row for row, holder in enumerate(holders) if holder is source]
            held = [bands[row] for row in rows]
            if self._in_decibels and resampling != "nearest" and source.grid.offset(grid) is None:
                read = partial(self._power, source, held)
                out[rows] = decibels(onto(grid, source.grid, read, len(held), resampling))
            else:
                read = partial(source.read, held)
                out[rows] = self.reading.converted(onto(grid, source.grid, read, len(held), resampling))
        return out

    @property
    def _in_decibels(self) -> bool:
        """Whether values are handed over in decibels, whose mean is not that of what was measured."""
        return self.reading.decibels or self.unit == DECIBELS

    def _power(self, source: Source, bands: Sequence[str], part: Part) -> np.ndarray:
        """Pixels of a part, which are handed over in decibels, as power."""
        values = self.reading.converted(source.read(bands, part))
        loudest = np.max(values, initial=-np.inf, where=np.isfinite(values))
        if loudest > LOUDEST:
            raise MapexError(
                f"{source.path} holds {loudest:.4g}, which is nothing in decibels. Say what its values are with "
                "--nodata, --scale, --offset and --decibels of mapex tiles, or data.reading of a config."
            )
        return power(values)

    def read_classes(self, grid: Grid) -> np.ndarray:
        """The only band as class indexes on a grid, each from the nearest pixel.

        Returns:
            Shape (H, W), int64; `IGNORED` where there is no valid pixel.

        Raises:
            MapexError: there are several bands, values are no whole numbers, or a file cannot be read.
        """
        if len(self.bands) != 1:
            raise MapexError(f"{self.files[0]} must have one band of class indexes; found {', '.join(self.bands)}.")
        values = self.read(self.bands, grid, "nearest")[0]
        valid = np.isfinite(values)
        if not np.array_equal(values[valid], np.round(values[valid])):
            raise MapexError(f"{self.files[0]} must hold whole class indexes; found fractions. Declare its nodata.")
        return np.where(valid, values, IGNORED).astype(np.int64)

    def _holder(self, band: str) -> Source:
        """The source that holds a band."""
        if band not in self._holders:
            shown = ", ".join(str(file) for file in self.files)
            raise unknown(
                "band",
                band,
                self._holders,
                f"Looked in {shown}; if its bands are called otherwise, say what they are, in stored order: "
                "mapex tiles --bands SENSOR=A,B, or bands in data.reading of a config",
            )
        return self._holders[band]

    @cached_property
    def _holders(self) -> dict[str, Source]:
        holders: dict[str, Source] = {}
        for source in self._sources:
            for band in source.bands:
                if band in holders:
                    raise MapexError(
                        f"Band {band} is both in {holders[band].path} and in {source.path}. Give one of them, or make "
                        "a mosaic of both with gdalbuildvrt."
                    )
                holders[band] = source
        return holders

    @cached_property
    def _sources(self) -> list[Source]:
        sources = [source for file in self.files for source in self._found_in(file)]
        rasters = [source for source in sources if isinstance(source, RasterFile) and source.names is None]
        if self.reading.bands is not None:
            self._give_names(rasters, self.reading.bands)
        elif self.unnamed is not None and len(sources) == len(rasters) == 1:
            (only,) = rasters
            if not only.described and only.count == len(self.unnamed):
                only.names = self.unnamed
        return sources

    def _give_names(self, rasters: Sequence[RasterFile], names: Sequence[str]) -> None:
        """Deals names out to the bands of rasters."""
        count = sum(file.count for file in rasters)
        if count != len(names):
            raise MapexError(
                f"{len(names)} band names were given ({', '.join(names)}) for {count} bands in "
                f"{', '.join(str(file.path) for file in rasters) or 'no raster'}. Give one per band, in stored order."
            )
        for file in rasters:
            file.names, names = tuple(names[: file.count]), names[file.count :]

    def _found_in(self, path: Path) -> Sequence[Source]:
        """The sources that a path stands for."""
        if not self.trusted:
            return [RasterFile(path, nodata=self.reading.nodata, trusted=False)]
        if is_safe(path):
            return sentinel2(path)
        if is_cube(path):
            return [Cube(path, self.reading.nodata)]
        if path.suffix == ".zip":
            raise MapexError(f"{path} is an archive. Unpack it and give what is inside.")
        refuse_if_inside(path)
        return [RasterFile(path, nodata=self.reading.nodata)]


def how_read(modality: Modality, scene: Scene, grid: Grid) -> str:
    """One line on how a scene becomes pixels of a modality on a grid, to be compared with what is in the files.

    Raises:
        MapexError: a band is not there, or a file does not say where it lies.
    """
    stored = scene.grid_of(modality.bands)
    how = "as stored" if stored.offset(grid) is not None else "warped"
    name, goal = name_of(stored.crs), name_of(grid.crs)
    steps = [f"x {scene.reading.scale:g}"] if scene.reading.scale != 1 else []
    steps += [f"{scene.reading.offset:+g}"] if scene.reading.offset else []
    steps += ["in decibels"] if scene.reading.decibels else []
    values = f", values {' '.join(steps)}" if steps else ""
    return (
        f"{modality.name}: {' '.join(modality.bands)}, {name} at {stored.gsd:.4g} m -> {goal} at {modality.gsd:g} m, "
        f"{how}{values}, read as {modality.unit}"
    )
