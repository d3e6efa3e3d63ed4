"""Data sets: one file for each that is published, one for anyone's own tiles, one for scenes made on the fly."""

from mapex_lightning.data.sets.benge import BenGe
from mapex_lightning.data.sets.bigearthnet import BigEarthNet
from mapex_lightning.data.sets.eurosat import EuroSAT
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.sets.synthetic import Synthetic

__all__ = ["BenGe", "BigEarthNet", "EuroSAT", "Folder", "Synthetic"]
