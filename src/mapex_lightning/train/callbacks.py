"""What a run shows and keeps besides checkpoints: progress, pictures, routing, figures and predictions."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from mapex_lightning.data.legend import check_classes
from mapex_lightning.data.module import TileData
from mapex_lightning.data.raster import write_mask
from mapex_lightning.errors import MapexError
from mapex_lightning.files import sweep, write_whole
from mapex_lightning.heatmap import Picture, draw, of_shares, write_png
from mapex_lightning.model.specialisation import shares
from mapex_lightning.tiles import IGNORED
from mapex_lightning.train.base import MapexModule, logging_interval, tiles_of
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.pictures import reconstructions
from mapex_lightning.train.pretrain import Pretrain
from mapex_lightning.train.ranks import every_rank, in_turn


def data_of(trainer: pl.Trainer) -> TileData:
    """The data module of a run; the Trainer has the attribute but does not declare it."""
    data = vars(trainer)["datamodule"]
    assert isinstance(data, TileData)
    return data


class Throughput(Callback):
    """Logs tiles per second over all ranks as ``train/tiles_per_second``, and ``train/waiting`` of this one.

    The latter is the share of time between the end of a step and the start of the next, in which the loader is waited
    for and batches go to the device. On a GPU it is the time of the process that feeds it: the device may still work.
    """

    def __init__(self) -> None:
        self.tiles = 0
        self.since = 0.0
        self.latest = 0.0
        self.ended = 0.0
        self.waited = 0.0
        self.waiting = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that goes on in an epoch does not begin it."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation between epochs does not count."""
        self.tiles, self.waited = 0, 0.0
        self.since = self.ended = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is there."""
        self.waited += time.monotonic() - self.ended

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation within an epoch is no waiting."""
        self.ended = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs at the Trainer's interval."""
        self.tiles += tiles_of(batch).batch_size * trainer.world_size
        every = logging_interval(trainer) * trainer.accumulate_grad_batches
        if (batch_idx + 1) % min(every, int(trainer.num_training_batches)) == 0:
            now = time.monotonic()
            self.latest = self.tiles / max(now - self.since, 1e-9)
            self.waiting = self.waited / max(now - self.since, 1e-9)
            self.tiles, self.since, self.waited = 0, now, 0.0
            figures = {"train/tiles_per_second": self.latest, "train/waiting": self.waiting}
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)
        self.ended = time.monotonic()

    def shown(self) -> dict[str, str]:
        """Both figures for people, once there are some."""
        return {"tiles/s": f"{self.latest:.0f}", "waiting": f"{100 * self.waiting:.0f} %"} if self.latest else {}


class Bar(RichProgressBar):
    """Lightning's bar, with tiles per second and the share of waiting.

    Args:
        throughput: whose figures are shown.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__()
        self.throughput = throughput

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands behind the bar."""
        return {**super().get_metrics(trainer, pl_module), **self.throughput.shown()}


