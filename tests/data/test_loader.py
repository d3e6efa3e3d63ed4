"""Runs over shards and loose tiles: nothing twice, nothing left out, and on from where a run stopped."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import Trainer

from mapex_lightning.data import module
from mapex_lightning.data.loader import EpochLoader
from mapex_lightning.data.module import TileData
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sets.packed import Packed
from mapex_lightning.data.sets.ssl4eo import SSL4EO
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.sets.terramesh import TerraMesh
from mapex_lightning.errors import MapexError
from mapex_lightning.signals import STOP_SIGNALS, shield
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.base import tiles_of
from tests.sharding import write_set
from tests.workshop import trainer_of

WORKERS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of TerraMesh with 5, 3 and 4 places, and one of SSL4EO-S12 with two places, four times each."""
    root = tmp_path_factory.mktemp("shards")
    for name, numbers in (("a", range(5)), ("b", range(5, 8)), ("c", range(8, 12))):
        write_set(root / "TerraMesh", "train", name, ["S2L2A", "S1RTC"], numbers)
    write_set(root / "TerraMesh", "val", "a", ["S2L2A"], range(20, 23))
    write_set(root / "SSL4EO-S12-v1.1", "train", "a", ["S1GRD"], range(2), times=4)
    return root


def mixture(root: Path, **settings: Any) -> TileData:
    """20 tiles in shards and 6 loose ones: optical and radar, radar alone, heights alone."""
    sets = [TerraMesh(root), SSL4EO(root), Synthetic(train=6, val=2, test=0, size=16, missing=0.0)]
    return TileData(sets, ["s1", "s2", "dem"], **({"size": 16, "batch_size": 3} | settings))


class Diary(pl.LightningModule):
    """Writes down what it is given, and saves a checkpoint after some of its batches."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder, self.seen = folder, list[tuple[tuple[str, ...], float]]()

    def training_step(self, batch: Tiles | tuple[Tiles, torch.Tensor]) -> torch.Tensor:
        batch = tiles_of(batch)
        self.seen.append((batch.names, float(batch.images["s1"].sum())))
        return self.weight * 0.0

    def validation_step(self, batch: Tiles) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Saver(pl.Callback):
    """Saves after every batch, as ``ModelCheckpoint(every_n_train_steps=1)`` does, and at the end of every epoch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Diary)
        if pl_module.folder is not None:
            trainer.save_checkpoint(pl_module.folder / f"{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Diary)
        if pl_module.folder is not None:
            trainer.save_checkpoint(pl_module.folder / f"end-{trainer.global_step}.ckpt")


def run(data: TileData, folder: Path | None = None, resume: Path | None = None, **settings: Any) -> list[Any]:
    """What a run of three epochs was given, in order."""
    model = Diary(folder)
    trainer = trainer_of(max_epochs=3, callbacks=[Saver()], **settings)
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model.seen


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A run that is not interrupted: its checkpoints, and what it was given."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(mixture(root), folder)


@WORKERS
@pytest.mark.parametrize(
    ("name", "workers"), [("1", 0), ("5", 0), ("5", 2), ("8", 0), ("8", 1), ("end-8", 0), ("end-8", 2), ("13", 0)]
)
def test_a_resumed_run_is_given_what_the_uninterrupted_one_would_have_been(
    root: Path, whole: tuple[Path, list[Any]], name: str, workers: int
) -> None:
    folder, seen = whole
    assert len(seen) == 24
    found = run(mixture(root, workers=workers), resume=folder / f"{name}.ckpt")
    assert found == seen[int(name.removeprefix("end-")) :]


@pytest.mark.parametrize("packing", [False, True])
def test_overfitting_takes_the_same_few_tiles_in_every_epoch(packing: bool, tmp_path: Path) -> None:
    data = TileData([Synthetic(train=6, val=2, test=0, size=16, missing=0.0)], ["s1"], size=8, batch_size=2)
    if packing:
        pack(Packing(data.sets[0], tuple(data.modalities), tmp_path / "packed"))
        data = TileData([Packed(tmp_path / "packed")], ["s1"], size=8, batch_size=2)
    with pytest.warns(UserWarning, match="requested to overfit"):
        seen = run(data, tmp_path, overfit_batches=2)
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]
    assert len({name for names, _ in seen for name in names}) == 4
    assert (tmp_path / "6.ckpt").is_file()


