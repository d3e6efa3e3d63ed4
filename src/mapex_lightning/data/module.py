"""The one LightningDataModule: batches of multi-sensor tiles out of one data set or several."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from mapex_lightning.data.cuts import Cuts
from mapex_lightning.data.loader import EpochLoader
from mapex_lightning.data.maps.windows import Cell, Windows, scenes_of
from mapex_lightning.data.members import Members, few
from mapex_lightning.data.packed.batches import Stored
from mapex_lightning.data.sampler import EpochSampler
from mapex_lightning.data.scenes.scene import Reading
from mapex_lightning.data.tileset import DATA, Split, Task, TileSet
from mapex_lightning.data.transforms import Layout
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.modality import modalities as look_up
from mapex_lightning.signals import shield
from mapex_lightning.tiles import Tile, Tiles, collate

Batch = Tiles | tuple[Tiles, Tensor]


class TileData(LightningDataModule):
    """Tiles for pre-training, fine-tuning, evaluation and prediction.

    Batches are ``(Tiles, target)`` where all data sets share a task and classes, else ``Tiles``.

    Args:
        sets: the data sets; several make a mixture.
        modalities: the sensors to read, by name; a block of fields is a sensor of your own.
        size: side of what a model sees at once, in pixels of the finest sensor. Training crops tiles at random, and
            evaluation takes the centre; where every pixel has a class, validate, test and predict take all of a tile,
            in as many parts as it takes, and so does the test after a fit.
        batch_size: tiles, or parts of tiles, per process and step.
        workers: processes that read tiles; 0 reads in the training process.
        root: the folder in which sets look for their files instead of data/, unless they have a root of their own.
        shots: labelled tiles per class to train on; by default all.
        weights: per set, its share of an epoch; by default every tile once. A set with more tiles than its share goes
            on in the next epoch where it stopped.
        draws: tiles per epoch when `weights` are given; by default as many as there are.
        augment: random crops, flips and rotations in training.
        most_bad: share of training tiles that may be unreadable, each skipped with a warning; 0 for none.
        predict: the split that ``mapex predict`` goes through.
        scene: what ``mapex predict`` maps instead of the sets: the files of each sensor, or those of the only one.
        reading: how the files of a scene are to be read, by sensor: band names, nodata, scale, offset, decibels.
        overlap: the share of a window of a scene that the next window covers again.
        timeout: minutes that the next batch may take its `workers` before the run ends, as happens where a network file
            system has gone; 0 waits for ever.
        seed: of order, augmentations and shots.
    """

    def __init__(
        self,
        sets: list[TileSet],
        modalities: list[str | Modality],
        size: int = 64,
        batch_size: int = 64,
        workers: int = 0,
        root: str | None = None,
        shots: int | None = None,
        weights: list[float] | None = None,
        draws: int | None = None,
        augment: bool = True,
        most_bad: float = 0.01,
        predict: Literal["train", "val", "test"] = "test",
        scene: dict[str, list[str]] | list[str] | None = None,
        reading: dict[str, Reading] | None = None,
        overlap: float = 0.5,
        timeout: float = 30.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not sets:
            raise MapexError("data.sets is empty; name one or more data sets, such as Synthetic.")
        if weights is not None and (len(weights) != len(sets) or min(weights) <= 0):
            raise MapexError(f"data.weights needs a positive number per set ({len(sets)}); found {weights}.")
        if draws is not None and (weights is None or draws < 1):
            raise MapexError(f"data.draws is a number of tiles per epoch and needs data.weights; found {draws}.")
        if (shots is not None and shots < 1) or seed < 0:
            raise MapexError(f"data.shots is 1 or more and data.seed 0 or more; found {shots} and {seed}.")
        if not 0 <= timeout < math.inf:  # NaN is none either
            raise MapexError(f"data.timeout is a number of minutes, or 0 to wait for ever; found {timeout:g}.")
        if size < 1 or batch_size < 1 or workers < 0:
            raise MapexError(
                "data.size and data.batch_size are 1 or more and data.workers is 0 or more; found "
                f"{size}, {batch_size} and {workers}."
            )
        self.sets = sets
        if root is not None:
            for source in sets:
                source.root = Path(root) if source.root == DATA else source.root
        self.modalities = look_up(modalities)
        self.extent = size * min(modality.gsd for modality in self.modalities)
        self.batch_size, self.workers, self.shots, self.seed = batch_size, workers, shots, seed
        self.weights, self.draws = weights, draws
        self.augment, self.most_bad, self.predict_split = augment, most_bad, predict
        self._members: dict[Split, Members] = {}
        self._place: dict[str, int] = {}
        self.scene, self.reading, self.overlap = scene, reading or {}, overlap
        self.windows: Windows | None = None
        self.timeout = 60 * timeout

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> Any:
        """Not offered: checkpoints say nothing of data, and Lightning's way may fetch and unpickle what it gets.

        Raises:
            MapexError: always.
        """
        raise MapexError("Checkpoints hold no data settings; build TileData from its own arguments.")

    @property
    def task(self) -> Task | None:
        """The task, where all sets share one and its classes."""
        return self.sets[0].task if self.labelled else None

    @property
    def classes(self) -> list[str]:
        """The classes that all sets share, else none."""
        return list(self.sets[0].classes) if self.labelled else []

    @property
    def labelled(self) -> bool:
        """Whether all sets share a task and classes."""
        first = self.sets[0]
        return len(self.sets) == 1 or all(
            source.task == first.task and source.classes == first.classes for source in self.sets
        )

    def members(self, split: Split) -> Members:
        """The tiles of a split, as data set and key; of the training split, `shots` of each class.

        Raises:
            MapexError: a set is not there, or the split is empty.
        """
        if split not in self._members:
            self._check_offered()
            found = Members(tuple((source, source.keys(split, self._offered(source))) for source in self.sets))
            if not found:
                names = ", ".join(type(source).__name__ for source in self.sets)
                raise MapexError(f"The split {split} of {names} holds no tile; add some or use another split.")
            self._members[split] = few(found, self.shots, self.seed) if self.shots and split == "train" else found
        return self._members[split]

    def _offered(self, source: TileSet) -> list[Modality]:
        return [modality for modality in self.modalities if source.offers(modality)]

    def _check_offered(self) -> None:
        """A modality that is absent everywhere, or a set without any, is a mistake in the config."""
        names = ", ".join(type(source).__name__ for source in self.sets)
        for modality in self.modalities:
            if not any(source.offers(modality) for source in self.sets):
                raise MapexError(
                    f"No data set ({names}) offers modality {modality.name} with bands {', '.join(modality.bands)} in "
                    f"{modality.unit} at {modality.gsd:g} m; leave it out of data.modalities or add a set that has it."
                )
        for source in self.sets:
            if not self._offered(source):
                raise MapexError(
                    f"{type(source).__name__} offers none of the modalities "
                    f"{', '.join(modality.name for modality in self.modalities)}; leave it out of data.sets."
                )

    def state_dict(self) -> dict[str, int]:
        """How far training has gone in its epoch."""
        loader = self.trainer.train_dataloader if self.trainer else None
        return loader.state_dict() if isinstance(loader, EpochLoader) else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets `train_dataloader` go on from there.

        Lightning gives loaders their state, too, but makes them before that where it has to count the steps of a run.
        """
        self._place = state

    def train_dataloader(self) -> DataLoader[Tile]:
        """Shuffled, augmented batches of equal size, from the first of a run or from where it stopped.

        Raises:
            MapexError: other batches cannot go on where it stopped.
        """
        members = self.members("train")
        cuts = self._cuts(members, self.augment, self.most_bad)
        loader = self._loader(cuts, members, shuffle=True)
        place, self._place = self._place, {}
        if place:
            loader.load_state_dict(place)
            loader.order.set_epoch(place["epoch"] + (place["batches"] == 0))
        return loader

    def val_dataloader(self) -> DataLoader[Tile]:
        """Every validation tile once: its centre while a model is trained, to be quick, and otherwise as in a test."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        cuts = self._centres("val") if fitting else self._judged("val")
        return self._loader(cuts, self.members("val"), shuffle=False)

    def test_dataloader(self) -> DataLoader[Tile]:
        """Every test tile once."""
        return self._loader(self._judged("test"), self.members("test"), shuffle=False)

    def predict_dataloader(self) -> DataLoader[Tile]:
        """Every tile of the split `predict` once, without label, or this process's share of the windows of a scene."""
        if self.windows is not None:
            return self._windows_loader(self.windows)
        members = self.members(self.predict_split)
        return self._loader(self._judged(self.predict_split), members, shuffle=False, labelled=False)

    def open_scene(self, cell: Cell, patch: int, encoder: Sequence[Modality] | None = None) -> Windows:
        """Makes `predict_dataloader` go through the windows of the scene.

        Args:
            cell: what a cell of the map is; see `Windows`.
            patch: side of the encoder's patches in pixels.
            encoder: read those of an encoder's sensors that the scene has, instead of `modalities` with some absent.

        Raises:
            MapexError: the scene names a sensor that is not read, or cannot be read itself.
        """
        assert self.scene is not None
        read = encoder or self.modalities
        scenes = scenes_of(self.scene, read, self.reading)
        read = [modality for modality in read if modality.name in scenes] if encoder else read
        side = round(self.extent / min(modality.gsd for modality in read))
        self.windows = Windows(scenes, read, side, self.overlap, cell, patch)
        return self.windows

    def _windows_loader(self, windows: Windows) -> DataLoader[Tile]:
        mine, size = windows.plan.share(*self._rank()).windows, self.batch_size
        # Batches are the same on any number of processes, so that not even rounding differs; whoever has nothing to do
        # has a batch nevertheless, for the Trainer.
        wanted = range(mine.start // size * size, min(-(-mine.stop // size) * size, len(windows))) or range(1)
        return DataLoader(
            dataset=windows,
            batch_size=size,
            sampler=wanted,
            num_workers=self.workers,
            timeout=self.timeout if self.workers else 0,
            collate_fn=windows.batch,
            pin_memory=torch.cuda.is_available(),
        )

    def _rank(self) -> tuple[int, int]:
        """The number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def on_after_batch_transfer(self, batch: Batch | Stored, dataloader_idx: int) -> Batch:
        """Makes tiles of what packed stores hold, on the device; all other batches are tiles already.

        The Trainer calls this. Whoever goes through a loader by hand calls it too, with 0 as the loader's number.
        """
        return batch.finished(self.modalities, self.extent) if isinstance(batch, Stored) else batch

    def examples(self, count: int, split: Split = "val") -> Tiles:
        """A few tiles spread over a split as a batch, always the same: for pictures and measurements."""
        cuts = self._centres(split)
        count = min(count, len(cuts))
        chosen = [number * len(cuts) // count for number in range(count)]
        return collate([cuts[0, index] for index in chosen], self.modalities, self.extent)

    def layout(self, name: str) -> Layout:
        """How the parts of a predicted tile lie in it, which is read for that.

        Raises:
            MapexError: the tile cannot be read.
        """
        source = self._sources[name]
        tile = source.read(name, self._offered(source))
        return Layout.of(tile, source.georeference(name), self.modalities, self.extent)

    @functools.cached_property
    def _sources(self) -> dict[str, TileSet]:
        """The first data set with each name of the predicted split."""
        return {key: source for source, key in reversed(self.members(self.predict_split))}

    def _centres(self, split: Split) -> Cuts:
        """The centre of every tile of a split, none of which may be unreadable."""
        return self._cuts(self.members(split), augment=False, most_bad=0.0)

    def _judged(self, split: Split) -> Cuts:
        """A split for evaluation and prediction: all of every tile where every pixel counts, otherwise its centre."""
        dense = self.task == "segmentation" and bool(self.classes)
        return self._cuts(self.members(split), augment=False, most_bad=0.0, whole=dense)

    def _cuts(
        self, members: Sequence[tuple[TileSet, str]], augment: bool, most_bad: float, *, whole: bool = False
    ) -> Cuts:
        return Cuts(members, self.modalities, self.extent, augment, most_bad, self.seed, whole=whole)

    def _loader(self, cuts: Cuts, members: Members, *, shuffle: bool, labelled: bool = True) -> EpochLoader:
        rank, world = self._rank()
        drawn = self.draws if shuffle and self.draws is not None else len(members)
        if min(drawn, len(members)) < world:
            raise MapexError(
                f"There are {min(drawn, len(members))} tiles for {world} processes, and each needs one or more; use "
                f"fewer trainer.devices{' or more data.draws' * (drawn < len(members))}."
            )
        sampler = EpochSampler(
            members.shards,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world=world,
            weights=self.weights if shuffle else None,
            draws=self.draws if shuffle else None,
        )
        sampler.set_epoch(self._epoch())
        size = min(self.batch_size, max(1, len(sampler))) if shuffle else self.batch_size
        if cuts.whole:  # about as many parts as a batch has tiles in training
            size = max(1, size // len(cuts.parts(0)))
        loader = EpochLoader(
            dataset=cuts,
            batch_size=size,
            sampler=sampler,
            num_workers=self.workers,
            timeout=self.timeout if self.workers else 0,
            collate_fn=functools.partial(_batch, self.modalities, self.extent, labelled and self.labelled),
            drop_last=shuffle,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
            worker_init_fn=shield,
        )
        loader.given = self._given
        return loader

    def _epoch(self) -> int:
        """The epoch a run begins with; the workers of a resumed one begin to read before Lightning says which it is."""
        if not self.trainer:
            return 0
        loop = self.trainer.fit_loop
        begun, over = loop.epoch_progress.current.ready, loop.epoch_loop.batch_progress.is_last_batch
        return begun if over else max(0, begun - 1)

    def _given(self) -> int:
        """How many batches of this epoch the model has been given; 0 when it is over."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress if self.trainer else None
        return 0 if progress is None or progress.is_last_batch else progress.current.ready


def _batch(
    modalities: Sequence[Modality], extent: float, labelled: bool, tiles: Sequence[Tile] | Stored
) -> Batch | Stored:
    if isinstance(tiles, Stored):
        if not labelled or len(tiles.unlabelled) == len(tiles.names):
            return tiles._replace(target=None)
        _check_labelled(tiles.unlabelled)
        return tiles
    batch = collate(tiles, modalities, extent)
    unlabelled = [tile.name for tile in tiles if tile.target is None]
    if not labelled or len(unlabelled) == len(tiles):
        return batch
    _check_labelled(unlabelled)
    targets = [np.asarray(tile.target) for tile in tiles]
    for tile, target in zip(tiles, targets, strict=True):
        if target.shape != targets[0].shape:
            raise MapexError(
                f"Tile {tile.name} has a label of shape {target.shape} where tile {tiles[0].name} has "
                f"{targets[0].shape}. Give all masks the grid of the same sensor."
            )
    return batch, torch.from_numpy(np.stack(targets))


def _check_labelled(unlabelled: Sequence[str]) -> None:
    if unlabelled:
        raise MapexError(f"Tile {unlabelled[0]} has no label and others have; label it or leave it out.")
