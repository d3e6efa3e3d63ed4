"""What is taken out of a sample of another library: the pixels of a sensor, and a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mapex_lightning.data.codes import class_indexes
from mapex_lightning.data.decibels import decibels
from mapex_lightning.data.tileset import Task
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.tiles import IGNORED, Target


@dataclass(frozen=True)
class Channels:
    """Where the samples of torchgeo hold one sensor, and what its values are.

    A value that is handed over is ``stored * scale + offset``, and 10 log10 of that where ``decibels`` is set.

    Args:
        bands: the names of its channels, in their order in the sample.
        unit: what a value that is handed over is, in the words of `Modality.unit`.
        gsd: ground sampling distance in metres per pixel.
        key: the key of the sample. Sensors that name the same key follow one another in it, in the config's order,
            and together name all its channels.
        date: which image of a time series (dates, channels, rows, columns) to take, from 0 on; -1 is the last.
        scale: see above.
        offset: see above.
        decibels: the values are linear power and are handed over in dB.
        nodata: the stored value of invalid pixels; pixels that are not finite are invalid anyway.
        optional: samples may lack the key; otherwise that is an error.
        dataset: another data set of torchgeo whose samples of the same numbers show the same places.
        arguments: more arguments of its constructor.
    """

    bands: tuple[str, ...]
    unit: str
    gsd: float
    key: str = "image"
    date: int | None = None
    scale: float = 1.0
    offset: float = 0.0
    decibels: bool = False
    nodata: float | None = None
    optional: bool = False
    dataset: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise MapexError(f"A sensor of TorchGeo names each of its channels once in bands; found {self.bands}.")


def pixels_of(
    sample: Mapping[str, Any], channels: Channels, together: Sequence[Channels], owner: str
) -> np.ndarray | None:
    """The pixels of one sensor.

    Args:
        sample: arrays or tensors by key.
        channels: where the sensor is.
        together: the sensors that share its key, in their order in the sample, itself among them.
        owner: the tile, for messages.

    Returns:
        Shape (C, H, W), float32, a new array; invalid pixels are NaN. None where the sensor is absent: the sample lacks
        an optional key, or no pixel is valid.

    Raises:
        MapexError: the sample lacks the key, or has other axes or another number of channels.
    """
    if channels.key not in sample:
        if channels.optional:
            return None
        raise unknown("key", channels.key, _arrays(sample), "Name one of them as the sensor's key", f"in {owner}")
    stored = np.asarray(sample[channels.key]).astype(np.float32, copy=False)
    if channels.date is not None:
        if stored.ndim != 4 or not -len(stored) <= channels.date < len(stored):
            raise MapexError(
                f"The key {channels.key} of {owner} must hold dates, channels, rows and columns, and date "
                f"{channels.date}; found shape {stored.shape}. Leave date out if it is no time series."
            )
        stored = stored[channels.date]
    stored = stored[None] if stored.ndim == 2 else stored
    names = [band for one in together for band in one.bands]
    if stored.ndim != 3 or len(stored) != len(names):
        series = " A time series needs date, the number of the image to take." if stored.ndim == 4 else ""
        raise MapexError(
            f"The key {channels.key} of {owner} must hold {len(names)} channels ({', '.join(names)}), rows and "
            f"columns; found shape {stored.shape}. Name every channel in the bands of the sensors.{series}"
        )
    first = sum(len(one.bands) for one in together[: together.index(channels)])
    return _valid(stored[first : first + len(channels.bands)], channels)


def target_of(
    sample: Mapping[str, Any], key: str, task: Task, values: Sequence[int], ignore: Sequence[int], owner: str
) -> Target:
    """The label of a sample.

    Args:
        sample: arrays or tensors by key.
        key: where the label is.
        task: what it is.
        values: the stored value of each class, by index.
        ignore: values of masks that are no class.
        owner: the tile, for messages.

    Raises:
        MapexError: the sample lacks the key, or what it holds is no label of this task and these classes.
    """
    if key not in sample:
        raise unknown("key", key, _arrays(sample), "Name one of them as target", f"in {owner}")
    stored = np.asarray(sample[key])
    match task:
        case "multiclass":
            if stored.size != 1:
                raise MapexError(f"The label {key} of {owner} must be one class; found shape {stored.shape}.")
            return int(_indexes(stored.reshape(1, 1), values, (), key, owner)[0, 0])
        case "multilabel":
            if stored.shape != (len(values),) or not np.isin(stored, (0, 1)).all():
                raise MapexError(
                    f"The label {key} of {owner} must be 0 or 1 for each of {len(values)} classes; found shape "
                    f"{stored.shape} and {', '.join(map(str, np.unique(stored)[:5].tolist()))}."
                )
            return stored.astype(np.float32)
        case "segmentation":
            mask = stored[0] if stored.ndim == 3 and len(stored) == 1 else stored
            if mask.ndim != 2:
                raise MapexError(f"The mask {key} of {owner} must have rows and columns; found shape {stored.shape}.")
            return _indexes(mask, values, ignore, key, owner)


def _valid(stored: np.ndarray, channels: Channels) -> np.ndarray | None:
    """The values in the sensor's unit, NaN where they are invalid; None where all are."""
    invalid = ~np.isfinite(stored) if channels.nodata is None else ~np.isfinite(stored) | (stored == channels.nodata)
    pixels: np.ndarray = stored * np.float32(channels.scale) + np.float32(channels.offset)
    if channels.decibels:
        pixels = decibels(pixels)
    pixels[invalid] = np.nan
    return None if np.isnan(pixels).all() else pixels


def _indexes(stored: np.ndarray, values: Sequence[int], ignore: Sequence[int], key: str, owner: str) -> np.ndarray:
    """Class indexes (H, W) int64 of stored values; what is ignored and what is NaN becomes `IGNORED`."""
    codes = {value: index for index, value in enumerate(values)} | dict.fromkeys(ignore, IGNORED)

    def refusal(value: str) -> MapexError:
        return MapexError(
            f"The label {key} of {owner} holds {value}, which stands for no class: classes are stored as "
            f"{', '.join(map(str, values))}. Correct classes and values, or name it in ignore if it is no class."
        )

    return class_indexes(stored, codes, refusal)


def _arrays(sample: Mapping[str, Any]) -> list[str]:
    return [key for key, value in sample.items() if hasattr(value, "shape")]
