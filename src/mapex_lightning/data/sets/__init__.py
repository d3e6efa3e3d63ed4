"""Data sets: one file for each that is published, one for anyone's own tiles, one for scenes made on the fly."""

from mapex_lightning.data.sets.bigearthnet import BigEarthNet
from mapex_lightning.data.sets.eurosat import EuroSAT
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.sets.packed import Packed
from mapex_lightning.data.sets.synthetic import Synthetic

__all__ = ["BigEarthNet", "EuroSAT", "Folder", "Packed", "Synthetic"]
