"""Small shards in the published layout of TerraMesh and SSL4EO-S12 v1.1, written with webdataset's own writer."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import zarr
from zarr.storage import MemoryStore

from mapex_lightning.modality import S2_BANDS

BANDS = {
    "S2L2A": S2_BANDS,
    "S2L1C": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"),
    "S1GRD": ("vv", "vh"),
    "S1RTC": ("vv", "vh"),
    "S2RGB": ("red", "green", "blue"),
    "DEM": ("DEM",),
    "NDVI": ("NDVI",),
    "LULC": ("LULC",),
}
TYPES = {"S1GRD": "f2", "S1RTC": "f2", "S2RGB": "u1", "NDVI": "f2", "LULC": "u1"}


def zarr_zip(bands: np.ndarray, names: Iterable[str]) -> bytes:
    """A Zarr zip (version 2, consolidated) of ``bands`` (time, band, y, x), a chunk per time, as xarray writes it."""
    blosc = import_module("numcodecs").Blosc(cname="lz4")
    store = MemoryStore()
    group = zarr.create_group(store, zarr_format=2)
    for name, values, dimensions in (
        ("bands", bands, ["time", "band", "y", "x"]),
        ("band", np.array(list(names)), ["band"]),
        ("center_lat", np.array(47.0), []),
    ):
        chunks = (1, *values.shape[1:]) if name == "bands" else values.shape
        array = group.create_array(name, data=values, chunks=chunks, compressors=blosc)
        array.attrs["_ARRAY_DIMENSIONS"] = dimensions
    zarr.consolidate_metadata(store)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in store._store_dict.items():
            archive.writestr(name, content.to_bytes())
    return file.getvalue()


def write_shard(path: Path, samples: Mapping[str, bytes]) -> None:
    """A tar of samples by key, each one member KEY.zarr.zip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with import_module("webdataset").TarWriter(str(path)) as writer:
        for key, content in samples.items():
            writer.write({"__key__": key, "zarr.zip": content})


def image(folder: str, number: int, times: int = 1, side: int = 16) -> np.ndarray:
    """Pixels (time, band, y, x) that tell sample, time, band and place apart."""
    count = len(BANDS[folder])
    if folder == "LULC":
        return np.full((1, 1, side, side), 1 + number % 9, dtype="u1")
    base = number + 20 * np.arange(times)[:, None, None, None] + 3 * np.arange(count)[:, None, None]
    return (base + np.arange(side * side).reshape(side, side) % 7).astype(TYPES.get(folder, "i2"))


@cache
def sample(folder: str, number: int, times: int = 1) -> bytes:
    """The Zarr zip of an `image`."""
    return zarr_zip(image(folder, number, times), BANDS[folder])


def write_set(
    base: Path, split: str, name: str, folders: Iterable[str], numbers: Iterable[int], times: int = 1
) -> list[str]:
    """Shards of one name, a tar per folder, and the keys of their samples."""
    keys = {number: f"ssl4eos12_{split}_{number:07d}" for number in numbers}
    for folder in folders:
        several = 1 if folder in ("DEM", "LULC") else times
        samples = {key: sample(folder, number, several) for number, key in keys.items()}
        write_shard(base / split / folder / f"{name}.tar", samples)
    return list(keys.values())
