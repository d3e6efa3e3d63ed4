"""Data sets: a file for each that is published, for any of torchgeo's, for your own and for invented scenes."""

from mapex_lightning.data.sets.bigearthnet import BigEarthNet
from mapex_lightning.data.sets.eurosat import EuroSAT
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.sets.torchgeo import TorchGeo

__all__ = ["BigEarthNet", "EuroSAT", "Folder", "Synthetic", "TorchGeo"]
