"""EuroSAT: 27,000 labelled Sentinel-2 tiles of ten land uses in Europe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from mapex_lightning.data import raster
from mapex_lightning.data.sensors import Sensor, holds, sensor_of
from mapex_lightning.data.tileset import DATA, GeoReference, Split, TileSet
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile

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


class EuroSAT(TileSet):
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

    def __init__(self, root: str | Path = DATA, seed: int = 0, require: Sequence[str] | None = None) -> None:
        for sensor in require or ():
            if sensor not in SENSORS:
                raise unknown("sensor", sensor, SENSORS, where="of EuroSAT")
        self.require = tuple(require or ())
        self.task = "multiclass"
        self.root = Path(root)
        self.seed = seed

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten land uses, in alphabetical order."""
        return CLASSES

    def offers(self, modality: Modality) -> bool:
        """Whether its bands are among those of one sensor, in the same unit."""
        return any(holds(sensor, modality) for sensor in SENSORS.values())

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        """Ids such as ``Forest_17``, by class and number.

        Raises:
            MapexError: the folders of the modalities are not there.
        """
        wanted = set(SENSORS) if modalities is None else {sensor_of(one, SENSORS, "EuroSAT") for one in modalities}
        names = {name for sensor in wanted for name in self._names.get(sensor, ())}
        for sensor in self.require:
            names &= self._names.get(sensor, frozenset())
        if not names:
            wanted |= set(self.require)
            raise MapexError(
                f"No EuroSAT tiles for {' or '.join(sorted(wanted))} in {self.root.absolute()} or one level below. "
                f"Wanted {' or '.join(folder for sensor in sorted(wanted) for folder in _FOLDERS[sensor][:2])} with a "
                "folder per class: unpack EuroSAT_MS.zip or EuroSAT_RGB.zip of doi:10.5281/zenodo.7711810 there."
            )
        return sorted((name for name in names if split_of(name, self.seed) == split), key=_order)

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One tile: (C, 64, 64) per modality whose folder holds it.

        Raises:
            MapexError: a file cannot be read, or a modality or the key is unknown.
        """
        images = {}
        for modality in modalities:
            sensor = sensor_of(modality, SENSORS, "EuroSAT")
            if key in self._names.get(sensor, ()):
                images[modality.name] = raster.read(
                    self._path(sensor, key), modality.bands, SENSORS[sensor].bands
                ).to_numpy()
        return Tile(key, images, self.label(key))

    def label(self, key: str) -> int:
        """The class, which is part of the name.

        Raises:
            MapexError: the key does not begin with a class.
        """
        name = key.rpartition("_")[0]
        if name not in CLASSES:
            raise MapexError(f"EuroSAT has no tile {key!r}. Its tiles are named like Forest_17.")
        return CLASSES.index(name)

    def georeference(self, key: str) -> GeoReference | None:
        """Where the tile lies; the true-colour files do not say."""
        return raster.georeference(self._path("s2", key)) if key in self._names.get("s2", ()) else None

    def _path(self, sensor: str, key: str) -> Path:
        return self._folders[sensor] / key.rpartition("_")[0] / f"{key}{_ENDINGS[sensor]}"

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """The folder of each sensor that is there."""
        found = {sensor: next(_candidates(self.root, names), None) for sensor, names in _FOLDERS.items()}
        return {sensor: folder for sensor, folder in found.items() if folder is not None}

    @cached_property
    def _names(self) -> dict[str, frozenset[str]]:
        """The tiles of each sensor that is there, listed once."""
        return {
            sensor: frozenset(
                file.stem
                for name in CLASSES
                for file in (folder / name).glob(f"{name}_*{_ENDINGS[sensor]}")
                if re.fullmatch(r"\d+", file.stem.rpartition("_")[2])
            )
            for sensor, folder in self._folders.items()
        }


def split_of(name: str, seed: int) -> Split:
    """The split of a tile: a function of its name and the seed, and of nothing else."""
    digest = blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
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
