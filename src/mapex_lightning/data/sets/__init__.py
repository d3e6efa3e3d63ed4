"""Data sets: one file for each that is published, one for anyone's own tiles, one for scenes made on the fly."""

from mapex_lightning.data.sets.benge import BenGe
from mapex_lightning.data.sets.bigearthnet import BigEarthNet
from mapex_lightning.data.sets.eurosat import EuroSAT
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.sets.ssl4eo import SSL4EOShards
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.sets.terramesh import TerraMesh

__all__ = ["BenGe", "BigEarthNet", "EuroSAT", "Folder", "SSL4EOShards", "Synthetic", "TerraMesh"]
