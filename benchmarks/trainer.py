"""What does the Trainer add to a step? Pre-training through it, all figures of every step logged, against a bare loop.

    python -m benchmarks.trainer

A tiny encoder on four sensors and few small tiles: what is added does not depend on them, and shows best. The bare loop
takes the same steps: masking, losses, gradients, clipping, AdamW and its schedule. Time per step is that between the
ends of two steps, so starting a fit does not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from benchmarks.encoder import SENSORS
from benchmarks.measure import Clock, begin, options, spread, table
from mapex_lightning.checkpoint import save
from mapex_lightning.modality import modalities
from mapex_lightning.model.auxiliary import auxiliary_losses, total
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.callbacks import Throughput
from mapex_lightning.train.nonfinite import SkipNonFinite
from mapex_lightning.train.optim import configure
from mapex_lightning.train.pretrain import Pretrain

TILES, SIDE = 4, 16
"""Tiles of a batch, and pixels of their sides."""


class Stamps(Callback):
    """Notes when each step ended.

    Args:
        clock: see `benchmarks.measure.CLOCKS`.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Called by the Trainer after every step."""
        self.ends.append(self.clock())


def batches(steps: int) -> DataLoader[Any]:
    """As many batches of noise, the same every time, from a loader that does nothing else."""
    generator = torch.Generator().manual_seed(0)
    tiles = [
        Tiles.of(
            **{
                m.name: torch.randn(TILES, len(m.bands), SIDE, SIDE, generator=generator) * m.std[0] + m.mean[0]
                for m in modalities(SENSORS)
            }
        )
        for _ in range(4)
    ]
    repeated: Any = [tiles[step % 4] for step in range(steps)]
    return DataLoader(repeated, batch_size=None)


def model(folder: Path) -> Pretrain:
    """The same model every time: two blocks, the first a mixture."""
    torch.manual_seed(0)
    tiny = replace(preset("nano", modalities(SENSORS)), width=32, heads=2, hidden=64, experts=(8, 0))
    save(Encoder(tiny), folder / "tiny.ckpt")
    return Pretrain(encoder=str(folder / "tiny.ckpt"))


def through_trainer(steps: int, every: int, clock: Clock, folder: Path, watched: bool = True) -> list[float]:
    """When each step of a fit ended that logs every `every` steps to TensorBoard and CSV, as `mapex fit` does.

    Without watching for steps that are no numbers there is neither `SkipNonFinite` nor what it needs of the module.
    """
    stamps = Stamps(clock)
    loggers: list[Logger] = [TensorBoardLogger(folder, name=""), CSVLogger(folder, name="")]
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=loggers,
        callbacks=[*([SkipNonFinite()] if watched else []), Throughput(), stamps],
        log_every_n_steps=every,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = model(folder)
    if not watched:
        vars(module)["configure_gradient_clipping"] = module.clip_gradients
    trainer.fit(module, batches(steps))
    return stamps.ends


def bare(steps: int, clock: Clock, folder: Path) -> list[float]:
    """When each step of a plain loop ended."""
    module = model(folder)
    ends: list[float] = []
    optimiser, schedule = configure(module, module.optimiser, module.encoder.config.depth, steps)
    for step, tiles in enumerate(batches(steps)):
        found = reconstruct(
            module.encoder, module.decoder, tiles, module.visible, module.generator("step", step, step, 0)
        )
        losses = auxiliary_losses(found.assignments, len(SENSORS))
        loss = mean_over_modalities(found.errors) + total(losses, module.auxiliary)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        ends.append(clock())
    return ends


def per_step(ends: Sequence[float]) -> float:
    """Median milliseconds between the ends of two steps; the first few warm up."""
    return 1e3 * statistics.median(b - a for a, b in pairwise(ends[4:]))


def main(words: Sequence[str] | None = None) -> None:
    """Runs fits and loops by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of every fit")
    options(parser, rounds=5)
    given = parser.parse_args(words)
    clock = begin(given, torch.device("cpu"))
    never = given.steps + 1
    trainers = {
        "Trainer, logs and watches nothing": (never, False),
        "Trainer, logs nothing": (never, True),
        "Trainer, logs every step": (1, True),
    }
    ways: dict[str, list[float]] = {way: [] for way in ("bare loop", *trainers)}
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            ways["bare loop"].append(per_step(bare(given.steps, clock, Path(folder))))
            for way, (every, watched) in trainers.items():
                ways[way].append(per_step(through_trainer(given.steps, every, clock, Path(folder), watched)))
    rows = [
        [way, spread(took), spread([ours - plain for ours, plain in zip(took, ways["bare loop"], strict=True)])]
        for way, took in ways.items()
    ]
    print(table(["way", "ms per step", "ms added"], rows), flush=True)


if __name__ == "__main__":
    main()
