"""CaBuAr: burnt areas in California, seen by Sentinel-2 before and after the fire."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mapex_lightning.data.sets import hdf5
from mapex_lightning.data.sets.published import Entry, Published, beneath
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.tileset import DATA, Split
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import S2_BANDS

# A band of level 2A may be 0 over dark ground; all of them are where the scene ends.
_S2 = Sensor(S2_BANDS, "reflectance x 10000", 20.0, blank=0.0)

SENSORS = {"s2_before": _S2, "s2_after": _S2}

_IMAGES = {"s2_before": "pre_fire", "s2_after": "post_fire"}
_FILES = ("512x512.hdf5", "train_eval.hdf5")  # of CaBuAr, and the very same file of the challenge ChaBuD
_CHABUD = "chabud_test.h5"
_FOLDS = 5


class CaBuAr(Published):
    """CaBuAr (Rege Cambrin et al. 2023, doi:10.1109/MGRS.2023.3292467), the patches of 512 x 512 pixels.

    Sentinel-2 surface reflectance x 10000 (level 2A) of 12 bands, all on a grid of 20 m, after a fire and, of most
    patches, before it; and a mask of the burnt area from the state's fire records. Before and after are sensors of
    their own, so a modality takes its name: s2_before, s2_after. The file holds no georeference.

    The authors publish five folds.

    Args:
        root: the folder that holds, itself or one level down, 512x512.hdf5 (train_eval.hdf5 of ChaBuD is the same
            file) and, where it is asked for, chabud_test.h5.
        test: which fold is tested on; the next one is for validation and the other three for training, as in the
            paper. ``chabud`` tests on the file of the challenge ChaBuD, validates on fold 0 and trains on the others,
            as torchgeo does.
        require: sensors that every patch must have: [s2_before] leaves out those without an image from before.

    Raises:
        MapexError: `test` or `require` names something else.
    """

    title = "CaBuAr"
    task = "segmentation"
    classes = ("unburnt", "burnt")
    sensors = SENSORS

    def __init__(
        self,
        root: str | Path = DATA,
        test: Literal[0, 1, 2, 3, 4, "chabud"] = 0,
        require: Sequence[str] | None = None,
    ) -> None:
        super().__init__(root, require)
        if test not in (*range(_FOLDS), "chabud"):
            raise unknown("test of CaBuAr", str(test), [*map(str, range(_FOLDS)), "chabud"])
        self.test = test

    def listed(self) -> dict[str, Entry]:
        """Ids as in the file, by name."""
        file = next((found for name in _FILES if (found := beneath(self.root, name)) is not None), None)
        if file is None:
            return {}
        if self.test != "chabud":
            order: list[Split] = ["test", "val", "train", "train", "train"]
            return _patches(file, {(self.test + step) % _FOLDS: split for step, split in enumerate(order)})
        other = beneath(self.root, _CHABUD)
        if other is None:
            raise MapexError(f"There is no {_CHABUD} in {self.root.absolute()} or one level below. Fetch it too.")
        training: dict[int | str, Split] = dict.fromkeys(range(1, _FOLDS), "train")
        return _patches(file, {0: "val", **training}) | _patches(other, {"chabud": "test"})

    def wanted(self, sensors: Sequence[str]) -> str:
        """The files, and where they are."""
        return (
            f"Wanted {' or '.join(_FILES)}, there or one level below: fetch raw/patched/512x512.hdf5 of "
            "huggingface.co/datasets/DarthReca/california_burned_areas."
        )


def _patches(file: Path, splits: dict[int | str, Split]) -> dict[str, Entry]:
    """The patches of a file; each says its fold."""
    entries = {}
    with hdf5.opened(file) as patches:
        for key in sorted(patches):
            fold = patches[key].attrs.get("fold")
            if fold not in splits:
                raise MapexError(
                    f"Patch {key} of {file} must say that its fold is one of {', '.join(map(str, splits))}; "
                    f"found {fold}. Fetch the file again."
                )
            images = {
                sensor: hdf5.Layer(file, f"{key}/{image}") for sensor, image in _IMAGES.items() if image in patches[key]
            }
            entries[key] = Entry(splits[fold], images, hdf5.Layer(file, f"{key}/mask"))
    return entries
