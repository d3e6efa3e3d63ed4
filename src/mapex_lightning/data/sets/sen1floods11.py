"""Sen1Floods11: water in 11 flood events, drawn by hand on Sentinel-1 and Sentinel-2."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from mapex_lightning.data.sets.published import Entry, Published, beneath
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.tileset import DATA, Split
from mapex_lightning.errors import MapexError, unknown

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Top of atmosphere; the files call them B1, B2 and so on."""

SENSORS = {
    "s1": Sensor(("VV", "VH"), "dB", 10.0),
    "s2": Sensor(BANDS, "reflectance x 10000", 10.0, described=tuple(band.replace("B0", "B") for band in BANDS)),
}

_FOLDERS = {"s1": "S1", "s2": "S2"}
_WEAK = {"s1": "S1OtsuLabelWeak", "s2": "S2IndexLabelWeak"}
_LISTS: dict[str, Split] = {"train": "train", "valid": "val", "test": "test", "bolivia": "test"}
_TESTS = {"published": ("test",), "bolivia": ("bolivia",), "both": ("test", "bolivia")}
_HELD_OUT = "Bolivia"


class Sen1Floods11(Published):
    """Sen1Floods11 v1.1 (Bonafilia et al. 2020, doi:10.1109/CVPRW50498.2020.00113).

    Chips of 512 x 512 pixels: Sentinel-1 backscatter (VV, VH) in dB, all 13 bands of Sentinel-2 as top-of-atmosphere
    reflectance x 10000 (level 1C), and masks of dry ground and water, permanent water included, in which -1 does not
    count. The files lie on a grid of latitude and longitude whose pixels are 10 m at the equator and narrower
    elsewhere; here they count as 10 m.

    Training, validation and test are the published lists of the 446 chips that were labelled by hand. The chips of
    Bolivia are a list of their own, of an event that no other list shows.

    Args:
        root: the folder that holds, itself or one level down, v1.1 of the bucket, or its folders data and splits.
        test: what is tested on: the published test list, Bolivia, or both.
        weak: adds the weakly labelled chips to the training split, but for those of Bolivia: with the masks that a
            threshold of Sentinel-1 (s1) or indexes of Sentinel-2 (s2) gave.
        require: sensors that every chip must have.

    Raises:
        MapexError: `test`, `weak` or `require` names something else.
    """

    title = "Sen1Floods11"
    task = "segmentation"
    classes = ("dry", "water")
    sensors = SENSORS

    def __init__(
        self,
        root: str | Path = DATA,
        test: Literal["published", "bolivia", "both"] = "published",
        weak: Literal["s1", "s2"] | None = None,
        require: Sequence[str] | None = None,
    ) -> None:
        super().__init__(root, require)
        if test not in _TESTS:
            raise unknown("test of Sen1Floods11", test, _TESTS)
        if weak is not None and weak not in _WEAK:
            raise unknown("weak label of Sen1Floods11", weak, _WEAK)
        self.test, self.weak = test, weak

    def listed(self) -> dict[str, Entry]:
        """Ids such as ``Spain_7370579``, in the order of the lists."""
        events = self._events
        if events is None:
            return {}
        lists = events.parents[1] / "splits" / "flood_handlabeled"
        entries = {}
        for name in ("train", "valid", *_TESTS[self.test]):
            for chip in _chips(lists / f"flood_{name}_data.csv"):
                label = events / "HandLabeled" / "LabelHand" / f"{chip}_LabelHand.tif"
                entries[chip] = Entry(_LISTS[name], _files(events / "HandLabeled", chip, "Hand"), label)
        return entries | self._weak(events)

    def wanted(self, sensors: Sequence[str]) -> str:
        """The folders of the bucket."""
        folders = " and ".join(f"{_FOLDERS[sensor]}Hand" for sensor in sensors)
        return (
            f"Wanted {folders} in data/flood_events/HandLabeled and the lists in splits/flood_handlabeled, there, one "
            "level below or in v1.1: fetch gs://sen1floods11/v1.1."
        )

    @property
    def _events(self) -> Path | None:
        """The folder of the flood events."""
        return beneath(self.root, "v1.1/data/flood_events") or beneath(self.root, "data/flood_events")

    def _weak(self, events: Path) -> dict[str, Entry]:
        if self.weak is None:
            return {}
        folder, label = events / "WeaklyLabeled", _WEAK[self.weak]
        masks = sorted((folder / label).glob(f"*_{label}.tif"))
        if not masks:
            raise MapexError(f"There are no masks in {folder / label}. Fetch that folder, or leave `weak` out.")
        chips = {mask.name.removesuffix(f"_{label}.tif"): mask for mask in masks}
        return {
            chip: Entry("train", _files(folder, chip, "Weak"), mask)
            for chip, mask in chips.items()
            if not chip.startswith(_HELD_OUT)
        }


def _files(folder: Path, chip: str, kind: str) -> dict[str, Path]:
    """The rasters of a chip, by sensor, as far as they are there."""
    files = {sensor: folder / f"{name}{kind}" / f"{chip}_{name}{kind}.tif" for sensor, name in _FOLDERS.items()}
    return {sensor: file for sensor, file in files.items() if file.exists()}


def _chips(path: Path) -> Iterator[str]:
    """The chips of a list; a row names the Sentinel-1 raster and the mask of one."""
    if not path.is_file():
        raise MapexError(f"There is no {path}, which says which chips belong to which split. Fetch it too.")
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines):
            if row:
                yield Path(row[0]).name.rpartition("_")[0]
