"""ben-ge: BigEarthNet's pairs with elevation and the land cover of ESA WorldCover."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from mapex_lightning.data.sets.published import Entry, Published, Stored
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.tileset import DATA, SPLITS, TASKS, Split, Task
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import S2_BANDS
from mapex_lightning.tiles import IGNORED, Target

CLASSES = (
    "tree_cover",
    "shrubland",
    "grassland",
    "cropland",
    "built-up",
    "bare/sparse_vegetation",
    "snow_and_ice",
    "permanent_water_bodies",
    "herbaceous_wetland",
    "mangroves",
    "moss_and_lichen",
)
"""The classes of WorldCover by the names of the columns that hold their fractions."""

CODES = {10: 0, 20: 1, 30: 2, 40: 3, 50: 4, 60: 5, 70: 6, 80: 7, 90: 8, 95: 9, 100: 10, 0: IGNORED}
"""The class of each value of WorldCover's maps (product user manual 2.0, page 15)."""

SENSORS = {
    "s1": Sensor(("VV", "VH"), "dB", 10.0, side=120),
    "s2": Sensor(S2_BANDS, "reflectance x 10000", 10.0, side=120),
    "dem": Sensor(("elevation",), "metres", 10.0),
}

# The folders of ben-ge-8k, then those of the archives from which the whole set is put together.
_FOLDERS = {
    "s1": ("sentinel-1", "BigEarthNet-S1-v1.0"),
    "s2": ("sentinel-2", "BigEarthNet-v1.0"),
    "dem": ("dem", "glo-30_dem"),
    "map": ("esaworldcover",),
}
_FETCH = "Unpack ben-ge-8k of doi:10.5281/zenodo.8121208; the whole set comes in parts, see https://github.com/HSG-AIML/ben-ge."


