"""BigEarthNet v2 (reBEN): half a million pairs of Sentinel-1 and Sentinel-2 patches with 19 labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import repeat

from mapex_lightning.data.sets.sensors import Sensor, holds, sensor_of
from mapex_lightning.data.tileset import SPLITS, Split, TileSet
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import S2_BANDS, Modality
from mapex_lightning.tiles import Tile

CLASSES = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)
"""The official 19 classes in the order of the CORINE codes, as in the authors' papers."""

SENSORS = {"s1": Sensor(("VV", "VH"), "dB", 10.0), "s2": Sensor(S2_BANDS, "reflectance x 10000", 10.0)}

_SIDES = (120, 60, 20)
_SIDE = max(_SIDES)
_METADATA = "metadata.parquet"
_SNOW_AND_CLOUD = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_WHEEL = Path("the wheel configilm")
_SAMPLE = "pip install --no-deps configilm==0.7.1"
_EXTRA = "pip install 'mapex-lightning[bigearthnet]'"


class _Patches(NamedTuple):
    """The metadata by column; N patches. No Python object per label or split: there are half a million rows."""

    row: dict[str, int]
    s1_name: Any
    labels: np.ndarray
    split: np.ndarray


class BigEarthNet(TileSet):
    """BigEarthNet v2 (Clasen et al. 2024, arXiv:2407.03653) from the LMDB that rico-hdl writes.

    Each patch is 1,200 m wide: Sentinel-1 backscatter in dB and the co-registered level 2A surface reflectance x 10000
    of Sentinel-2, whose 20 m and 60 m bands are repeated onto the 10 m grid (120 x 120). The 19-class multi-label and
    the splits are the official ones. The LMDB holds no georeference.

    Modalities: s1, s2 and any others whose bands are among theirs.

    Args:
        root: the folder that holds, itself or up to two levels down, metadata.parquet and the LMDB (any folder with a
            data.mdb). None takes the 24 real pairs that the wheel configilm 0.7.1 carries, 18 of them without snow
            and cloud: enough to try things out.
        snow_and_cloud: adds the patches with seasonal snow, cloud or shadow, which the authors keep apart.
    """

    def __init__(self, root: str | Path | None = None, snow_and_cloud: bool = False) -> None:
        self.task = "multilabel"
        self.root = _WHEEL if root is None else Path(root)
        self.snow_and_cloud = snow_and_cloud

    @property
    def classes(self) -> tuple[str, ...]:
        """The 19 classes."""
        return CLASSES

    def offers(self, modality: Modality) -> bool:
        """Whether its bands are among those of one sensor, in the same unit."""
        return any(holds(sensor, modality) for sensor in SENSORS.values())

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        """The Sentinel-2 patch ids of an official split; every patch has both sensors.

        Raises:
            MapexError: the files or an optional dependency are not there, or a modality is not offered.
        """
        for modality in modalities or ():
            sensor_of(modality, SENSORS, "BigEarthNet")
        wanted = SPLITS.index(split)
        return [key for key, row in self._patches.row.items() if self._patches.split[row] == wanted]

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One patch: (C, 120, 120) per modality.

        Raises:
            MapexError: the LMDB lacks the patch or a band, or the key or a modality is unknown.
        """
        row = self._row(key)
        stored: dict[str, dict[str, np.ndarray]] = {}
        images = {}
        for modality in modalities:
            sensor = sensor_of(modality, SENSORS, "BigEarthNet")
            if sensor not in stored:
                stored[sensor] = self._stored(key if sensor == "s2" else self._patches.s1_name[row].as_py())
            images[modality.name] = np.stack([self._band(key, band, stored[sensor]) for band in modality.bands])
        return Tile(key, images, self.label(key))

    def label(self, key: str) -> np.ndarray:
        """The multi-hot label (19,) float32.

        Raises:
            MapexError: the key is unknown.
        """
        label: np.ndarray = self._patches.labels[self._row(key)].astype(np.float32)
        return label

    @cached_property
    def _patches(self) -> _Patches:
        """The metadata, read once."""
        files = [self._metadata] + [self._metadata.with_name(_SNOW_AND_CLOUD)] * self.snow_and_cloud
        return _read_metadata(files)

    @cached_property
    def _metadata(self) -> Path:
        return _sample_metadata() if self.root == _WHEEL else _only_one(self.root, _METADATA)

    @cached_property
    def _lmdb(self) -> Path:
        """The LMDB folder: below the metadata's folder, or else anywhere below the root."""
        beside = _found(self._metadata.parent, "data.mdb")
        return beside[0].parent if len(beside) == 1 else _only_one(self.root, "data.mdb").parent

    def _row(self, key: str) -> int:
        if key not in self._patches.row:
            raise MapexError(f"{self._metadata} has no patch {key!r}. Use the patch ids of its column patch_id.")
        return self._patches.row[key]

    def _stored(self, name: str) -> dict[str, np.ndarray]:
        """The bands of one sensor of a patch, each at its own resolution."""
        _imported("safetensors.numpy")
        safetensors = _imported("safetensors")
        with _environment(self._lmdb).begin() as transaction:
            value = transaction.get(name.encode())
        if value is None:
            raise MapexError(
                f"The LMDB {self._lmdb} has no patch {name}, which the metadata lists. "
                "Encode it again with rico-hdl, giving it both the Sentinel-1 and the Sentinel-2 folder."
            )
        try:
            bands: dict[str, np.ndarray] = safetensors.numpy.load(value)
        except safetensors.SafetensorError as error:
            raise MapexError(
                f"Patch {name} in {self._lmdb} is damaged ({error}). Encode it again with rico-hdl."
            ) from error
        return bands

    def _band(self, key: str, band: str, stored: dict[str, np.ndarray]) -> np.ndarray:
        """One band on the 10 m grid: (120, 120) float32."""
        if band not in stored:
            raise MapexError(
                f"Patch {key} in {self._lmdb} has no band {band}; it has {', '.join(sorted(stored))}. "
                "Encode it again with rico-hdl."
            )
        if stored[band].shape not in [(side, side) for side in _SIDES]:
            raise MapexError(
                f"Patch {key} in {self._lmdb}: band {band} must have {', '.join(map(str, _SIDES))} rows and columns; "
                f"found {stored[band].shape}. Encode it again with rico-hdl."
            )
        times = _SIDE // len(stored[band])
        return repeat(stored[band].astype(np.float32), "h w -> (h a) (w b)", a=times, b=times)


