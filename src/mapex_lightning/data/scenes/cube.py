"""Data cubes: NetCDF and Zarr, whose variables or bands are read through xarray.

The coordinate system is that of the CF conventions: a grid mapping with ``crs_wkt`` or ``spatial_ref``, as rioxarray,
odc-geo and GDAL write it. Packing (``scale_factor``, ``add_offset``, ``_FillValue``) is undone, as every reader of
these formats does. The attribute ``nodata`` of a variable, which odc-stac writes, is a stored value that is invalid.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from mapex_lightning.data.scenes.grid import Grid, grid_of
from mapex_lightning.data.scenes.source import Source
from mapex_lightning.data.scenes.warp import Part
from mapex_lightning.errors import MapexError

AXES = (("y", "x"), ("latitude", "longitude"), ("lat", "lon"), ("northing", "easting"))
"""Names of the two dimensions of a map."""

EVEN = 0.1
"""Coordinates may be this share of a pixel off, as those stored in single precision are."""

PACKING = ("_FillValue", "missing_value", "_Unsigned", "scale_factor", "add_offset")
"""How stored values become others, and which are invalid."""

_NETCDF = (".nc", ".nc4", ".cdf")
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")


def is_cube(path: Path) -> bool:
    """Whether a path is a NetCDF file or a Zarr store."""
    return path.suffix in _NETCDF or (path.is_dir() and any((path / name).exists() for name in _ZARR))


class Cube(Source):
    """Bands of a cube: its variables over y and x, or the bands that a text coordinate of a further dimension names.

    Args:
        path: a NetCDF file or a Zarr store.
        nodata: the stored value of invalid pixels, in addition to what the variables declare.
    """

    def __init__(self, path: Path, nodata: float | None = None) -> None:
        super().__init__(path)
        self.nodata = nodata

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """The bands by name, variables in alphabetical order.

        Raises:
            MapexError: a variable has a further dimension that does not name bands.
        """
        return tuple(self._places)

    @cached_property
    def grid(self) -> Grid:
        """Where its pixels lie; rows run from north to south, however they are stored.

        Raises:
            MapexError: there is no coordinate system, or its coordinates are not evenly spaced.
        """
        y, x = self._axes
        left, right = self._spacing(x)
        top, down = self._spacing(y)
        if down > 0:
            top += down * (self._cube.sizes[y] - 1)
        if right < 0:
            raise MapexError(f"{self.path}: {x} runs from east to west. Sort it, for instance with .sortby({x!r}).")
        transform = (right, 0.0, left - right / 2, 0.0, -abs(down), top + abs(down) / 2)
        return grid_of(self.path, self._crs(), transform, (self._cube.sizes[y], self._cube.sizes[x]))

    def read(self, bands: Sequence[str], part: Part) -> np.ndarray:
        """Pixels of a part."""
        y, x = self._axes
        height, upward = self._cube.sizes[y], self._spacing(y)[1] > 0
        first = height - part.row - part.height if upward else part.row
        at = {y: slice(first, first + part.height), x: slice(part.column, part.column + part.width)}
        images = []
        for band in bands:
            variable, further = self._places[band]
            try:
                image = self._cube[variable].isel({**further, **at}).transpose(y, x).to_numpy()
            except (OSError, RuntimeError, ValueError) as error:
                raise MapexError(f"{self.path} cannot be read (band {band}; {error}). Fetch it again.") from error
            pixels = image.astype(np.float32)
            for marker in self._markers[variable]:
                pixels[image == marker] = np.nan
            images.append(pixels[::-1] if upward else pixels)
        return np.stack(images)

    @cached_property
    def _markers(self) -> dict[Hashable, list[np.ndarray]]:
        """What invalid stored values are once a variable is unpacked, where they are not among its fill values."""
        return {name: self._unpacked(name) for name, _ in self._places.values()}

    def _unpacked(self, name: Hashable) -> list[np.ndarray]:
        """The nodata values of a variable as xarray reads them."""
        variable = self._cube[name]
        packing = {key: its for key in PACKING if (its := variable.encoding.get(key)) is not None}
        kind = np.dtype(variable.encoding.get("dtype", variable.dtype))
        found = (_stored(nodata, kind) for nodata in (self.nodata, variable.attrs.get("nodata")))
        cubes = (xarray.Dataset({"nodata": ((), stored, packing)}) for stored in found if stored is not None)
        return [xarray.decode_cf(cube, decode_times=False)["nodata"].to_numpy() for cube in cubes]

    @cached_property
    def _axes(self) -> tuple[str, str]:
        """The dimensions of the map."""
        for y, x in AXES:
            if y in self._cube.coords and x in self._cube.coords:
                return y, x
        known = "; ".join(f"{y} and {x}" for y, x in AXES)
        raise MapexError(
            f"{self.path} has the dimensions {', '.join(map(str, self._cube.sizes))} and no coordinates of a map. "
            f"Name them {known}."
        )

    @cached_property
    def _places(self) -> dict[str, tuple[Hashable, dict[Hashable, int]]]:
        """Per band its variable, and its place along further dimensions."""
        y, x = self._axes
        places: dict[str, tuple[Hashable, dict[Hashable, int]]] = {}
        for name, variable in sorted(
            self._cube.data_vars.items(), key=lambda item: str(item[0])
        ):  # as Zarr has no order
            if not {y, x} <= set(variable.dims):
                continue
            single: dict[Hashable, int] = {d: 0 for d in variable.dims if d not in (y, x) and variable.sizes[d] == 1}
            several = [dimension for dimension in variable.dims if dimension not in (y, x) and dimension not in single]
            named = {name: index for d in several for index, name in enumerate(self._names(d))}
            if len(several) > 1 or (several and not named):
                first = next((d for d in several if not self._names(d)), several[0])
                raise MapexError(
                    f"{self.path}: {name} has {variable.sizes[first]} entries along {first}, which does not name "
                    f"bands. Choose one, for instance with .isel({first}=0), and write it again."
                )
            found = {band: {**single, several[0]: index} for band, index in named.items()} or {str(name): single}
            for band, further in found.items():
                if band in places:
                    raise MapexError(f"{self.path} has several bands named {band}. Keep one variable of them.")
                places[band] = (name, further)
        return places

    def _names(self, dimension: Hashable) -> list[str]:
        """What a text coordinate calls the entries of a dimension; nothing where there is none."""
        if dimension not in self._cube.coords:
            return []
        names = self._cube.coords[dimension].to_numpy().tolist()
        return names if all(isinstance(name, str) for name in names) else []

    def _spacing(self, dimension: str) -> tuple[float, float]:
        """The first coordinate of a dimension and the step to the next one."""
        values = self._cube.coords[dimension].to_numpy().astype(np.float64)
        even = np.linspace(values[0], values[-1], len(values))
        step = float(even[1] - even[0]) if len(values) > 1 else 0.0
        if not step or np.abs(values - even).max() > EVEN * abs(step):
            raise MapexError(
                f"{self.path}: {dimension} is not evenly spaced, and pixels of one size are wanted. "
                "Interpolate it onto a regular grid."
            )
        return float(values[0]), step

    def _crs(self) -> CRS | None:
        """The coordinate system that a grid mapping says; latitude and longitude without one are WGS 84."""
        for name in (*self._cube.coords, *self._cube.data_vars):
            attributes = self._cube[name].attrs
            text = attributes.get("crs_wkt") or attributes.get("spatial_ref")
            if text:
                return self._parsed(text)
        if text := self._cube.attrs.get("crs"):
            return self._parsed(text)
        degrees = [str(self._cube[axis].attrs.get("units", "")) for axis in self._axes]
        if degrees[0].startswith("degrees") and degrees[1].startswith("degrees"):
            return CRS.from_epsg(4326)
        return None

    def _parsed(self, text: str) -> CRS:
        try:
            return CRS.from_string(text)
        except CRSError as error:
            raise MapexError(f"{self.path} names the coordinate system {text[:60]!r}, which is none.") from error

    @property
    def _cube(self) -> xarray.Dataset:
        found: xarray.Dataset = self._opened
        return found

    def _open(self) -> xarray.Dataset:
        if not self.path.exists():
            raise MapexError(f"There is no cube {self.path}. Check the path.")
        options = {"engine": "netcdf4"} if self.path.is_file() else {"engine": "zarr", "consolidated": False}
        try:
            return xarray.open_dataset(self.path, decode_times=False, chunks=None, **options)
        except (ImportError, ValueError) as error:
            raise MapexError(
                f"{self.path} cannot be opened ({error}). NetCDF and Zarr need `pip install 'mapex-lightning[cubes]'`."
            ) from error
        except (OSError, RuntimeError, KeyError) as error:
            raise MapexError(f"{self.path} cannot be opened as a cube ({error}). Fetch it again.") from error


def _stored(nodata: Any, kind: np.dtype[Any]) -> np.ndarray | None:
    """A nodata value in the type of a file; None where it is no number, or none of that type."""
    try:
        number = float(np.asarray(nodata, dtype=np.float64).item())
    except (TypeError, ValueError):
        return None
    if np.issubdtype(kind, np.integer):
        limits = np.iinfo(kind)
        if not (limits.min <= number <= limits.max and number == round(number)):
            return None
    return np.array(number).astype(kind)
