"""TerraMesh: nine million places of the world in optical, radar, elevation, vegetation and land cover, in shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.sets.shards import Shards
from mapex_lightning.data.tileset import DATA
from mapex_lightning.modality import S2_BANDS

L1C_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
REFLECTANCE = "reflectance x 10000"

SENSORS = {
    "s2": Sensor(S2_BANDS, REFLECTANCE, 10.0),
    "s1": Sensor(("VV", "VH"), "dB", 10.0),
    "rgb": Sensor(("R", "G", "B"), "8-bit", 10.0),
    "dem": Sensor(("elevation",), "metres", 10.0),
    "ndvi": Sensor(("ndvi",), "index", 10.0),
    "lulc": Sensor(("class",), "class", 10.0),
}
FOLDERS = {
    "s2": ("S2L2A",),
    "s1": ("S1RTC", "S1GRD"),
    "rgb": ("S2RGB",),
    "dem": ("DEM",),
    "ndvi": ("NDVI",),
    "lulc": ("LULC",),
}


class TerraMesh(Shards):
    """TerraMesh (Blumenstiel et al. 2025, arXiv:2504.11172): 9,089,536 tiles to train on, 89,088 to validate on.

    Tiles are 264 x 264 pixels on a 10 m grid. A place has one kind of radar: terrain-corrected (S1RTC) where it comes
    from MajorTOM-Core, detected (S1GRD) where it comes from SSL4EO-S12. Gaps were filled by its authors, so no value
    stands for nodata.

    Some Sentinel-2 values carry the offset of 1000 that ESA adds since processing baseline 04.00 (January 2022), others
    do not, at times within one tile between the levels; the files do not say which. The authors' statistics, which
    terramesh.yaml uses, are of both together.

    Modalities: s2, s1, rgb, dem and any others whose bands are among theirs; ndvi (band ndvi, unit index) and lulc
    (band class, unit class: 1 water, 2 trees, 3 flooded vegetation, 4 crops, 5 built, 6 bare, 7 snow and ice, 8 clouds,
    9 rangeland) as blocks with statistics of your own.

    Args:
        root: the folder that holds, itself or in TerraMesh, train and val.
        level: of Sentinel-2: 2A is surface reflectance, 1C top of atmosphere, which has B10 too.
        radar: the kinds of radar that are taken as s1.
        require: sensors, such as s1, that every tile must have.
        index: the folder that keeps the tables of the shards; by default each lies beside its shard.

    Raises:
        MapexError: `require` names a sensor that it does not have.
    """

    title = "TerraMesh"
    names = ("TerraMesh",)
    home = (
        "Fetch it, or some shards of the sensors you want, from huggingface.co/datasets/ibm-esa-geospatial/TerraMesh."
    )

    def __init__(
        self,
        root: str | Path = DATA,
        level: Literal["2A", "1C"] = "2A",
        radar: Sequence[Literal["S1RTC", "S1GRD"]] = ("S1RTC", "S1GRD"),
        require: Sequence[str] | None = None,
        index: str | Path | None = None,
    ) -> None:
        bands = S2_BANDS if level == "2A" else L1C_BANDS
        self.sensors = SENSORS | {"s2": Sensor(bands, REFLECTANCE, 10.0)}
        self.folders = FOLDERS | {"s2": (f"S2L{level}",), "s1": tuple(radar)}
        super().__init__(root, require, index)
