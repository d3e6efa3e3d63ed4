"""Do experts come to belong to sensors, and what does it take? Nano encoders, pre-trained many times on four sensors.

    python -m benchmarks.specialisation --data DIR --seeds 0 1 2 --out FILE

Every variant trains from the same weights on the same tiles and masks, seed by seed, with crops of 32 x 32 pixels, and
is judged on held-out tiles: hard and soft normalised mutual information per mixture before and after, dead experts,
experts that a sensor uses in effect, the share of the encoder's parameters that pruning to one sensor or to two removes
at 99 % coverage, and masked reconstruction as it is and without the mixtures. `ablation/tiles.py` says which real tiles
DIR holds; without it synthetic scenes stand in, and figures say so. What FILE already holds is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation import tiles as real
from mapex_lightning.analysis import analyse
from mapex_lightning.checkpoint import ENCODER, KEY, Description
from mapex_lightning.data.sets import Synthetic
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.modality import Modality, modalities
from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total
from mapex_lightning.model.config import RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.interventions import at_rest
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.pruning import COVERAGE, Policy, prune
from mapex_lightning.tiles import Tiles, collate
from mapex_lightning.train.optim import configure
from mapex_lightning.train.pretrain import Pretrain

BATCH = HELD_OUT = 64
"""Synthetic tiles in a batch, and held-out real tiles of each source."""
SYNTHETIC = ("s1", "s2", "rgb", "dem")


@dataclass(frozen=True)
class Scenes:
    """What is trained and judged on.

    Args:
        kind: ``real`` or ``synthetic``.
        sensors: four of them.
        batch: a training batch, of a generator.
        held_out: batches of other places.
    """

    kind: str
    sensors: tuple[Modality, ...]
    batch: Callable[[torch.Generator], Tiles]
    held_out: list[Tiles]


def scenes(data: Path | None) -> Scenes:
    """The real tiles below a folder, or synthetic ones."""
    if data is None:
        return _synthetic()
    found = real.collect(data)
    held_out = real.held_out(found["val"], HELD_OUT)
    return Scenes("real", real.sensors(found), partial(real.batch, found["train"]), held_out)


def _synthetic() -> Scenes:
    source, sensors = Synthetic(train=2000, val=3 * BATCH, size=real.SIDE, missing=0.0), modalities(SYNTHETIC)
    train, val = (
        collate([source.read(key, sensors) for key in source.keys(split, sensors)], sensors, 10.0 * real.SIDE)
        for split in SPLITS[:2]
    )

    def at(tiles: Tiles, index: torch.Tensor) -> Tiles:
        return Tiles.of(**{name: image[index] for name, image in tiles.images.items()})

    def batch(generator: torch.Generator) -> Tiles:
        return at(train, torch.randint(train.batch_size, (BATCH,), generator=generator))

    return Scenes("synthetic", sensors, batch, [at(val, part) for part in torch.arange(val.batch_size).split(BATCH)])


@dataclass(frozen=True)
class Variant:
    """What is tried.

    Args:
        auxiliary: weights of the auxiliary losses.
        router: how tokens choose.
    """

    auxiliary: Auxiliary = Auxiliary()
    router: RouterMode = "conditioned"


NONE = Auxiliary(mutual=0.0, balance=0.0)
VARIANTS = {
    "default": Variant(),
    "default and cap": Variant(Auxiliary(cap=0.1)),
    "cap instead of balance": Variant(Auxiliary(cap=0.1, balance=0.0)),
    "no auxiliary losses": Variant(NONE),
    "pooled": Variant(replace(NONE, pooled=0.1)),
    "balance within sensors": Variant(replace(NONE, within=0.1)),
    "blind router": Variant(router="blind"),
    "grouped by construction": Variant(NONE, router="grouped"),
}

Result = dict[str, Any]
"""A run in plain types: variant, seed, steps, seconds, the tiles' kind, the analysis and what pruning removes."""


