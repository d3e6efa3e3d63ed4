"""From predicted windows to maps on disk, on any number of processes.

Axes: B windows, K values per cell, h and w cells of a window, H and W its pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
from einops import rearrange
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mapex_lightning.data.maps.blend import Blender
from mapex_lightning.data.maps.windows import Windows
from mapex_lightning.data.maps.writing import Draft, Product, class_map, features, label_map, probabilities
from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.files import mark, sweep
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.base import MapexModule
from mapex_lightning.train.embed import Embed
from mapex_lightning.train.finetune import FineTune


class Outputs(NamedTuple):
    """Where the maps of a scene go.

    Attributes:
        out: classes.
        probabilities: of every class.
        embeddings: features per patch.
    """

    out: str | None = None
    probabilities: str | None = None
    embeddings: str | None = None

    def check(self, scene: bool) -> None:
        """Outputs go with a scene, and features are not made together with classes.

        Args:
            scene: whether there is a scene to map.

        Raises:
            MapexError: something is missing or too much, or a name does not end as it must.
        """
        given = {name: path for name, path in self._asdict().items() if path is not None}
        if given and not scene:
            raise MapexError(f"--{next(iter(given))} takes the map of a scene; give its files with --data.scene.")
        if scene and not given:
            raise MapexError("Say where the map of the scene goes, such as --out map.tif.")
        if self.embeddings and len(given) > 1:
            raise MapexError("--embeddings is a map of its own; make it without --out and --probabilities.")
        for name, path in given.items():
            allowed = (".tif", ".tiff", ".zarr") if name == "embeddings" else (".tif", ".tiff")
            if Path(path).suffix not in allowed:
                raise MapexError(f"--{name} must end in {' or '.join(allowed)}; found {path}.")


class Maps(Callback):
    """Blends the windows of a scene while they are predicted, and writes maps of it.

    Every process blends a range of rows of its own into a temporary file beside the target; the first one puts them
    together. So the folder must be one that all processes see, and the first one waits for the slowest no longer than
    the Trainer's strategy lets it.

    Args:
        windows: of the scene.
        bands: values per cell, K.
        products: the files to make of these.
        seconds: between lines of progress where there is no progress bar.
    """

    def __init__(self, windows: Windows, bands: int, products: Sequence[Product], seconds: float = 10.0) -> None:
        self.windows, self.bands, self.products, self.seconds = windows, bands, tuple(products), seconds
        self.drafts: list[Draft] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins all files, so that what cannot be written is said before anything is computed.

        Raises:
            MapexError: a file cannot be written, or not all windows are to be predicted.
        """
        limit = vars(trainer)["limit_predict_batches"]
        if isinstance(limit, int) or limit < 1.0:  # 1 is one batch, 1.0 is all of them
            raise MapexError("A map needs all windows of its scene; leave trainer.limit_predict_batches out.")
        for product in self.products:
            sweep(product.path.parent)
        first = trainer.strategy.broadcast(mark())
        for product in self.products:
            self.drafts.append(Draft(product, self.windows.cells, first, trainer.global_rank))
        self.share = self.windows.plan.share(trainer.global_rank, trainer.world_size)
        self.blender = Blender(self.windows.plan, self.bands, self._write, self.share.rows)
        self.printed = time.monotonic()
        if trainer.is_global_zero:
            self._announce(pl_module.encoder.config.names if isinstance(pl_module, FineTune) else ())

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Tiles, *_: int
    ) -> None:
        """Adds the windows of a batch."""
        names, values = outputs
        valid = valid_cells(batch, self.windows).cpu().numpy()
        values = values.reshape(len(names), self.bands, *valid.shape[1:]).cpu().numpy()
        for number, value, here in zip(map(int, names), values, valid, strict=True):
            if number in self.share.windows:
                self.blender.add(number, value, here)
        bar = trainer.progress_bar_callback is not None
        if trainer.is_global_zero and not bar and time.monotonic() - self.printed > self.seconds:
            self.printed = time.monotonic()
            print(f"row {self.blender.top - self.share.rows.start}/{len(self.share.rows)}", flush=True)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the files."""
        self.blender.close()
        if not trainer.is_global_zero:
            for draft in self.drafts:
                draft.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            others = [self.windows.plan.share(rank, trainer.world_size).rows for rank in range(1, trainer.world_size)]
            for draft in self.drafts:
                draft.finish(others)
                print(f"wrote {draft.product.path}", flush=True)
            self._discard()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leaves nothing behind."""
        self._discard()

    def _announce(self, wanted: Sequence[str]) -> None:
        """Says how the files are read, what will be made, and what a user should know.

        Args:
            wanted: the sensors that a model of classes reads; features may be made of any.
        """
        for line in self.windows.said():
            print(line, flush=True)
        for name in wanted:
            if name not in self.windows.scenes:
                print(
                    f"look: {name} is not given, and the model reads it too; only a model that was trained with "
                    "model.drop_sensors makes good of that",
                    flush=True,
                )
        cells, gsd = self.windows.cells, self.windows.gsd * self.windows.step
        print(
            f"{cells.height} x {cells.width} cells of {gsd:g} m, from {len(self.windows)} windows of "
            f"{self.windows.side} pixels",
            flush=True,
        )
        for scene in self.windows.scenes.values():
            for remark in scene.remarks:
                print(f"note: {remark}", flush=True)

    def _write(self, top: int, values: np.ndarray) -> None:
        for draft in self.drafts:
            draft.write(top, values)

    def _discard(self) -> None:
        while self.drafts:
            self.drafts.pop().discard()


def maps_of(module: MapexModule, data: TileData, outputs: Outputs) -> Maps:
    """What makes the maps of a scene from the windows that a module predicts.

    Raises:
        MapexError: the scene cannot be read, a map would take the place of one of its files, or the module predicts
            nothing.
    """
    if isinstance(module, Embed):
        config = module.encoder.config
        assert outputs.embeddings is not None
        windows = data.open_scene("patch", config.patch, config.modalities)
        return Maps(windows, config.width, [features(_target(outputs.embeddings, windows), config.width)])
    if not isinstance(module, FineTune):
        raise MapexError("A map of classes needs a fine-tuned model; features of any model are made by --embeddings.")
    dense, classes = module.task == "segmentation", module.classes
    windows = data.open_scene("pixel" if dense else "window", module.encoder.config.patch)
    products = []
    if outputs.out is not None:
        made = label_map if module.task == "multilabel" else class_map
        products.append(made(_target(outputs.out, windows), classes))
    if outputs.probabilities is not None:
        products.append(probabilities(_target(outputs.probabilities, windows), classes))
    return Maps(windows, len(classes), products)


def _target(path: str, windows: Windows) -> Path:
    """Where a map goes: not where the scene lies."""
    files = [file for scene in windows.scenes.values() for file in scene.files]
    if any(Path(path).resolve() == file.resolve() for file in files):
        raise MapexError(f"{path} is a file of the scene. Give the map another name.")
    return Path(path)


def valid_cells(tiles: Tiles, windows: Windows) -> Tensor:
    """Which cells of each window hold a valid pixel of any band of any sensor: (B, h, w) bool."""
    here = tiles.valid_pixels(windows.side, windows.side)
    inner = slice(windows.margin, windows.margin + windows.plan.side * windows.step)
    cells = rearrange(here[:, inner, inner], "b (h p) (w q) -> b h w (p q)", p=windows.step, q=windows.step)
    return cells.any(-1)