class PlainProgress(Callback):
    """A line per epoch, and one every few seconds, where stdout is no terminal.

    Args:
        throughput: whose figure is shown.
        seconds: between lines.
    """

    def __init__(self, throughput: Throughput, seconds: float = 10.0) -> None:
        self.throughput = throughput
        self.seconds = seconds
        self.printed = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A line when it is time."""
        if trainer.is_global_zero and time.monotonic() - self.printed > self.seconds:  # to look at a loss waits for it
            self._line(trainer, pl_module, float(outputs["loss"]) * trainer.accumulate_grad_batches)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The figures of an epoch."""
        if not trainer.sanity_checking and trainer.is_global_zero:
            shown = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            print("  " + "  ".join(f"{name} {float(value):.4f}" for name, value in shown.items()), flush=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Epochs shorter than the interval are shown too."""
        self.printed = 0.0

    def _line(self, trainer: pl.Trainer, module: pl.LightningModule, loss: float) -> None:
        self.printed = time.monotonic()
        shown = self.throughput.shown()
        rate = f"  {shown['tiles/s']} tiles/s  waiting {shown['waiting']}" if shown else ""
        if isinstance(module, MapexModule):
            loss = module.noted.get("train/loss", loss)  # without auxiliary losses, where it is logged
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  "
            f"step {trainer.global_step}/{trainer.estimated_stepping_batches:.0f}  loss {loss:.4f}{rate}",
            flush=True,
        )


class Pictures(Callback):
    """Reconstructions of fixed tiles and the modality-by-expert heat map, in TensorBoard and as PNG.

    Args:
        folder: where the PNG files go.
        count: how many tiles are shown.
    """

    def __init__(self, folder: Path, count: int = 4) -> None:
        self.folder = folder
        self.count = count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws after every validation; also before the first step, to see where experts start from."""
        if not trainer.is_global_zero or not isinstance(pl_module, MapexModule):
            return
        when = "start" if trainer.sanity_checking else f"epoch{trainer.current_epoch + 1:03d}"
        if pl_module.routing:
            self._routing(trainer, pl_module, when)
        if isinstance(pl_module, Pretrain) and not trainer.sanity_checking:
            self._reconstructions(trainer, pl_module, when)

    def _routing(self, trainer: pl.Trainer, module: MapexModule, when: str) -> None:
        names = module.encoder.config.names
        maps = [
            of_shares(
                f"block {block}: share of each sensor's tokens per expert", names, shares(mixture.census[0, :, :-1])
            )
            for block, mixture in module.encoder.mixtures.items()
        ]
        self._keep(trainer, f"experts/{when}", draw(maps))
        append_routing(self.folder.parent / "routing.csv", module, when)

    def _reconstructions(self, trainer: pl.Trainer, module: Pretrain, when: str) -> None:
        tiles = data_of(trainer).examples(self.count)
        moved = module.transfer_batch_to_device(tiles, module.device, 0)
        picture = reconstructions(module.encoder, module.decoder, moved, module.visible, module.generator("pictures"))
        self._keep(trainer, f"reconstruction/{when}", picture)

    def _keep(self, trainer: pl.Trainer, name: str, picture: Picture) -> None:
        write_png(picture, self.folder / f"{name.replace('/', '-')}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                kind = name.split("/")[0]
                logger.experiment.add_image(kind, picture, trainer.global_step, dataformats="HWC")


def append_routing(path: Path, module: MapexModule, when: str) -> None:
    """Adds a line per mixture block to a CSV: normalised mutual information, effective and dead experts."""
    names = module.encoder.config.names
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["when", "block", "nmi", "dead", *(f"effective_{name}" for name in names)])
        for block, figures in module.routing.items():
            effective = [f"{value:.3f}" for value in figures["effective"].tolist()]
            writer.writerow([when, block, f"{float(figures['nmi']):.4f}", int(figures["dead"]), *effective])


class Predictions(Callback):
    """Writes predictions: a CSV of classes and probabilities, or a raster per tile for segmentation.

    Rasters are written batch by batch: those of a whole split would not fit into memory.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[tuple[str, torch.Tensor]] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says what cannot be written before anything is computed, and sweeps what a killed process has left."""
        assert isinstance(pl_module, FineTune)
        sweep(self.folder, below=True)
        if pl_module.task == "segmentation":
            check_classes(pl_module.classes)
            data = data_of(trainer)
            _check_names(self.folder, [key for _, key in data.members(data.predict_split)])

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: int
    ) -> None:
        """Writes the rasters of a batch, or keeps its lines."""
        assert isinstance(pl_module, FineTune)
        names, probabilities = outputs
        if pl_module.task != "segmentation":
            self.rows += zip(names, probabilities.cpu(), strict=True)
            return
        seen = tiles_of(batch).valid_pixels(*probabilities.shape[-2:])  # what no sensor saw has no class
        masks = probabilities.argmax(1).masked_fill(~seen, IGNORED).to(torch.int16).cpu().numpy()
        first = 0
        for name, group in groupby(names):  # the parts of a tile come together
            count = len(list(group))
            layout = data_of(trainer).layout(name)
            mask, place = layout.joined(masks[first : first + count]), layout.place
            write_mask(self.folder / f"{name}.tif", mask, place and place.on(*mask.shape), pl_module.classes)
            first += count

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first rank writes the lines of all ranks, in the order of the tiles."""
        assert isinstance(pl_module, FineTune)
        if pl_module.task == "segmentation":
            return
        rows = in_turn(every_rank(self.rows))
        if trainer.is_global_zero:
            write_whole(self.folder / "predictions.csv", lambda path: _write_csv(path, rows, pl_module))


def _check_names(folder: Path, names: Sequence[str]) -> None:
    """Every tile has a file of its own, inside the folder."""
    outside = next((name for name in names if name.startswith("/") or ".." in name.split("/")), None)
    if outside is not None:
        raise MapexError(f"The raster of tile {outside} would lie outside of {folder}. Give the tile a plainer id.")
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise MapexError(
            f"Several of the data sets have a tile {twice}, and one raster would take the place of the other. "
            "Predict one data set at a time."
        )


def _write_csv(path: Path, pairs: Sequence[tuple[str, torch.Tensor]], module: FineTune) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tile", "label", *module.classes])
        for name, probability in pairs:
            if module.task == "multilabel":
                label = ";".join(c for c, p in zip(module.classes, probability.tolist(), strict=True) if p >= 0.5)
            else:
                label = module.classes[int(probability.argmax())]
            writer.writerow([name, label, *(f"{p:.5f}" for p in probability.tolist())])


def write_confusion(path: Path, classes: Sequence[str], confusion: torch.Tensor) -> None:
    """Writes what is taken for what as CSV, whole or not at all: a row per label, a column per prediction.

    Args:
        path: the file.
        classes: the names of the K classes.
        confusion: counts (K, K).
    """

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["label", *classes])
            writer.writerows([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))

    write_whole(path, write)


def write_results(path: Path, results: Any) -> None:
    """Writes figures as JSON, whole or not at all."""
    write_whole(path, lambda beside: beside.write_text(json.dumps(results, indent=2, default=_number) + "\n"))


def _number(value: Any) -> float:
    return float(np.asarray(value))
