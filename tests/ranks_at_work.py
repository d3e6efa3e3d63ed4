"""What ranks do in tests: training where each of them sees sensors of its own, and whole commands."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import combinations, product
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from mapex_lightning.__main__ import main
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.tileset import Split, TileSet
from mapex_lightning.modality import Modality
from mapex_lightning.model.config import RouterMode
from mapex_lightning.tiles import Tile
from mapex_lightning.train.base import MapexModule, tiles_of
from mapex_lightning.train.checkpoint_io import WholeCheckpointIO
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.pretrain import Pretrain
from mapex_lightning.train.sharded import FullySharded
from tests.workshop import trainer_of

BATCH = 2
PRETRAINED = ("s1", "s2", "dem")
"""The sensors of `train` and `mapex`."""


def subsets(sensors: Sequence[Modality]) -> list[tuple[str, ...]]:
    """Every non-empty subset of the names."""
    names = [sensor.name for sensor in sensors]
    return [some for size in range(1, len(names) + 1) for some in combinations(names, size)]


def pairs(sensors: Sequence[Modality]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every pair of subsets: what rank 0 and rank 1 see in the same step."""
    return list(product(subsets(sensors), subsets(sensors)))


class Paired(TileSet):
    """In step n rank r sees the r-th subset of the n-th pair, and no tile of it has another sensor."""

    task, root, classes = "multiclass", Path(), ("a", "b")

    def __init__(self, sensors: Sequence[Modality], rank: int) -> None:
        self.steps = [pair[rank] for pair in pairs(sensors)]
        self.count = 0

    def offers(self, modality: Modality) -> bool:
        return True

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> list[str]:
        return [f"{split}{number}" for number in range(2 * BATCH * len(self.steps))]

    def label(self, key: str) -> int:
        return len(key) % 2

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        step = self.steps[self.count // BATCH % len(self.steps)]
        self.count += 1
        rng = np.random.default_rng(list(key.encode()))
        images = {}
        for sensor in modalities:
            if sensor.name in step:
                side = round(160 / sensor.gsd)
                noise = rng.normal(size=(len(sensor.bands), side, side)) * np.reshape(sensor.std, (-1, 1, 1))
                images[sensor.name] = (noise + np.reshape(sensor.mean, (-1, 1, 1))).astype(np.float32)
        return Tile(key, images, self.label(key))


class Watched(Callback):
    """Notes the sensors, the loss and the weights of every step."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []
        self.losses: list[float] = []
        self.weights: list[str] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        present = tiles_of(batch).present
        self.seen.append(tuple(name for name, here in present.items() if bool(here.any())))
        self.losses.append(float(outputs["loss"]))
        self.weights.append(fingerprint(pl_module))


def fingerprint(module: torch.nn.Module) -> str:
    """Equal for equal weights; all of them finite, or it is an error."""
    flat = torch.cat([weight.detach().flatten() for weight in module.parameters()])
    assert bool(flat.isfinite().all())
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def module_of(kind: str, encoder: str, sensors: Sequence[Modality]) -> MapexModule:
    """A module to train, by what is trained in it."""
    if kind == "pretrain":
        return Pretrain(encoder, list(sensors), seal=None)
    train: Any = kind
    return FineTune(encoder, "multiclass", ["a", "b"], list(sensors), train=train)


def through_all_pairs(work: Sequence[tuple[str, str, Sequence[Modality]]]) -> list[tuple[Any, ...]]:
    """Trains each module, an encoder of these sensors, with one step per pair of subsets under plain DDP."""
    found = []
    for kind, encoder, sensors in work:
        torch.manual_seed(0)
        module, watched = module_of(kind, encoder, sensors), Watched()
        data = TileData([Paired(sensors, int(os.environ["LOCAL_RANK"]))], list(sensors), size=16, batch_size=BATCH)
        strategy = DDPStrategy(timeout=timedelta(seconds=60))
        trainer = trainer_of(devices=2, strategy=strategy, callbacks=[watched], limit_val_batches=0)
        trainer.fit(module, datamodule=data)
        found.append((watched.seen, watched.losses, watched.weights))
    return found


def train(
    strategy: str,
    ranks: int,
    batch: int,
    *,
    task: str = "",
    epochs: int = 2,
    save: str | None = None,
    resume: str | None = None,
    stop_after: int | None = None,
    router: RouterMode = "conditioned",
    **settings: Any,
) -> dict[str, Any]:
    """Pre-trains nano, or fine-tunes it for a task, on tiles of which some lack sensors.

    Args:
        strategy: ``ddp`` or ``fsdp2``, where there are several ranks.
        ranks: how many.
        batch: tiles per rank.
        task: of fine-tuning; pre-training where there is none.
        epochs: of the run.
        save: where to write a checkpoint at the end.
        resume: the checkpoint to go on from.
        stop_after: epochs.
        router: of pre-training.
        settings: of the Trainer; ``further`` callbacks are added to those that watch.

    Returns:
        Losses of the batches, the learning rate after each, the number of steps, figures of the
        validation, the census and the sealed sets.
    """
    torch.manual_seed(0)
    named: Any = {"ddp": DDPStrategy, "fsdp2": FullySharded}
    chosen = named[strategy](timeout=timedelta(seconds=60)) if ranks > 1 else "auto"
    tiles: Any = {"task": task} if task else {}
    data = TileData(
        [Synthetic(train=16, val=9, test=7, size=16, missing=0.3, **tiles)],
        list(PRETRAINED),
        size=16,
        batch_size=batch,
    )
    module: MapexModule = (
        FineTune("nano", data.task, data.classes, list(PRETRAINED))
        if task
        else Pretrain("nano", list(PRETRAINED), router=router, seal=0.5)
    )
    watched = Losses(stop_after)
    trainer = trainer_of(
        devices=ranks,
        strategy=chosen,
        max_epochs=epochs,
        callbacks=[watched, *settings.pop("further", [])],
        plugins=[*settings.pop("plugins", []), WholeCheckpointIO()],
        gradient_clip_val=1.0,
        **settings,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    return {
        "losses": watched.losses,
        "steps": trainer.global_step,
        "rates": watched.rates,
        "val": {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")},
        "census": [mixture.census.tolist() for mixture in module.encoder.mixtures.values()],
        "allowed": module.encoder.config.allowed,
    }


class Losses(Callback):
    """Notes losses and learning rates, and may stop a run early.

    Args:
        stop_after: epochs.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stop_after == trainer.current_epoch + 1:
            trainer.should_stop = True


def several(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`train`, one after the other, in the same processes."""
    return [train(**call) for call in calls]


def mapex(*commands: Sequence[str]) -> list[int]:
    """The exit codes of commands, one after the other."""
    return [main(words) for words in commands]
