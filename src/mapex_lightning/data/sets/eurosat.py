"""EuroSAT: 27,000 labelled Sentinel-2 tiles of ten land uses in Europe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mapex_lightning.data.sets.published import Entry, Published, share_of
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.tileset import DATA, Split

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

SENSORS = {"s2": Sensor(BANDS, "reflectance x 10000", 10.0), "rgb": Sensor(("R", "G", "B"), "8-bit", 10.0)}

# Today's archives, the names of older ones, and how deep the oldest multispectral archive unpacks.
_FOLDERS = {
    "s2": ("EuroSAT_MS", "EuroSATallBands", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"),
    "rgb": ("EuroSAT_RGB", "2750"),
}
_ENDINGS = {"s2": ".tif", "rgb": ".jpg"}


class EuroSAT(Published):
    """EuroSAT (Helber et al. 2019, doi:10.1109/JSTARS.2019.2918242), multispectral and true colour.

    The multispectral tiles are level 1C: top-of-atmosphere reflectance x 10000, 13 bands on a 10 m grid of 64 x 64.
    Models that were trained on surface reflectance (level 2A) see them shifted, most of all in B01 and B02. The
    true-colour twins are 8-bit pictures of the same places and have the same names.

    Modalities: s2 and any others whose bands are among the 13, rgb.

    The authors publish no split. Here the split of a tile follows from a hash of the seed and its name, 60 % training,
    20 % validation, 20 % test within each class up to chance: it stays when tiles are added, and a tile and its twin
    are on the same side. Tiles were cut from shared scenes, so neighbours may be on different sides, as in every
    published random split of EuroSAT.

    Args:
        root: the folder that holds, itself or one level down, EuroSAT_MS or EuroSAT_RGB (or EuroSATallBands, 2750)
            with one folder per class.
        seed: another seed is another split.
        require: sensors, s2 or rgb, that every tile must have: [s2] leaves out the many tiles of which one has only
            the picture. None takes tiles with any sensor that is asked for.

    Raises:
        MapexError: `require` names another sensor.
    """

    title = "EuroSAT"
    task = "multiclass"
    classes = CLASSES
    sensors = SENSORS

    def __init__(self, root: str | Path = DATA, seed: int = 0, require: Sequence[str] | None = None) -> None:
        super().__init__(root, require)
        self.seed = seed

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
        return {
            key: Entry(split_of(key, self.seed), files[key], CLASSES.index(key.rpartition("_")[0]))
            for key in sorted(files, key=_order)
        }

    def wanted(self, sensors: Sequence[str]) -> str:
        """The folders of the archives, old and new."""
        folders = " or ".join(folder for sensor in sensors for folder in _FOLDERS[sensor][:2])
        return (
            f"Wanted {folders} with a folder per class, there or one level below: unpack EuroSAT_MS.zip or "
            "EuroSAT_RGB.zip of doi:10.5281/zenodo.7711810."
        )


def split_of(name: str, seed: int) -> Split:
    """The split of a tile: a function of its name and the seed, and of nothing else."""
    share = share_of(name, seed)
    return "train" if share < 0.6 else "val" if share < 0.8 else "test"


def _candidates(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Folders of one of the names that hold class folders, the shallowest first."""
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for folder in (root, *below):
        for name in names:
            if any((folder / name / one).is_dir() for one in CLASSES):
                yield folder / name


def _order(name: str) -> tuple[str, int]:
    """Forest_2 before Forest_10."""
    stem, _, number = name.rpartition("_")
    return stem, int(number)
