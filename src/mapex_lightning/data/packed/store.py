"""The packed format: which files a packed store has, and how pixels become small numbers without loss.

A store is a folder of NumPy files that any program can map into memory:

* ``SENSOR-00000.npy``, ``SENSOR-00001.npy``, ...: the pixels of one sensor, (tiles, C, H, W), and ``mask-00000.npy``,
  ...: class masks (tiles, H, W).
* ``tiles.npy``: a row per tile: its name, split, label, place, and where in the files above its pixels are.
* ``index.json``: what all of it means. It is written last, so a folder without one is no store.
* ``checksums.sha256``: for ``sha256sum -c``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mapex_lightning.data.tileset import Task
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality

FORMAT = 1
INDEX = "index.json"
TABLE = "tiles.npy"
MASK = "mask"
"""What stands where a sensor's name stands, for the files and the rows of class masks."""

_NAME = re.compile(r"[^/\\]+-\d+\.npy")


class Facts(NamedTuple):
    """What decides how small the numbers of some pixels can be.

    Attributes:
        low: the smallest valid value; 0 where there is none.
        high: the largest.
        whole: whether every valid value is a whole number.
        holes: whether a pixel is invalid.
    """

    low: float
    high: float
    whole: bool
    holes: bool

    @classmethod
    def of(cls, pixels: np.ndarray) -> Facts:
        """Of float32 pixels; NaN is invalid."""
        invalid = np.isnan(pixels)
        holes = bool(invalid.any())
        valid = np.where(invalid, np.float32(0), pixels) if holes else pixels
        low, high = float(valid.min()), float(valid.max())
        # Compared as bits: a negative zero or an infinity is no whole number either.
        whole = -(2**24) < low <= high < 2**24 and np.array_equal(
            valid.astype(np.int32).astype(np.float32).view(np.int32), np.ascontiguousarray(valid).view(np.int32)
        )
        return cls(low, high, whole, holes)

    def joined(self, other: Facts) -> Facts:
        """Of these and other pixels together."""
        return Facts(
            min(self.low, other.low),
            max(self.high, other.high),
            self.whole and other.whole,
            self.holes or other.holes,
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest that holds every value and, where pixels are invalid, a code that no value has."""
        for kind in (np.uint8, np.uint16, np.int16):
            bounds, code = np.iinfo(kind), nodata(np.dtype(kind), self.holes)
            low, high = bounds.min + (code == bounds.min), bounds.max - (code == bounds.max)
            if self.whole and low <= self.low and self.high <= high:
                return np.dtype(kind)
        return np.dtype(np.float32)


def nodata(dtype: np.dtype[Any], holes: bool) -> int | None:
    """The code of invalid pixels: the largest unsigned or the smallest signed number. In float32 NaN needs none."""
    if not holes or dtype.kind == "f":
        return None
    bounds = np.iinfo(dtype)
    return int(bounds.max if dtype.kind == "u" else bounds.min)


def encoded(pixels: np.ndarray, dtype: np.dtype[Any], code: int | None) -> np.ndarray:
    """Float32 pixels as they are stored."""
    if code is not None:
        pixels = np.where(np.isnan(pixels), np.float32(code), pixels)
    return pixels.astype(dtype, copy=False)


def decoded(stored: np.ndarray, code: int | None) -> np.ndarray:
    """Stored numbers as float32 pixels of their own: the inverse of `encoded`."""
    pixels = stored.astype(np.float32)
    if code is not None:
        pixels[stored == code] = np.nan
    return pixels


@dataclass(frozen=True)
class Files:
    """The stored pixels of one sensor, or the masks.

    Attributes:
        dtype: of the numbers, such as ``uint16``.
        shape: of a tile's pixels.
        nodata: the number that says that a pixel is invalid; None where no pixel is or NaN says so.
        tiles: per file the tiles in it, in the order in which rows count on.
        modality: what the pixels mean; None for masks.
    """

    dtype: str
    shape: tuple[int, ...]
    nodata: int | None
    tiles: Mapping[str, int]
    modality: Modality | None = None


@dataclass(frozen=True)
class Index:
    """What a store says of itself.

    Attributes:
        source: the data set that was packed, for people.
        task: what the labels are.
        classes: their names.
        crs: the coordinate systems as WKT, by the number that the table gives.
        sensors: the stored pixels by name of their modality.
        mask: the stored masks, if the labels are such.
        plan: a digest of each thing that decides what was packed and how, by which the same command knows that it is
            done; empty where it was packed before there were such.
    """

    source: str
    task: Task
    classes: tuple[str, ...]
    crs: tuple[str, ...]
    sensors: Mapping[str, Files]
    mask: Files | None
    plan: Mapping[str, str]

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, root: Path) -> Index:
        """Of a store.

        Raises:
            MapexError: the folder is no whole store, or one of another format.
        """
        path = root / INDEX
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MapexError(
                f"{root} holds no packed tiles: it has no {INDEX}, which is written when all else is there. "
                f"Pack some, or go on with what was interrupted: mapex pack --config TILES --out {root}."
            ) from error
        except (OSError, ValueError) as error:
            raise MapexError(f"{path} cannot be read ({error}). Fetch the store again or pack it anew.") from error
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise MapexError(
                f"{path} is of another format than {FORMAT}, the one this version reads. Pack the tiles anew."
            )
        try:
            sensors = {
                name: _files(files, Modality.of(files["modality"])) for name, files in found.pop("sensors").items()
            }
            mask = found.pop("mask")
            plan = found.pop("plan")
            classes, crs = tuple(found.pop("classes")), tuple(found.pop("crs"))
            return cls(
                **found,
                classes=classes,
                crs=crs,
                sensors=sensors,
                mask=None if mask is None else _files(mask, None),
                plan=plan if isinstance(plan, dict) else {},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MapexError(f"{path} lacks or misnames an entry ({error}). Pack the tiles anew.") from error


def _files(found: Mapping[str, Any], modality: Modality | None) -> Files:
    """Of a sensor, or the masks, of a store that may come from anyone: its files lie in it."""
    files = Files(**{**found, "shape": tuple(found["shape"]), "modality": modality})
    for name, tiles in files.tiles.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no file of a store")
        if not isinstance(tiles, int) or tiles < 1:
            raise ValueError(f"{name} holds {tiles} tiles")
    if files.nodata is not None and files.nodata not in (nodata(np.dtype(files.dtype), holes=True), None):
        raise ValueError(f"nodata is {files.nodata} in {files.dtype}")
    return files


def table_type(sensors: Sequence[str], task: Task, classes: int, name: int) -> np.dtype[Any]:
    """The columns of the table of tiles.

    Args:
        sensors: their names.
        task: what the labels are.
        classes: how many.
        name: bytes of the longest name of a tile in UTF-8.

    Returns:
        ``name``; ``split`` (index in `SPLITS`); ``crs`` (number, -1 without a place) and ``transform``; per sensor S
        ``S.row`` (-1 where it is absent) and ``S.holes``; and the label: ``label`` (class, -1 for none), ``labels``
        (multi-hot) with ``labelled``, or ``mask.row``.
    """
    columns: list[Any] = [("name", f"S{name}"), ("split", "u1"), ("crs", "<i4"), ("transform", "<f8", (6,))]
    for sensor in sensors:
        columns += [(f"{sensor}.row", "<i8"), (f"{sensor}.holes", "?")]
    match task:
        case "multiclass":
            columns.append(("label", "<i8"))
        case "multilabel":
            columns += [("labels", "u1", (classes,)), ("labelled", "?")]
        case "segmentation":
            columns.append((f"{MASK}.row", "<i8"))
    return np.dtype(columns)