def test_an_epoch_goes_on_with_as_many_tiles_together_only(root: Path, whole: tuple[Path, list[Any]]) -> None:
    folder, _ = whole
    with pytest.raises(
        MapexError, match="in the middle of an epoch, in which 3 tiles were taken together; now it is 4"
    ):
        run(mixture(root, batch_size=4), resume=folder / "5.ckpt")
    assert len(run(mixture(root, batch_size=4), resume=folder / "end-8.ckpt")) == 2 * (26 // 4)


@WORKERS
@pytest.mark.parametrize("name", ["3", "4", "end-4"])
def test_a_run_of_short_epochs_is_resumed_where_it_stopped(root: Path, tmp_path: Path, name: str) -> None:
    whole = run(mixture(root), tmp_path, limit_train_batches=2)
    found = run(mixture(root, workers=1), resume=tmp_path / f"{name}.ckpt", limit_train_batches=2)
    assert found == whole[int(name.removeprefix("end-")) :]


@WORKERS
def test_a_run_that_is_over_is_continued_with_new_epochs(root: Path, tmp_path: Path) -> None:
    trainer = trainer_of(max_epochs=1)
    trainer.fit(Diary(), datamodule=mixture(root))
    trainer.save_checkpoint(tmp_path / "over.ckpt")
    assert run(mixture(root, workers=1), resume=tmp_path / "over.ckpt") == run(mixture(root))[8:]


@WORKERS
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (3, 2)])
def test_over_all_ranks_and_workers_every_tile_comes_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, world: int, workers: int
) -> None:
    monkeypatch.setattr(Trainer, "world_size", world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(Trainer, "global_rank", rank)
        data = mixture(root, workers=workers, batch_size=1)
        data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, barebones=True)
        shares.append([name for batch in data.train_dataloader() for name in batch.names])
    assert {len(share) for share in shares} == {26 // world}
    every = [name for share in shares for name in share]
    assert len(set(every)) == len(every) == world * (26 // world)


def test_a_batch_mixes_sets_of_other_sensors_and_drops_their_labels(root: Path) -> None:
    (batch,) = mixture(root, batch_size=26).train_dataloader()
    assert isinstance(batch, Tiles)
    sensors = {
        tuple(name for name, here in batch.present.items() if here[row]): batch.names[row].partition(".")[0]
        for row in range(26)
    }
    assert sensors == {("s1", "s2"): "train", ("s1",): "train", ("s1", "s2", "dem"): sensors["s1", "s2", "dem"]}
    assert [int(here.sum()) for here in batch.present.values()] == [26, 18, 6]
    for name, here in batch.present.items():
        assert not batch.images[name][~here].any()


def test_weights_are_the_shares_of_shards_and_loose_sets_in_every_epoch(root: Path) -> None:
    data = mixture(root, weights=[1.0, 2.0, 1.0], draws=40)
    loader, members = data.train_dataloader(), data.members("train")
    assert isinstance(loader, EpochLoader)
    taken = []
    for epoch in range(6):
        loader.order.set_epoch(epoch)
        mine = [members[index] for _, index in loader.order]
        assert [sum(source is one for source, _ in mine) for one in data.sets] == [10, 20, 10]
        for tenth in range(0, 40, 10):  # whatever a batch is cut from the order, it mixes the sets
            assert {source for source, _ in mine[tenth : tenth + 10]} == set(data.sets)
        taken += [key for source, key in mine if source is data.sets[0]]
    assert {taken.count(key) for key in data.sets[0].keys("train")} == {5}


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_does_not_end_a_process_that_is_about_to_read(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def told_early(worker: int) -> None:
        subprocess.run(["kill", f"-{number}", str(os.getpid())], check=True)
        shield(worker)

    monkeypatch.setattr(module, "shield", told_early)
    data = TileData([Synthetic(train=4, val=4, size=16)], ["s1"], size=16, batch_size=2, workers=1)
    assert len(list(data.val_dataloader())) == 2


def test_validation_goes_through_the_shards_of_its_split_once(root: Path) -> None:
    (batch,) = TileData([TerraMesh(root)], ["s2"], size=16).val_dataloader()
    assert [name[-2:] for name in batch.names] == ["20", "21", "22"]
    assert TileData([TerraMesh(root)], ["s2"], size=16).examples(2).names[1].endswith("21")