def _read_metadata(files: Sequence[Path]) -> _Patches:
    """Reads columns, never rows."""
    table = _imported("pyarrow").concat_tables([_read_columns(file) for file in files]).combine_chunks()
    lengths = _imported("pyarrow.compute").list_value_length(table["labels"]).to_numpy()
    labels = np.zeros((len(table), len(CLASSES)), dtype=np.uint8)
    flat = _imported("pyarrow.compute").list_flatten(table["labels"])
    labels[np.repeat(np.arange(len(table)), lengths), _indexes(flat, CLASSES, "label")] = 1
    split = _indexes(table["split"], tuple(_SPLITS), "split")
    return _Patches(
        row={key: row for row, key in enumerate(table["patch_id"].to_pylist())},
        s1_name=table["s1_name"],
        labels=labels,
        split=np.array([SPLITS.index(name) for name in _SPLITS.values()], dtype=np.int8)[split],
    )


def _read_columns(file: Path) -> Any:
    """The columns of one file that are used, as text whatever way of storing text its writer chose."""
    parquet, arrow = _imported("pyarrow.parquet"), _imported("pyarrow")
    text = arrow.string()
    schema = arrow.schema({"patch_id": text, "labels": arrow.list_(text), "split": text, "s1_name": text})
    if not file.is_file():
        raise MapexError(f"BigEarthNet's metadata lacks {file}. Fetch it from doi:10.5281/zenodo.10891137.")
    try:
        stored = parquet.read_schema(file).names
        absent = [name for name in schema.names if name not in stored]
        if absent:
            raise MapexError(f"{file} has no column {absent[0]}. Fetch {file.name} of BigEarthNet v2.")
        return parquet.read_table(file, columns=schema.names).select(schema.names).cast(schema)
    except (arrow.ArrowException, OSError) as error:
        raise MapexError(f"{file} cannot be read ({error}). Fetch it again.") from error


def _indexes(column: Any, known: tuple[str, ...], what: str) -> np.ndarray:
    """The position of every value of a column among the known ones."""
    compute, arrow = _imported("pyarrow.compute"), _imported("pyarrow")
    found = compute.index_in(column, value_set=arrow.array(known))
    if found.null_count:
        stranger = column.filter(compute.is_null(found))[0].as_py()
        raise MapexError(f"BigEarthNet v2 has no {what} {stranger!r}. Known: {', '.join(known)}.")
    indexes: np.ndarray = found.to_numpy()
    return indexes


def _found(root: Path, name: str) -> list[Path]:
    """Files of a name in a folder or up to two levels down."""
    return sorted(path for pattern in (name, f"*/{name}", f"*/*/{name}") for path in root.glob(pattern))


def _only_one(root: Path, name: str) -> Path:
    found = _found(root, name)
    if len(found) == 1:
        return found[0]
    remedy = (
        "Give the folder of one data set as root."
        if found
        else "Fetch metadata.parquet from doi:10.5281/zenodo.10891137 and encode the patches with rico-hdl into an "
        f"LMDB beside it; or leave root out and run `{_SAMPLE}` for 24 real pairs."
    )
    listed = ", ".join(map(str, found)) or "none"
    raise MapexError(
        f"Wanted one {name} of BigEarthNet v2 in {root.absolute()} or up to two levels below; found {listed}. {remedy}"
    )


def _sample_metadata() -> Path:
    """The metadata file among those that the installed wheel lists; configilm itself is never imported."""
    try:
        files = metadata.files("configilm") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(f"BENv2/{_METADATA}"):
            return Path(str(file.locate()))
    raise MapexError(f"BigEarthNet without a root is the 24 real pairs of the wheel configilm: run `{_SAMPLE}`.")


_OPEN: dict[Path, tuple[int, Any]] = {}


def _environment(folder: Path) -> Any:
    """The LMDB, opened once per process: a second handle is an error, and one from before a fork is unsafe."""
    path = folder.resolve()
    process, environment = _OPEN.get(path, (0, None))
    if process != os.getpid():
        if environment is not None:
            environment.close()
        lmdb = _imported("lmdb")
        try:
            environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise MapexError(f"{path} cannot be opened as an LMDB ({error}). Encode it again with rico-hdl.") from error
        _OPEN[path] = (os.getpid(), environment)
    return environment


def _imported(name: str) -> Any:
    """A module of the extra, imported when it is needed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MapexError(f"BigEarthNet needs the Python package {name.partition('.')[0]}: run `{_EXTRA}`.") from error
