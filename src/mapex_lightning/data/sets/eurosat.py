"""EuroSAT: 27,000 labelled Sentinel-2 tiles of ten land uses in Europe, with Sentinel-1 twins from EuroSAT-SAR."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from mapex_lightning.data.sets.published import Entry, Published, beneath, places
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.sets.splits import split_of
from mapex_lightning.data.tileset import DATA, SPLITS, Split
from mapex_lightning.errors import MapexError, unknown

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
"""The stored order of the multispectral files, which do not name their bands: B8A comes last."""

SENSORS = {
    "s2": Sensor(BANDS, "reflectance x 10000", 10.0),
    "rgb": Sensor(("R", "G", "B"), "8-bit", 10.0),
    "s1": Sensor(("VV", "VH"), "dB", 10.0),
}

# Today's archives, the names of older ones, and how deep the oldest multispectral archive unpacks.
_FOLDERS = {
    "s2": ("EuroSAT_MS", "EuroSATallBands", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"),
    "rgb": ("EuroSAT_RGB", "2750"),
    "s1": ("EuroSAT-SAR",),
}
_ENDINGS = {"s2": ".tif", "rgb": ".jpg", "s1": ".tif"}
_ARCHIVES = {
    "s2": "EuroSAT_MS.zip of doi:10.5281/zenodo.7711810",
    "rgb": "EuroSAT_RGB.zip of doi:10.5281/zenodo.7711810",
    "s1": "EuroSAT-SAR.zip of https://huggingface.co/datasets/wangyi111/EuroSAT-SAR",
}
_LISTS = {"torchgeo": "eurosat-{}.txt", "spatial": "eurosat-spatial-{}.txt"}


class EuroSAT(Published):
    """EuroSAT (Helber et al. 2019, doi:10.1109/JSTARS.2019.2918242), multispectral, true colour and radar.

    The multispectral tiles are level 1C: top-of-atmosphere reflectance x 10000, 13 bands on a 10 m grid of 64 x 64.
    Models that were trained on surface reflectance (level 2A) see them shifted, most of all in B01 and B02. The
    true-colour twins are 8-bit pictures of the same places. The radar twins are EuroSAT-SAR (Wang et al. 2023,
    arXiv:2310.18653): Sentinel-1 backscatter VV and VH in dB on the same ground, of another day. Twins have the same
    name.

    Modalities: s2 and any others whose bands are among the 13, rgb, s1.

    EuroSAT's authors publish no split. The one by hash follows from the seed and a tile's name and from nothing else:
    60 % training, 20 % validation, 20 % test within each class up to chance (seed 0: 16,300, 5,325 and 5,375
    of the 27,000). So a tile never moves, not even when tiles are added or taken away, and it and its twins are on the
    same side. Tiles were cut from shared scenes, so neighbours may be on different sides, as in every random split of
    EuroSAT; ``spatial`` keeps training, validation and test apart by longitude.

    Args:
        root: the folder that holds, itself or one level down, EuroSAT_MS, EuroSAT_RGB or EuroSAT-SAR (or
            EuroSATallBands, 2750) with one folder per class, and the lists of a published split.
        seed: another seed is another split by hash.
        require: sensors, s2, rgb or s1, that every tile must have: [s2] leaves out the many tiles of which one has
            only the picture. None takes tiles with any sensor that is asked for.
        split: ``hash``; ``torchgeo``, the split of Neumann et al. 2019 (arXiv:1911.06721) as in eurosat-train.txt,
            eurosat-val.txt and eurosat-test.txt; or ``spatial``, torchgeo's split by longitude as in
            eurosat-spatial-train.txt and so on. A tile that no list names is left out.

    Raises:
        MapexError: `require` names another sensor, or `split` is another.
    """

    title = "EuroSAT"
    task = "multiclass"
    classes = CLASSES
    sensors = SENSORS

    def __init__(
        self,
        root: str | Path = DATA,
        seed: int = 0,
        require: Sequence[str] | None = None,
        split: Literal["hash", "torchgeo", "spatial"] = "hash",
    ) -> None:
        if split != "hash" and split not in _LISTS:
            raise unknown("split", split, ["hash", *_LISTS], where="of EuroSAT")
        super().__init__(root, require)
        self.seed, self.split = seed, split

    def listed(self) -> dict[str, Entry]:
        """Ids such as ``Forest_17``, by class and number; the class is part of the name."""
        files: dict[str, dict[str, Path]] = {}
        for sensor, names in _FOLDERS.items():
            folder = next(_candidates(self.root, names), None)
            for name in CLASSES if folder is not None else ():
                assert folder is not None
                for file in (folder / name).glob(f"{name}_*{_ENDINGS[sensor]}"):
                    if re.fullmatch(r"\d+", file.stem.rpartition("_")[2]):
                        files.setdefault(file.stem, {})[sensor] = file
        keys = sorted(files, key=_order)
        if self.split == "hash" or not files:
            splits = {key: split_of(key, self.seed) for key in keys}
        else:
            splits = _published(self.root, _LISTS[self.split])
        return {
            key: Entry(splits[key], files[key], CLASSES.index(key.rpartition("_")[0])) for key in keys if key in splits
        }

    def wanted(self, sensors: Sequence[str]) -> str:
        """The folders of the archives, old and new."""
        folders = " or ".join(folder for sensor in sensors for folder in _FOLDERS[sensor][:2])
        archives = " or ".join(_ARCHIVES[sensor] for sensor in sensors)
        return f"Wanted {folders} with a folder per class, there or one level below: unpack {archives}."


def _published(root: Path, pattern: str) -> dict[str, Split]:
    """The split of each tile that a list names; a line is a file's name, whose ending says nothing."""
    splits: dict[str, Split] = {}
    for split in SPLITS:
        name = pattern.format(split)
        found = beneath(root, name)
        if found is None:
            raise MapexError(
                f"There is no {name} in {root.absolute()} or one level below, and the split is read from it. Fetch it "
                "from https://huggingface.co/datasets/torchgeo/eurosat, or leave `split` out for the split by hash."
            )
        for line in found.read_text(encoding="utf-8").split():
            key = Path(line).stem
            if splits.setdefault(key, split) != split:
                raise MapexError(f"{found} lists {line}, which is in {splits[key]} too. Fetch the three lists again.")
    return splits


def _candidates(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Folders of one of the names that hold class folders, the shallowest first."""
    for folder in places(root):
        for name in names:
            if any((folder / name / one).is_dir() for one in CLASSES):
                yield folder / name


def _order(name: str) -> tuple[str, int]:
    """Forest_2 before Forest_10."""
    stem, _, number = name.rpartition("_")
    return stem, int(number)
