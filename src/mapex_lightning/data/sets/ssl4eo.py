"""SSL4EO-S12 v1.1: a quarter of a million places near cities, each in four seasons, in shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.sets.shards import Shards
from mapex_lightning.data.sets.terramesh import FOLDERS, L1C_BANDS, REFLECTANCE, SENSORS
from mapex_lightning.data.tileset import DATA
from mapex_lightning.modality import S2_BANDS


class SSL4EO(Shards):
    """SSL4EO-S12 v1.1 (Blumenstiel et al. 2025, arXiv:2503.00168) in shards: 246,144 places, four times each.

    Each of the four times of a place is a tile of its own, 264 x 264 pixels on a 10 m grid. Elevation and land cover
    hold for all four. Radar is detected (S1GRD). The offset of 1000 of newer Sentinel-2 products is taken off.

    The older release of 3,846 Zarr zips with 64 places each, and the first version of GeoTIFFs, are other layouts.

    Modalities: s2, s1, rgb, dem and any others whose bands are among theirs; ndvi and lulc as in `TerraMesh`.

    Args:
        root: the folder that holds, itself or in SSL4EO-S12-v1.1, train and val.
        level: of Sentinel-2: 2A is surface reflectance, 1C top of atmosphere, which has B10 too.
        require: sensors, such as s1, that every tile must have.
        index: the folder that keeps the tables of the shards; by default each lies beside its shard.

    Raises:
        MapexError: `require` names a sensor that it does not have.
    """

    title = "SSL4EO-S12 v1.1"
    names = ("SSL4EO-S12-v1.1", "ssl4eo-s12")
    home = "Fetch its shards, or some of them, from huggingface.co/datasets/embed2scale/SSL4EO-S12-v1.1."
    times = 4

    def __init__(
        self,
        root: str | Path = DATA,
        level: Literal["2A", "1C"] = "2A",
        require: Sequence[str] | None = None,
        index: str | Path | None = None,
    ) -> None:
        bands = S2_BANDS if level == "2A" else L1C_BANDS
        self.sensors = SENSORS | {"s2": Sensor(bands, REFLECTANCE, 10.0)}
        self.folders = FOLDERS | {"s2": (f"S2L{level}",), "s1": ("S1GRD",)}
        super().__init__(root, require, index)
