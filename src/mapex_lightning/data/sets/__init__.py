"""Data sets: a file or folder for each that is published, for any of torchgeo's, your own and invented scenes."""

from mapex_lightning.data.sets.benge import BenGe
from mapex_lightning.data.sets.bigearthnet import BigEarthNet
from mapex_lightning.data.sets.burnscars import BurnScars
from mapex_lightning.data.sets.cabuar import CaBuAr
from mapex_lightning.data.sets.eurosat import EuroSAT
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.sets.ombria import Ombria
from mapex_lightning.data.sets.packed import Packed
from mapex_lightning.data.sets.sen1floods11 import Sen1Floods11
from mapex_lightning.data.sets.sen12flood import Sen12Flood
from mapex_lightning.data.sets.ssl4eo import SSL4EO
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.sets.terramesh import TerraMesh
from mapex_lightning.data.sets.torchgeo import TorchGeo

__all__ = [
    "SSL4EO",
    "BenGe",
    "BigEarthNet",
    "BurnScars",
    "CaBuAr",
    "EuroSAT",
    "Folder",
    "Ombria",
    "Packed",
    "Sen1Floods11",
    "Sen12Flood",
    "Synthetic",
    "TerraMesh",
    "TorchGeo",
]
