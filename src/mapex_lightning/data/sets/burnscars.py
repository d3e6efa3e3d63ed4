"""HLS burn scars: 804 scenes of harmonised Landsat and Sentinel-2 with the scars of wildfires."""

from __future__ import annotations

from collections.abc import Sequence

from mapex_lightning.data.sets.published import Entry, Published, beneath
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.sets.splits import share_of
from mapex_lightning.data.tileset import Split

# Of Sentinel-2 (S30) B02, B03, B04, B8A, B11 and B12, adjusted to Landsat's bands, by whose names they go here.
SENSORS = {"hls": Sensor(("blue", "green", "red", "nir", "swir1", "swir2"), "reflectance", 30.0, nodata=9999.0)}

_VALIDATION = 0.1


class BurnScars(Published):
    """HLS burn scars of IBM and NASA (Phillips et al. 2023, doi:10.57967/hf/0956), contiguous United States, 2018-2021.

    Scenes of 512 x 512 pixels at 30 m: surface reflectance as a fraction, six bands (blue, green, red, narrow near
    infrared and twice short-wave infrared) with Landsat's names, so that the modality landsat fits; and masks of burnt
    ground, in which -1 does not count.

    The authors publish training and validation. Their validation is the test here, as in the PANGAEA benchmark, and a
    tenth of their training is for validation, by a hash of the Sentinel-2 tile: the scenes of one tile stay together.
    The authors split at random, so their validation shares tiles with training.

    Args:
        root: the folder that holds, itself or one level down, the folders training and validation.
        require: sensors that every scene must have; there is one, hls.

    Raises:
        MapexError: `require` names something else.
    """

    title = "HLS burn scars"
    task = "segmentation"
    classes = ("unburnt", "burnt")
    sensors = SENSORS

    def listed(self) -> dict[str, Entry]:
        """Ids such as ``HLS.S30.T10SDH.2020248.v1.4``, by name."""
        entries = {}
        for part in ("training", "validation"):
            folder = beneath(self.root, part)
            for scene in sorted(folder.glob("*_merged.tif")) if folder is not None else ():
                name = scene.name.removesuffix("_merged.tif")
                key = name.removeprefix("subsetted_512x512_")
                entries[key] = Entry(_split_of(part, key), {"hls": scene}, scene.with_name(f"{name}.mask.tif"))
        return entries

    def wanted(self, sensors: Sequence[str]) -> str:
        """The folders of the archive."""
        return (
            "Wanted training and validation with *_merged.tif and *.mask.tif, there or one level below: unpack "
            "hls_burn_scars.tar.gz of huggingface.co/datasets/ibm-nasa-geospatial/hls_burn_scars."
        )


def _split_of(part: str, key: str) -> Split:
    """The split of a scene; the third part of its name is its tile."""
    if part == "validation":
        return "test"
    return "val" if share_of(key.split(".")[2]) < _VALIDATION else "train"
