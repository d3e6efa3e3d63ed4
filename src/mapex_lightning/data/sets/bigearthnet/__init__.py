"""BigEarthNet v2 (reBEN): half a million pairs of Sentinel-1 and Sentinel-2 patches with 19 labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from mapex_lightning.data import raster
from mapex_lightning.data.fingerprint import digest_of, stamp
from mapex_lightning.data.one_grid import on_one_grid
from mapex_lightning.data.sets.bigearthnet import rico
from mapex_lightning.data.sets.bigearthnet.patches import Patches
from mapex_lightning.data.sets.published import recoded
from mapex_lightning.data.sets.sensors import Sensor, holds, sensor_of
from mapex_lightning.data.tileset import GeoReference, Split, Task, TileSet
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import S2_BANDS, Modality
from mapex_lightning.tiles import IGNORED, Target, Tile

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

_CORINE = {
    0: "111 112",
    1: "121",
    2: "211 212 213",
    3: "221 222 223 241",
    4: "231",
    5: "242",
    6: "243",
    7: "244",
    8: "311",
    9: "312",
    10: "313",
    11: "321 333",
    12: "322 323",
    13: "324",
    14: "331",
    15: "411 412",
    16: "421 422",
    17: "511 512",
    18: "521 522 523",
    IGNORED: "0 122 123 124 131 132 133 141 142 332 334 335 423 990 995 999",
}
CODES = {int(code): index for index, codes in _CORINE.items() for code in codes.split()}
"""The class of each CORINE 2018 code of the reference maps; those that the 19 classes leave out do not count."""

SENSORS = {
    "s1": Sensor(("VV", "VH"), "dB", 10.0, side=120),
    "s2": Sensor(S2_BANDS, "reflectance x 10000", 10.0, nodata=0.0, side=120),
}
"""The GeoTIFFs of Sentinel-2 declare 0 as nodata; the LMDB keeps the values and not the declaration."""

_TASKS = ("multilabel", "segmentation")
_FOLDERS = {"s1": "BigEarthNet-S1", "s2": "BigEarthNet-S2", "map": "Reference_Maps"}
_TAIL = {"s1": 3, "s2": 2, "map": 2}
"""How many words of a patch's name its scene's name lacks: the place, and for Sentinel-1 the tile before it."""
_METADATA = "metadata.parquet"
_SNOW_AND_CLOUD = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
_WHEEL = Path("the wheel configilm")
_SAMPLE = "pip install --no-deps configilm==0.7.1"
_ARCHIVES = "the archives of doi:10.5281/zenodo.10891137"


class BigEarthNet(TileSet):
    """BigEarthNet v2 (Clasen et al. 2024, arXiv:2407.03653), as GeoTIFFs or as the LMDB that rico-hdl writes of them.

    Each patch is 1,200 m wide: Sentinel-1 backscatter in dB and the co-registered level 2A surface reflectance x 10000
    of Sentinel-2, whose 20 m and 60 m bands are repeated onto the 10 m grid (120 x 120). Labels, maps and splits are
    the official ones. Both layouts give the same tile, bit for bit; only GeoTIFFs say where it lies. Where both are
    found, pixels come from the LMDB, which is far faster.

    Modalities: s1, s2 and any others whose bands are among theirs.

    Args:
        root: the folder that holds, itself or up to two levels down, metadata.parquet and either an LMDB (any folder
            with a data.mdb) or the folders BigEarthNet-S1 and BigEarthNet-S2. None takes the 24 real pairs that the
            wheel configilm 0.7.1 carries, 18 of them without snow and cloud: enough to try things out.
        snow_and_cloud: adds the patches with seasonal snow, cloud or shadow, which the authors keep apart.
        task: ``multilabel`` (which of the 19 classes occur) or ``segmentation`` (the class of every pixel, from the
            folder Reference_Maps or an LMDB with these maps; CORINE classes outside the 19 do not count).

    Raises:
        MapexError: the task is another.
    """

    task: Task = "multilabel"

    def __init__(
        self,
        root: str | Path | None = None,
        snow_and_cloud: bool = False,
        task: Literal["multilabel", "segmentation"] = "multilabel",
    ) -> None:
        if task not in _TASKS:
            raise unknown("task", task, _TASKS, where="of BigEarthNet")
        self.task = task
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
        """The Sentinel-2 patch ids of an official split, in the order of the metadata; every patch has both sensors.

        Raises:
            MapexError: the files or an optional dependency are not there, or a modality is not offered.
        """
        for modality in modalities or ():
            sensor_of(modality, SENSORS, "BigEarthNet")
        return self._patches.names(split)

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One patch: (C, 120, 120) per modality; pixels without data are NaN.

        Raises:
            MapexError: the patch or a band is not there, or the key or a modality is unknown.
        """
        target = self.label(key)
        sensors = {modality.name: sensor_of(modality, SENSORS, "BigEarthNet") for modality in modalities}
        images = {}
        for sensor in dict.fromkeys(sensors.values()):
            served = [modality for modality in modalities if sensors[modality.name] == sensor]
            bands = tuple(dict.fromkeys(band for modality in served for band in modality.bands))
            pixels = self._pixels(sensor, key if sensor == "s2" else self._patches.s1_name(key), bands)
            for one in served:
                same = one.bands == bands
                images[one.name] = pixels if same else pixels[[bands.index(band) for band in one.bands]]
        return Tile(key, {modality.name: images[modality.name] for modality in modalities}, target)

    def label(self, key: str) -> Target:
        """The multi-hot label (19,) float32, or the mask (120, 120) int64, which is read.

        Raises:
            MapexError: the key is unknown, or its map is not there.
        """
        label = self._patches.label(key)
        return label if self.task == "multilabel" else self._map(key)

    def georeference(self, key: str) -> GeoReference | None:
        """Where the patch lies; None without GeoTIFFs of Sentinel-2.

        Raises:
            MapexError: its file is not there.
        """
        return raster.georeference(self._file("s2", key, "B02")) if "s2" in self._folders else None

    def fingerprint(self, modalities: Sequence[Modality]) -> str:
        """Of the settings, and the size and time of change of the metadata and the LMDB; GeoTIFFs are millions."""
        files = [self._metadata, *([] if self._lmdb is None else [self._lmdb / "data.mdb"])]
        return digest_of([super().fingerprint(modalities), *map(stamp, files)])

    @cached_property
    def _patches(self) -> Patches:
        """The metadata, read once."""
        files = [self._metadata] + [self._metadata.with_name(_SNOW_AND_CLOUD)] * self.snow_and_cloud
        return Patches(files, CLASSES)

    @cached_property
    def _metadata(self) -> Path:
        if self.root == _WHEEL:
            return _sample_metadata()
        return _only_one(_found(self.root, _METADATA), _METADATA, self.root)

    @cached_property
    def _lmdb(self) -> Path | None:
        """The LMDB folder: below the metadata's folder, or else anywhere below the root; None where GeoTIFFs serve."""
        beside = _found(self._metadata.parent, "data.mdb")
        found = beside if len(beside) == 1 else _found(self.root, "data.mdb")
        if not found and self._folders:
            return None
        return _only_one(found, "data.mdb", self.root).parent.resolve()

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Those folders of GeoTIFFs that are there. No folder of patches is listed: paths follow from names."""
        places = {
            what: _found(self._metadata.parent, name) or _found(self.root, name) for what, name in _FOLDERS.items()
        }
        return {what: _only_one(found, _FOLDERS[what], self.root) for what, found in places.items() if found}

    def _file(self, what: str, name: str, ending: str) -> Path:
        """The GeoTIFF of a patch, such as BigEarthNet-S2/<scene>/<patch>/<patch>_B02.tif."""
        if what not in self._folders:
            raise MapexError(
                f"{self.root.absolute()} has no folder {_FOLDERS[what]} and no LMDB, there or up to two levels below. "
                f"Unpack {_FOLDERS[what]} of {_ARCHIVES} beside {self._metadata}."
            )
        scene = name.rsplit("_", _TAIL[what])[0]
        return self._folders[what] / scene / name / f"{name}_{ending}.tif"

    def _pixels(self, sensor: str, name: str, bands: Sequence[str]) -> np.ndarray:
        """Bands of one sensor of a patch: (C, 120, 120) float32."""
        side, nodata = SENSORS[sensor].side, SENSORS[sensor].nodata
        if self._lmdb is None:
            pixels = raster.read_together({band: self._file(sensor, name, band) for band in bands}, side)
        else:
            stored = rico.bands(self._lmdb, name)
            for band in bands:
                if band not in stored:
                    raise MapexError(
                        f"Patch {name} in {self._lmdb} has no band {band}; it has {', '.join(sorted(stored))}. "
                        f"{rico.AGAIN}."
                    )
            place = f"Patch {name} in {self._lmdb}"
            pixels = on_one_grid({band: stored[band] for band in bands}, lambda band: f"{place}: band {band}", side)
        if nodata is not None and not pixels.all():
            pixels[pixels == nodata] = np.nan
        return pixels

    def _map(self, key: str) -> np.ndarray:
        """The class of every pixel: (120, 120) int64."""
        if "map" in self._folders or self._lmdb is None:
            path = self._file("map", key, "reference_map")
            return recoded(raster.read_mask(path), CODES, f"Mask {path}", "BigEarthNet")
        name = f"{key}_reference_map"
        stored = rico.bands(self._lmdb, name)["Data"]
        return recoded(stored, CODES, f"Mask {name} in {self._lmdb}", "BigEarthNet")


def _found(root: Path, name: str) -> list[Path]:
    """Files or folders of a name in a folder or up to two levels down."""
    return sorted(path for pattern in (name, f"*/{name}", f"*/*/{name}") for path in root.glob(pattern))


def _only_one(found: Sequence[Path], name: str, root: Path) -> Path:
    if len(found) == 1:
        return found[0]
    remedy = (
        "Give the folder of one data set as root."
        if found
        else f"Fetch metadata.parquet and {_ARCHIVES}, and unpack these beside it or encode them with rico-hdl into an "
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
