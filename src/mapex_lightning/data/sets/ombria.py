"""OMBRIA: floods of 27 events, seen by Sentinel-1 and Sentinel-2 before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from mapex_lightning.data.sets.published import Entry, Published, beneath
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.sets.splits import share_of
from mapex_lightning.data.tileset import DATA
from mapex_lightning.errors import unknown

# One polarisation, stretched from each tile's minimum to its maximum: 255 is the margin, and a single pixel.
_S1 = Sensor(("VV",), "8-bit", 10.0, nodata=255.0)
# False colour. One band alone is often 0, most of all the short-wave infrared over water; all three are in margins.
_S2 = Sensor(("B11", "B08", "B03"), "8-bit", 10.0, blank=0.0)

SENSORS = {"s1_before": _S1, "s1_after": _S1, "s2_before": _S2, "s2_after": _S2}

EVENTS = ("ALBANIA", "FRANCE", "GUYANA", "TIMOR")
"""The events of 2021, which the authors keep apart."""

# What precedes the number of a tile in the names of the files in BEFORE, AFTER and MASK.
_STEMS = {"before": "S{}_before_", "after": "S{}_after_", "mask": "S{}_mask_"}
_STEMS_2021 = {"before": "imbefore_", "after": "imafter_", "mask": "gt_"}

_TESTS = ("published", "2021", "both")
_VALIDATION = 0.15


class Ombria(Published):
    """OMBRIA (Drakonakis et al. 2022, doi:10.1109/JSTARS.2022.3155559): flood masks of the Copernicus emergency maps.

    Tiles are 8-bit pictures of 256 x 256 pixels at 10 m: of Sentinel-1 one polarisation (VV), stretched by the
    authors and no longer in dB; of Sentinel-2 false colour, B11, B08 and B03. Each is a sensor of its own before and
    after the event, so a modality takes its name: s1_before, s1_after, s2_before, s2_after. Tiles of 23 events have no
    georeference and do not say which event they show.

    Margins without data are NaN: of Sentinel-1 pixels of 255, of Sentinel-2 those where all three bands are 0. The mask
    is that of the authors there too.

    Training and test tiles are the published ones. Of the training tiles 15 % are for validation, by a hash of their
    number; neighbours may be on either side, so the validation is kinder than the test.

    Args:
        root: the folder that holds, itself or one level down, OmbriaS1 and OmbriaS2, and 2021 if that is asked for.
        test: what is tested on: the published test tiles, the four events of 2021, which no other tile shows, or both.
        require: sensors that every tile must have.

    Raises:
        MapexError: `test` or `require` names something else.
    """

    title = "OMBRIA"
    task = "segmentation"
    classes = ("dry", "flood")
    sensors = SENSORS
    codes: ClassVar = {0: 0, 255: 1}

    def __init__(
        self,
        root: str | Path = DATA,
        test: Literal["published", "2021", "both"] = "published",
        require: Sequence[str] | None = None,
    ) -> None:
        super().__init__(root, require)
        if test not in _TESTS:
            raise unknown("test of OMBRIA", test, _TESTS)
        self.test = test

    def listed(self) -> dict[str, Entry]:
        """Ids such as ``0017``, by number, and of 2021 such as ``TIMOR_4``."""
        entries = {
            number: entry._replace(split="val" if share_of(number) < _VALIDATION else "train")
            for number, entry in self._tiles("OmbriaS{}/train", _STEMS).items()
        }
        if self.test != "2021":
            entries |= self._tiles("OmbriaS{}/test", _STEMS)
        for event in EVENTS if self.test != "published" else ():
            tiles = self._tiles(f"2021/{event}/Sentinel{{}}", _STEMS_2021)
            entries |= {f"{event}_{number}": entry for number, entry in tiles.items()}
        return entries

    def wanted(self, sensors: Sequence[str]) -> str:
        """The folders of the repository."""
        folders = " and ".join(sorted({f"OmbriaS{sensor[1]}" for sensor in sensors}))
        return f"Wanted {folders} of github.com/geodrak/OMBRIA, there or one level below."

    def _tiles(self, folder: str, stems: Mapping[str, str]) -> dict[str, Entry]:
        """Tiles for the test, by number; what differs between the satellites are their numbers in folder and stems."""
        files: dict[str, dict[str, Path]] = {}
        for satellite in ("1", "2"):
            for what, stem in stems.items():
                place = beneath(self.root, f"{folder.format(satellite)}/{what.upper()}")
                for file in place.glob("*.png") if place is not None else ():
                    number = file.stem.removeprefix(stem.format(satellite))
                    files.setdefault(number, {})[f"s{satellite}_{what}"] = file
        return {
            number: Entry(
                "test",
                {sensor: files[number][sensor] for sensor in SENSORS if sensor in files[number]},
                files[number].get("s1_mask", files[number].get("s2_mask")),
            )
            for number in sorted(files, key=lambda number: (len(number), number))
        }
