"""What every data set is to us: named tiles, in splits, with labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mapex_lightning.data.fingerprint import digest_of, settings_of
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Target, Tile

Task = Literal["multiclass", "multilabel", "segmentation"]
Split = Literal["train", "val", "test"]
DATA = Path("data")
"""Where data sets look for their files unless they are told otherwise; ``data.root`` takes its place."""

TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "segmentation")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class GeoReference(NamedTuple):
    """Where a tile lies: what a predicted raster is written with.

    Attributes:
        crs: the coordinate system as WKT.
        transform: the six numbers of the affine transform from pixel to map.
        shape: rows and columns of the raster whose pixels these are; None where they are those of the finest sensor.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int] | None = None

    def on(self, rows: int, columns: int) -> GeoReference:
        """The same ground in as many pixels."""
        high, wide = self.shape or (rows, columns)
        a, b, c, d, e, f = self.transform
        down, across = high / rows, wide / columns
        return GeoReference(self.crs, (a * across, b * down, c, d * across, e * down, f), (rows, columns))

    def at(self, row: float, column: float) -> GeoReference:
        """Where a part lies whose first pixel has this row and column, which may be fractions."""
        a, b, c, d, e, f = self.transform
        return GeoReference(self.crs, (a, b, a * column + b * row + c, d, e, d * column + e * row + f))


class TileSet(ABC):
    """A data set on disk, or made on the fly. Constructing one reads nothing.

    Attributes:
        root: the folder below which the files are looked for.
    """

    root: Path

    @property
    @abstractmethod
    def task(self) -> Task:
        """What the labels are."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by index."""

    @abstractmethod
    def offers(self, modality: Modality) -> bool:
        """Whether any tile could have this modality; the others of a data set are not asked for."""

    @abstractmethod
    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        """The ids of the tiles of a split, in an order that never changes.

        Args:
            split: which split.
            modalities: only tiles that have at least one of these; None is every tile of the split.

        Raises:
            MapexError: the files are not there; the sentence says where to get them.
        """

    @abstractmethod
    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One tile, with those of the modalities that it has, and its label.

        Raises:
            MapexError: a file cannot be read, or lacks a band; the sentence names file and band.
        """

    @abstractmethod
    def label(self, key: str) -> Target | None:
        """The label of a tile, without reading pixels where that is possible."""

    def georeference(self, key: str) -> GeoReference | None:
        """Where a raster of the tile lies, its mask first, or None where the data set does not say."""
        return None

    def fingerprint(self, modalities: Sequence[Modality]) -> str:
        """A digest of what pixels and labels depend on, beside root, task and classes: others make other tiles.

        It reads no pixels, and must stay cheap where there are millions of tiles. By default it is of the settings
        alone; a data set of files adds their sizes and times of change.

        Args:
            modalities: those whose pixels matter.
        """
        return digest_of([settings_of(self, without=("root", "task", "classes"))])
