"""SEN12-FLOOD: series of Sentinel-1 and Sentinel-2 over places that were flooded in the winter of 2018/2019."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from mapex_lightning.data.sets.published import Entry, Published, Stored, Warped, beneath
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.sets.splits import share_of
from mapex_lightning.data.tileset import DATA, Split
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import S2_BANDS

SENSORS = {
    "s1": Sensor(("VV", "VH"), "dB", 10.0, nodata=0.0, power=True),
    "s2": Sensor(S2_BANDS, "reflectance x 10000", 10.0, blank=0.0),
}

_ENDINGS = {"s1": "_corrected", "s2": ""}
_VALIDATION = 0.15


class _Image(NamedTuple):
    """One acquisition of one sensor.

    Attributes:
        name: what its files begin with.
        day: when it was taken.
        flooded: whether a flood has begun by then.
        files: its rasters, by the name of the band.
    """

    name: str
    day: date
    flooded: bool
    files: Mapping[str, Path]


class Sen12Flood(Published):
    """SEN12-FLOOD (Rambour et al. 2020, doi:10.5194/isprs-archives-XLIII-B2-2020-1343-2020).

    Of 335 places in Africa, the Middle East and Australia, each 512 x 512 pixels of 10 m: a series of Sentinel-2
    (surface reflectance x 10000, level 2A, 12 bands) and a denser one of Sentinel-1 (VV, VH). Each image says whether
    the place is flooded; once it is, all later ones say so too, because traces remain.

    A tile is an image of Sentinel-2 with the nearest of Sentinel-1 that is at most `days` away and agrees about the
    flood. Images of Sentinel-1 that none has taken are tiles of their own. So no image of Sentinel-2 is in two tiles,
    and none is lost for want of the other sensor; `require` leaves out tiles with one sensor alone.

    Sentinel-1 is stored as power on a grid of latitude and longitude. It is warped onto the grid of the Sentinel-2
    images of its place, bilinearly, and handed over in dB. Where a place has no Sentinel-2 image there is no grid, and
    its Sentinel-1 images are left out. Pixels without data are NaN: 0 in Sentinel-1, 0 in all bands of Sentinel-2.

    The places whose names have four digits are the published training set, the others the published test set (of the
    MediaEval 2019 task, where the places come from). Of the training places 15 % are for validation, by a hash of the
    place: no place is in two splits.

    Args:
        root: the folder that holds, itself or one level down, S1list.json, S2list.json and a folder per place.
        days: how far apart in time the two images of a tile may be.
        partial: takes images too that do not cover all of their place; many of them are empty.
        require: sensors that every tile must have: [s1, s2] for pairs alone.

    Raises:
        MapexError: `require` names another sensor, or `days` is negative.
    """

    title = "SEN12-FLOOD"
    task = "multiclass"
    classes = ("dry", "flooded")
    sensors = SENSORS

    def __init__(
        self,
        root: str | Path = DATA,
        days: int = 3,
        partial: bool = False,
        require: Sequence[str] | None = None,
    ) -> None:
        super().__init__(root, require)
        if days < 0:
            raise MapexError(f"days is how far apart the images of a tile may be, 0 or more; found {days}.")
        self.days, self.partial = days, partial

    def listed(self) -> dict[str, Entry]:
        """Ids such as ``0140_S2_2019-01-24`` and ``0140_S1B_IW_GRDH_...``, by place and date."""
        lists = {sensor: beneath(self.root, f"{sensor.upper()}list.json") for sensor in SENSORS}
        series = {sensor: {} if path is None else self._series(path, sensor) for sensor, path in lists.items()}
        entries: dict[str, Entry] = {}
        for place in sorted(series["s2"]):
            for name, files, flooded in self._tiles(series["s1"].get(place, []), series["s2"][place]):
                entries[f"{place}_{name}"] = Entry(_split_of(place), files, int(flooded))
        return entries

    def wanted(self, sensors: Sequence[str]) -> str:
        """The archive."""
        return (
            "Wanted S1list.json, S2list.json and a folder per place such as 0140, there or one level below: unpack "
            "SEN12FLOOD.zip of doi:10.21227/w6xz-s898."
        )

    def _series(self, path: Path, sensor: str) -> dict[str, list[_Image]]:
        """The images of one sensor, by place and in the order of their dates."""
        series = {}
        for place, described in _read(path).items():
            folder = path.parent / place
            there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
            images = list(self._images(path, folder, there, described, sensor))
            if images:
                series[place] = sorted(images, key=lambda image: (image.day, image.name))
        return series

    def _images(
        self, path: Path, folder: Path, there: set[str], described: Mapping[str, Any], sensor: str
    ) -> Iterator[_Image]:
        """The images of one place whose files are there."""
        for number, image in described.items():
            if not number.isdigit():  # such as the number of images and the outline of the place
                continue
            try:
                name, day, flooded = str(image["filename"]), str(image["date"]), bool(image["FLOODING"])
                whole, taken = bool(image["FULL-DATA-COVERAGE"]), date.fromisoformat(day)
            except (KeyError, TypeError, ValueError) as error:
                raise MapexError(
                    f"{path} must give filename, date, FLOODING and FULL-DATA-COVERAGE of every image; image {number} "
                    f"of place {folder.name} does not ({error!r}). Unpack it again."
                ) from error
            files = {band: f"{name}{_ENDINGS[sensor]}_{band}.tif" for band in SENSORS[sensor].bands}
            if there.intersection(files.values()) and (whole or self.partial):
                yield _Image(name, taken, flooded, {band: folder / file for band, file in files.items()})

    def _tiles(
        self, radar: Sequence[_Image], optical: Sequence[_Image]
    ) -> Iterator[tuple[str, dict[str, Stored], bool]]:
        """Name, files and label of each tile of a place."""
        taken = set()
        for image in optical:
            files: dict[str, Stored] = {"s2": image.files}
            twin = self._twin(image, radar)
            if twin is not None:
                taken.add(twin.name)
                files = {"s1": Warped(twin.files, image.files["B02"]), **files}
            yield image.name, files, image.flooded
        for image in radar:
            if image.name not in taken:
                yield image.name, {"s1": Warped(image.files, optical[0].files["B02"])}, image.flooded

    def _twin(self, image: _Image, others: Sequence[_Image]) -> _Image | None:
        """The nearest image of the other sensor that says the same; of two as near, the earlier."""

        def distance(other: _Image) -> int:
            return abs((other.day - image.day).days)

        near = [other for other in others if other.flooded == image.flooded and distance(other) <= self.days]
        return min(near, key=distance, default=None)


def _split_of(place: str) -> Split:
    """The published part of a place, and the validation places of the training part."""
    if len(place) != 4:
        return "test"
    return "val" if share_of(place) < _VALIDATION else "train"


def _read(path: Path) -> dict[str, Any]:
    """A list of places."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MapexError(f"{path} cannot be read ({error}). Unpack it again.") from error
    if not isinstance(found, dict) or not all(isinstance(place, dict) for place in found.values()):
        raise MapexError(f"{path} must describe the images of each place by its name. Unpack it again.")
    return found