def run(world: Scenes, name: str, seed: int, steps: int) -> Result:
    """Pre-trains one variant and judges it."""
    variant, since = VARIANTS[name], time.monotonic()
    torch.manual_seed(seed)
    model = Pretrain(modalities=list(world.sensors), auxiliary=variant.auxiliary, router=variant.router)
    optimiser, schedule = configure(model, model.optimiser, model.encoder.config.depth, steps)
    masks, draws = (torch.Generator().manual_seed(seed) for _ in range(2))
    for _ in range(steps):
        tiles = world.batch(draws)
        found = reconstruct(model.encoder, model.decoder, tiles, model.visible, masks)
        losses = auxiliary_losses(found.assignments, len(world.sensors))
        (mean_over_modalities(found.errors) + total(losses, variant.auxiliary)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return {
        "variant": name,
        "seed": seed,
        "steps": steps,
        "tiles": world.kind,
        "seconds": time.monotonic() - since,
        # The seed of the weights that the run began with, so that the analysis can tell the start.
        "analysis": analyse(model.encoder, model.decoder, world.held_out, model.visible, seed).plain(),
        "removed": removed(model.encoder, world.held_out),
    }


def removed(encoder: Encoder, held_out: Iterable[Tiles]) -> dict[str, float]:
    """Share of the encoder's parameters that pruning to each sensor and to each pair removes."""
    with at_rest(encoder), encoder.observe():
        for tiles in held_out:
            encoder(tiles)
    state = {ENCODER + name: value for name, value in encoder.state_dict().items()}
    checkpoint = {"state_dict": state, KEY: Description("pretrain", encoder.config, ()).plain()}
    found = {}
    for keep in (*itertools.combinations(encoder.config.names, 1), *itertools.combinations(encoder.config.names, 2)):
        before, after = prune(checkpoint, keep, Policy("coverage", COVERAGE))[1].parameters
        found["+".join(keep)] = 1 - after / before
    return found


def table(results: Sequence[Result]) -> str:
    """Means over seeds: what routing does, what pruning removes, what mixtures and experts are worth."""
    routing: Columns = {
        "seeds": lambda runs: str(len(runs)),
        "hard NMI, start": lambda runs: _blocks(runs, lambda block: block["start_hard"]),
        "end": lambda runs: _blocks(runs, lambda block: block["hard"]["nmi"]),
        "lowest of all": lambda runs: f"{min(block['hard']['nmi'] for run in runs for block in _routing(run)):.2f}",
        "chance": lambda runs: _blocks(runs, lambda block: block["chance"]),
        "soft NMI, start": lambda runs: _blocks(runs, lambda block: block["start_soft"]),
        "end ": lambda runs: _blocks(runs, lambda block: block["soft"]["nmi"]),
        "told another sensor: stays": lambda runs: _blocks(runs, lambda block: _off_diagonal(block["content"])),
        "follows": lambda runs: _blocks(runs, lambda block: _off_diagonal(block["name"])),
    }
    pruning: Columns = {
        "dead experts": lambda runs: _blocks(runs, lambda block: block["hard"]["dead"], ".1f"),
        "a sensor's experts, hard": lambda runs: _blocks(
            runs, lambda block: statistics.mean(block["hard"]["effective"])
        ),
        "soft": lambda runs: _blocks(runs, lambda block: statistics.mean(block["soft"]["effective"])),
        "removed, one sensor": lambda runs: _removed(runs, 1),
        "two sensors": lambda runs: _removed(runs, 2),
    }
    worth: Columns = {
        "error": lambda runs: f"{statistics.mean(statistics.mean(_damage(run)['full']) for run in runs):.4f}",
        "no mixtures": lambda runs: _change(runs, lambda run: [_damage(run)["no_mixtures"]]),
        "without each mixture": lambda runs: _change(runs, lambda run: _skipped(run, mixture=True)),
        "without each dense feed-forward": lambda runs: _change(runs, lambda run: _skipped(run, mixture=False)),
        "an expert diverted: its sensor": lambda runs: _causal(runs, own=True),
        "the others": lambda runs: _causal(runs, own=False),
    }
    kinds = " and ".join(sorted({found["tiles"] for found in results}))
    return "\n\n".join(
        [f"{kinds} tiles, held out", *(_columns(results, columns) for columns in (routing, pruning, worth))]
    )


Columns = dict[str, Callable[[list[Result]], str]]


def _columns(results: Sequence[Result], columns: Columns) -> str:
    lines = [f"| variant | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in dict.fromkeys(found["variant"] for found in results):
        runs = [found for found in results if found["variant"] == name]
        lines.append(f"| {name} | {' | '.join(column(runs) for column in columns.values())} |")
    return "\n".join(lines)


def _routing(run: Result) -> list[Any]:
    return list(run["analysis"]["routing"].values())


def _blocks(runs: Sequence[Result], figure: Callable[[Any], float], form: str = ".2f") -> str:
    """The mean over runs of a figure of each mixture."""
    columns = zip(*([figure(block) for block in _routing(run)] for run in runs), strict=True)
    return " ".join(format(statistics.mean(column), form) for column in columns)


def _off_diagonal(matrix: list[list[float | None]]) -> float:
    return statistics.mean(value for row in matrix for value in row if value is not None)


def _removed(runs: Sequence[Result], sensors: int) -> str:
    """Mean, lowest and highest over all choices of that many sensors and all runs, in per cent."""
    found = [share for run in runs for keep, share in run["removed"].items() if keep.count("+") == sensors - 1]
    return f"{statistics.mean(found):.0%} ({min(found):.0%}-{max(found):.0%})"


def _damage(run: Result) -> dict[str, Any]:
    found: dict[str, Any] = run["analysis"]["damage"]
    return found


def _skipped(run: Result, mixture: bool) -> list[list[float]]:
    blocks = _damage(run)["skipped"].items()
    return [errors for block, errors in blocks if (block in run["analysis"]["routing"]) == mixture]


def _change(runs: Sequence[Result], errors: Callable[[Result], list[list[float]]]) -> str:
    """Relative change of the error under each of some interventions, mean over sensors and runs."""
    changes = ([_relative(row, run) for row in errors(run)] for run in runs)
    return " ".join(f"{statistics.mean(map(statistics.mean, column)):+.1%}" for column in zip(*changes, strict=True))


def _relative(errors: Sequence[float], run: Result) -> list[float]:
    return [error / full - 1 for error, full in zip(errors, _damage(run)["full"], strict=True)]


def _causal(runs: Sequence[Result], own: bool) -> str:
    """Relative change of the error by block, mean over used experts: of the sensor that uses it most, or the others."""

    def of_block(run: Result, block: str) -> float:
        shares = run["analysis"]["routing"][block]["hard"]["share"]
        found = []
        for expert, errors in enumerate(_damage(run)["diverted"][block]):
            users = [share[expert] for share in shares]
            found += [
                change
                for sensor, change in enumerate(_relative(errors, run))
                if max(users) > 0 and (sensor == users.index(max(users))) == own
            ]
        return statistics.mean(found)

    blocks = runs[0]["analysis"]["routing"]
    return " ".join(f"{statistics.mean(of_block(run, block) for run in runs):+.1%}" for block in blocks)


def main() -> None:
    """Runs every variant and seed that is not done yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the real tiles; synthetic scenes without it")
    parser.add_argument("--out", type=Path, help="where results are kept, a line of JSON a run")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    given = parser.parse_args()
    results = (
        [json.loads(line) for line in given.out.read_text().splitlines()] if given.out and given.out.exists() else []
    )
    done = {(found["variant"], found["seed"], found["steps"]) for found in results}
    world = scenes(given.data)
    for seed, name in itertools.product(given.seeds, given.variants):
        if (name, seed, given.steps) not in done:
            results.append(run(world, name, seed, given.steps))
            print(f"seed {seed}, {name}: {results[-1]['seconds']:.0f} s", flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    print(table([found for found in results if found["steps"] == given.steps]))


if __name__ == "__main__":
    main()
