"""Why is the mixture no better than its dense twin, and what does radar learn? One factor at a time, on real tiles.

    python -m benchmarks.ablation --data DIR --out FOLDER --variants default dense --seeds 0 1 2

Pre-trains nano encoders on crops of 32 x 32 pixels of four sensors and measures what each has learnt. Writes
results.json after every run; what was already done in FOLDER is not done again. Prints the tables of docs/method.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ablation.figures import SHOTS, Figures, Task, measured, probes, tasks
from benchmarks.ablation.tiles import Collection, collect, counts, parts, sensors
from benchmarks.ablation.variants import PASSES, VARIANTS, Pair, Variant, in_force
from mapex_lightning.files import write_whole
from mapex_lightning.modality import Modality
from mapex_lightning.model.auxiliary import auxiliary_losses, total
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.router import Assignment
from mapex_lightning.model.target import Error, mean_over_modalities
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.optim import Optimiser, configure


def trained(variant: Variant, collection: Collection, modalities: tuple[Modality, ...], steps: int, seed: int) -> Pair:
    """A nano encoder and its decoder, pre-trained as the variant says."""
    torch.manual_seed(seed)
    with in_force(variant):
        pair = Pair(variant, modalities)
        generator = torch.Generator().manual_seed(seed)
        optimiser, schedule = configure(pair, Optimiser(lr=variant.lr), pair.encoder.config.depth, max(1, steps))
        for _ in range(steps):
            loss = _loss(pair, variant, parts(collection["train"], generator), generator)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(pair.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
    return pair


def _loss(pair: Pair, variant: Variant, parts: Sequence[Tiles], generator: torch.Generator) -> Tensor:
    """The loss of pre-training, over all parts of a batch as if it were whole."""
    found = [reconstruct(pair.encoder, pair.decoder, part, variant.visible, generator, PASSES) for part in parts]
    config = pair.encoder.config
    errors = {
        name: Error(*(sum(column) for column in zip(*(f.errors[name] for f in found if name in f.errors), strict=True)))
        for name in config.names
    }
    assignments = {
        block: Assignment(*map(torch.cat, zip(*(f.assignments[block] for f in found), strict=True)))
        for block in config.mixtures
    }
    return mean_over_modalities(errors) + total(auxiliary_losses(assignments, len(config.names)), variant.auxiliary)


class Study:
    """Figures by variant and seed, kept in a file so that an interrupted study goes on.

    Args:
        data: the folder of the data sets.
        out: the folder of the study.
        steps: of pre-training, for a variant of length 1.
    """

    def __init__(self, data: Path, out: Path, steps: int) -> None:
        self.file, self.steps = out / "results.json", steps
        self.results: dict[str, Figures] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.collection = collect(data)
        self.modalities = sensors(self.collection)
        self.tasks: list[Task] = tasks(self.collection)
        print(counts(self.collection), flush=True)

    def run(self, names: Sequence[str], seeds: Sequence[int]) -> None:
        """Whatever of the variants and seeds is not there yet, seed by seed; the plain baselines first."""
        for seed in seeds:
            for name in ("plain", *names):
                key = self.key(name, seed)
                if key not in self.results:
                    figures = self.baselines(seed) if name == "plain" else self.one(VARIANTS[name], seed)
                    self.results[key] = figures
                    write_whole(self.file, lambda path: path.write_text(json.dumps(self.results, indent=1)))
                    print(f"{key}: {line(figures)}", flush=True)

    def key(self, name: str, seed: int) -> str:
        """Under which a run's figures are kept."""
        return f"{name}/{self.steps}/{seed}"

    def baselines(self, seed: int) -> Figures:
        """Probes on plain statistics of the bands."""
        return {name: value for task in self.tasks for name, value in probes(None, task, seed).items()}

    def one(self, variant: Variant, seed: int) -> Figures:
        """Trains and measures one variant."""
        steps = round(variant.length * self.steps)
        start = time.process_time()
        pair = trained(variant, self.collection, self.modalities, steps, seed)
        spent = time.process_time() - start
        figures = {"seconds per step": spent / steps} if steps else {}
        return figures | measured(pair, variant, self.collection, self.tasks, seed)


TASKS = (
    "land use, rgb",
    "land use, s2",
    "flooded, radar",
    "water, radar",
    "flooded, false_colour",
    "water, false_colour",
)
COLUMNS = {
    "s/step": "seconds per step",
    **{f"err {s}": f"error/{s}/test" for s in ("radar", "false_colour", "s2", "rgb")},
    "cells": "radar cells/model/test",
    **{f"{task} {n}": f"{task}/{n}/test" for task in TASKS for n in SHOTS},
    "nmi 0": "nmi/block 0",
    "nmi 2": "nmi/block 2",
    "nmi 4": "nmi/block 4",
    "-mixtures": "health/mixtures",
    "-all": "health/all",
}


def line(figures: Figures) -> str:
    """The main figures of one run."""
    return "  ".join(f"{short} {figures[name]:.4g}" for short, name in COLUMNS.items() if name in figures)


def table(results: dict[str, Figures]) -> str:
    """Mean and standard deviation over the seeds, a line per variant."""
    groups: dict[str, list[Figures]] = {}
    for key, figures in results.items():
        groups.setdefault(key.rpartition("/")[0], []).append(figures)
    lines = ["| variant | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, found in groups.items():
        cells = []
        for column in COLUMNS.values():
            values = [figures[column] for figures in found if column in figures]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "")
        lines.append(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with OmbriaS1, OmbriaS2, testset, EuroSAT_*")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    given = parser.parse_args()
    study = Study(given.data, given.out, given.steps)
    study.run(given.variants, given.seeds)
    print(table(study.results))


if __name__ == "__main__":
    main()
