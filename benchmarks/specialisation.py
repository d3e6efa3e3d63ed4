"""Do experts come to belong to sensors? Normalised mutual information per mixture while a nano encoder pre-trains.

    python benchmarks/specialisation.py --steps 160 --seeds 0 --mutual 0.1 --cap 0.3

Synthetic scenes, four sensors. Prints a line per seed and 40 steps: what was measured on the last training batch, in
evaluation mode, unmasked, over the chosen experts.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import torch

from mapex_lightning.data import Synthetic
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sampler import EpochSampler
from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.specialisation import specialisation
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.base import tiles_of
from mapex_lightning.train.optim import configure
from mapex_lightning.train.pretrain import Pretrain

SENSORS = ("s1", "s2", "rgb", "dem")


def batches(seed: int) -> Iterator[Tiles]:
    """Training batches without end."""
    data = TileData([Synthetic(train=4000)], list(SENSORS), seed=seed)
    for epoch in itertools.count():
        loader = data.train_dataloader()
        assert isinstance(loader.sampler, EpochSampler)
        loader.sampler.set_epoch(epoch)
        yield from map(tiles_of, loader)


@torch.no_grad()
def measured(model: Pretrain, tiles: Tiles) -> str:
    """Normalised mutual information and dead experts of each mixture."""
    model.eval()
    with model.encoder.observe():
        model.encoder(tiles)
    model.train()
    figures = [specialisation(mixture.census[0, :, :-1]) for mixture in model.encoder.mixtures.values()]
    return "  ".join(f"{float(found['nmi']):.2f} ({int(found['dead'])} dead)" for found in figures)


def run(seed: int, steps: int, auxiliary: Auxiliary) -> None:
    """Pre-trains and prints."""
    torch.manual_seed(seed)
    model = Pretrain(modalities=list(SENSORS), auxiliary=auxiliary)
    optimiser, schedule = configure(model, model.optimiser, model.encoder.config.depth, steps)
    generator = torch.Generator().manual_seed(seed)
    for step, tiles in enumerate(itertools.islice(batches(seed), steps + 1)):
        if step % 40 == 0:
            print(f"seed {seed}  step {step:4d}  {measured(model, tiles)}", flush=True)
        found = reconstruct(model.encoder, model.decoder, tiles, model.visible, generator)
        losses = auxiliary_losses(found.assignments, len(SENSORS))
        (mean_over_modalities(found.errors) + total(losses, auxiliary)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()


def main() -> None:
    """Runs every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--mutual", type=float, default=Auxiliary().mutual)
    parser.add_argument("--cap", type=float, default=Auxiliary().cap)
    given = parser.parse_args()
    for seed in given.seeds:
        run(seed, given.steps, Auxiliary(mutual=given.mutual, cap=given.cap))


if __name__ == "__main__":
    main()
