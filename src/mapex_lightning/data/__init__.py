"""Tiles and their labels: data sets, rasters and the transforms that all sensors undergo together."""

from mapex_lightning.data.bigearthnet import BigEarthNet
from mapex_lightning.data.eurosat import EuroSAT
from mapex_lightning.data.folder import Folder
from mapex_lightning.data.synthetic import Synthetic
from mapex_lightning.data.tileset import TileSet

__all__ = ["BigEarthNet", "EuroSAT", "Folder", "Synthetic", "TileSet"]