class BenGe(Published):
    """ben-ge and its small version ben-ge-8k (Mommert et al. 2023, arXiv:2307.01741).

    Patches of BigEarthNet v1, 1,200 m wide: Sentinel-1 backscatter in dB, level 2A surface reflectance x 10000 of
    Sentinel-2 whose 20 m and 60 m bands are repeated onto the 10 m grid (120 x 120), and the elevation of the
    Copernicus DEM GLO-30 in whole metres, interpolated to 10 m by the authors. Labels come from ESA WorldCover, its
    maps and the fraction of a patch that each class covers. The splits are the published lists.

    Modalities: s1, s2 and any others whose bands are among theirs, dem.

    Args:
        root: the folder that holds, itself or one level down, one file named ben-ge..._meta.csv and its data.
        task: ``multiclass`` (the class of the largest fraction), ``multilabel`` (every class above `share`) or
            ``segmentation`` (the map).
        share: above which fraction of a patch a class is a label of it. The authors publish fractions; 0.05 is what a
            co-author's code takes, which then keeps no more than the three largest.
        subset: the lists of another set than the one that the data are named after, such as ben-ge-0.2 or ben-ge-8k
            within ben-ge.
        few_shot: trains on the list of this ending instead of the whole one: k40_seed2 is
            splits/ben-ge-8k_train_k40_seed2.csv. Training tiles that it does not name are left out.
        require: sensors, s1, s2 or dem, that must be there. None takes those whose folders are.

    Raises:
        MapexError: the task or a sensor is unknown, or `share` is no fraction.
    """

    title = "ben-ge"
    task: Task = "multiclass"
    classes = CLASSES
    sensors = SENSORS
    codes = CODES

    def __init__(
        self,
        root: str | Path = DATA,
        task: Literal["multiclass", "multilabel", "segmentation"] = "multiclass",
        share: float = 0.05,
        subset: str | None = None,
        few_shot: str | None = None,
        require: Sequence[str] | None = None,
    ) -> None:
        super().__init__(root, require)
        if task not in TASKS:
            raise unknown("task", task, TASKS, where="of ben-ge")
        if not 0 < share <= 1:
            raise MapexError(f"BenGe's share is a fraction of a patch, above 0 and at most 1; found {share}.")
        self.task = task
        self.share, self.subset, self.few_shot = share, subset, few_shot

    def listed(self) -> Mapping[str, Entry]:
        """The Sentinel-2 ids that the lists name, in their order, each looked at when it is asked for."""
        if self._meta is None:
            return {}
        pairs = {row["patch_id"]: row["patch_id_s1"] for row in _rows(self._meta, ("patch_id", "patch_id_s1"))}
        splits = {key: split for split in SPLITS for key in self._list(split) if key in pairs}
        return _Listing(self._folders, pairs, splits, None if self.task == "segmentation" else self._labels())

    def wanted(self, sensors: Sequence[str]) -> str:
        """The folders of the archive."""
        folders = " and ".join(" or ".join(_FOLDERS[sensor]) for sensor in sensors)
        return f"Wanted {folders} beside one ben-ge..._meta.csv, there or one level below. {_FETCH}"

    @cached_property
    def _meta(self) -> Path | None:
        """The table of pairs, after which the data are named."""
        found = sorted(
            path for pattern in ("ben-ge*_meta.csv", "*/ben-ge*_meta.csv") for path in self.root.glob(pattern)
        )
        if len(found) > 1:
            raise MapexError(f"Several sets of ben-ge: {', '.join(map(str, found))}. Give the folder of one as root.")
        return found[0] if found else None

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Those folders that are there."""
        assert self._meta is not None
        places = {what: [self._meta.parent / name for name in names] for what, names in _FOLDERS.items()}
        found = {what: path for what, paths in places.items() for path in paths if path.is_dir()}
        if self.task == "segmentation" and "map" not in found:
            raise MapexError(f"There is no folder {places['map'][0]}, which holds the maps for segmentation. {_FETCH}")
        return found

    def _beside(self, kind: str) -> Path:
        """A table that goes with the data, such as ben-ge-8k_esaworldcover.csv."""
        assert self._meta is not None
        return self._meta.with_name(self._meta.name.replace("_meta.csv", f"_{kind}.csv"))

    def _list(self, split: Split) -> list[str]:
        """The ids of a split: a line each, without a header."""
        assert self._meta is not None
        name = self.subset or self._meta.name.removesuffix("_meta.csv")
        ending = f"train_{self.few_shot}" if self.few_shot and split == "train" else split
        path = self._meta.parent / "splits" / f"{name}_{ending}.csv"
        if not path.is_file():
            stored = ", ".join(sorted(other.name for other in path.parent.glob("*.csv"))) or "none"
            raise MapexError(
                f"There is no list {path}; found {stored}. The lists of ben-ge and its subsets are in data/splits of "
                "https://github.com/HSG-AIML/ben-ge."
            )
        return path.read_text(encoding="utf-8").split()

    def _labels(self) -> dict[str, Target]:
        """The label of every patch, from the fractions of the classes."""
        labels: dict[str, Target] = {}
        for row in _rows(self._beside("esaworldcover"), ("patch_id", *CLASSES)):
            fractions = np.array([float(row[name]) for name in CLASSES], dtype=np.float32)
            if fractions.any():
                top, hot = int(fractions.argmax()), (fractions > self.share).astype(np.float32)
                labels[row["patch_id"]] = top if self.task == "multiclass" else hot
        return labels


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a table that must have these columns."""
    if not path.is_file():
        raise MapexError(f"There is no table {path}. {_FETCH}")
    with path.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines)
        for column in columns:
            if column not in (table.fieldnames or ()):
                raise unknown("column", column, table.fieldnames or (), f"Fetch {path.name} again", where=f"in {path}")
        yield from table


class _Patch(Mapping[str, Path]):
    """The files of a sensor's bands, which follow from the patch's name."""

    __slots__ = ("bands", "folder", "name")

    def __init__(self, folder: Path, name: str, bands: Sequence[str]) -> None:
        self.folder, self.name, self.bands = folder, name, bands

    def __getitem__(self, band: str) -> Path:
        return self.folder / self.name / f"{self.name}_{band}.tif"

    def __iter__(self) -> Iterator[str]:
        return iter(self.bands)

    def __len__(self) -> int:
        return len(self.bands)


class _Listing(Mapping[str, Entry]):
    """The tiles by id; an entry is made when it is asked for, because the whole set has nine million files."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        pairs: Mapping[str, str],
        splits: Mapping[str, Split],
        labels: Mapping[str, Target] | None,
    ) -> None:
        self.folders, self.pairs, self.splits, self.labels = folders, pairs, splits, labels

    def __getitem__(self, key: str) -> Entry:
        split = self.splits[key]
        files: dict[str, Stored] = {}
        if "s1" in self.folders:
            files["s1"] = _Patch(self.folders["s1"], self.pairs[key], SENSORS["s1"].bands)
        if "s2" in self.folders:
            files["s2"] = _Patch(self.folders["s2"], key, SENSORS["s2"].bands)
        if "dem" in self.folders:
            files["dem"] = self.folders["dem"] / f"{key}_dem.tif"
        if self.labels is None:
            return Entry(split, files, self.folders["map"] / f"{key}_esaworldcover.tif")
        return Entry(split, files, self.labels.get(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)
