"""Ideas of related systems, one switch each, beside the plain alternative: do they help?

    python -m benchmarks.related --data DIR --seeds 0 1 2 --out FOLDER

Nano encoders are pre-trained on OMBRIA (crops of 32 x 32 pixels after a flood) as four sensors of the same places:
radar and the three bands of the false colour. Then, seed by seed:

* tiers: experts of a sensor's own alone, or with a collaborative tier (RingMoE), by masked reconstruction of held-out
  crops, by who uses the tier, and by what pruning it by frequency removes and costs;
* missing sensors: low-rank experts on a frozen encoder (MaMOL) beside a linear probe and full fine-tuning, with sensors
  dropped in training or not, told flooded from dry with all sensors, with one missing and with one alone;
* pooling: over sensors by their redundancy beside the plain mean, on the same models.

Writes FOLDER/results.json after every step, and what it already holds is not done again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.ablation.tiles import Source, collect, floods
from mapex_lightning.checkpoint import ENCODER, KEY, Description, save
from mapex_lightning.modality import Modality
from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.model.tokens import Pool
from mapex_lightning.pruning import Policy, prune
from mapex_lightning.tiles import Tiles, drop_sensors
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.optim import Optimiser, configure
from mapex_lightning.train.pretrain import Pretrain

BANDS = {"radar": ("radar", 0), "swir": ("false_colour", 0), "nir": ("false_colour", 1), "green": ("false_colour", 2)}
"""The four sensors: where their band lies in the tiles of the flood."""
BATCH = 32
LABELLED, TESTED = 512, 320
"""Crops to fine-tune on, and to test on."""

Result = dict[str, Any]


@dataclass(frozen=True)
class World:
    """What is trained and judged on.

    Args:
        sensors: four of them.
        unlabelled: crops to pre-train on.
        held_out: other crops, to judge pre-training.
        labelled: crops to fine-tune on.
        tested: other crops, to judge fine-tuning.
    """

    sensors: tuple[Modality, ...]
    unlabelled: Source
    held_out: Source
    labelled: Source
    tested: Source


def world(data: Path) -> World:
    """The real tiles below a folder; see `benchmarks.ablation.tiles`."""
    found = {split: _four(sources["flood"]) for split, sources in collect(data).items()}
    labelled, tested = floods(found["train"]), floods(found["test"])
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(0))
    held_out = found["val"].crops()
    return World(
        sensors=tuple(_measured(name, image) for name, image in found["train"].images.items()),
        unlabelled=found["train"].crops(),
        held_out=_spread(held_out, 8 * BATCH),
        labelled=labelled.take(order[:LABELLED]),
        tested=_spread(tested, TESTED),
    )


def _spread(source: Source, count: int) -> Source:
    """As many tiles of a source, evenly over it."""
    return source.take(torch.linspace(0, len(source) - 1, count).long())


def _four(source: Source) -> Source:
    images = {name: source.images[of][:, band : band + 1] for name, (of, band) in BANDS.items()}
    return Source(images, source.labels)


def _measured(name: str, image: Tensor) -> Modality:
    pixels = image[image.isfinite()].double()
    return Modality(
        name, (name,), 10.0, "8-bit", (float(pixels.mean()),), (float(pixels.std()),), speckle=name == "radar"
    )


def batches(source: Source) -> Iterable[tuple[Tiles, Tensor | None]]:
    """All tiles of a source in their order, with their labels."""
    for start in range(0, len(source), BATCH):
        part = source.take(range(start, min(start + BATCH, len(source))))
        yield Tiles.of(**part.images), part.labels


def pretrain(world: World, seed: int, steps: int, **settings: Any) -> Pretrain:
    """Masked reconstruction; every variant of a seed sees the same crops and masks."""
    torch.manual_seed(seed)
    model = Pretrain(modalities=list(world.sensors), **settings)
    optimiser, schedule = configure(model, model.optimiser, model.encoder.config.depth, steps)
    masks, draws = (torch.Generator().manual_seed(seed) for _ in range(2))
    for _ in range(steps):
        crops = world.unlabelled.take(torch.randint(len(world.unlabelled), (BATCH,), generator=draws))
        found = reconstruct(model.encoder, model.decoder, Tiles.of(**crops.images), model.visible, masks)
        losses = auxiliary_losses(found.assignments, len(world.sensors))
        _step(model, mean_over_modalities(found.errors) + total(losses, model.auxiliary), optimiser, schedule)
    return model


def _step(model: torch.nn.Module, loss: Tensor, optimiser: Any, schedule: Any) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_([weight for weight in model.parameters() if weight.requires_grad], 1.0)
    optimiser.step()
    schedule.step()
    optimiser.zero_grad()


# Tiers.

COLLABORATIVE = 4
TIERS: Mapping[str, Mapping[str, Any]] = {
    "own experts alone": {},
    "with a collaborative tier": {"collaborative": COLLABORATIVE},
    "the same without mutual information and balance": {
        "collaborative": COLLABORATIVE,
        "auxiliary": Auxiliary(mutual=0.0, balance=0.0),
    },
}
KEEP = (("radar",), ("nir",), ("radar", "nir"))
POLICIES = {"sealed": Policy("sealed"), "frequency 0.9": Policy("coverage", 0.9, "frequency")}


def tiers(world: World, seed: int, steps: int, variant: str) -> Result:
    """A grouped router of eight experts and top-2: how it reconstructs, who uses the tier, what pruning costs."""
    model = pretrain(world, seed, steps, router="grouped", experts=8, top_k=2, **TIERS[variant])
    encoder, figures = model.encoder.eval(), {"error": masked_error(model, model.encoder, world)}
    with torch.no_grad(), encoder.observe():
        for tiles, _ in batches(world.held_out):
            encoder(tiles)
    tokens = torch.stack([mixture.census[0] for mixture in encoder.mixtures.values()])
    everybodys = tokens[..., 8 - COLLABORATIVE : 8] if "collaborative" in TIERS[variant] else tokens[..., :0]
    figures["collaborative"] = float(everybodys.sum() / tokens.sum())
    figures["dead"] = float((tokens.sum(1)[:, :-1] == 0).sum(1).float().mean())
    state = {ENCODER + name: value for name, value in encoder.state_dict().items()}
    checkpoint = {"state_dict": state, KEY: Description("pretrain", encoder.config, ()).plain()}
    for keep in KEEP:
        figures[f"{'+'.join(keep)}, error"] = masked_error(model, encoder, world, keep)
        for name, policy in POLICIES.items():
            report = prune(checkpoint, keep, policy)[1]
            figures[f"{'+'.join(keep)}, {name}, removed"] = 1 - report.parameters[1] / report.parameters[0]
            figures[f"{'+'.join(keep)}, {name}, error"] = masked_error(
                model, inside(encoder, report.experts), world, keep
            )
    return figures


def inside(encoder: Encoder, experts: Mapping[int, Sequence[int]]) -> Encoder:
    """A copy that routes to these experts alone: what pruning to them does, with every sensor's embedding left."""
    narrowed = copy.deepcopy(encoder)
    narrowed.seal(
        tuple(
            tuple(tuple(e for e in row if e in experts[block]) or tuple(experts[block]) for row in rows)
            for block, rows in enumerate(encoder.config.allowed)
        )
    )
    return narrowed


@torch.no_grad()
def masked_error(model: Pretrain, encoder: Encoder, world: World, keep: Sequence[str] | None = None) -> float:
    """Mean error on hidden patches of held-out crops, under the same masks every time, seen by some sensors."""
    masks, found = torch.Generator().manual_seed(0), []
    for tiles, _ in batches(world.held_out):
        seen = tiles.only(keep or encoder.config.names)
        errors = reconstruct(encoder, model.decoder, seen, model.visible, masks).errors
        found.append(float(mean_over_modalities(errors)))
    return statistics.mean(found)


# Missing sensors, and pooling.


@dataclass(frozen=True)
class Tuning:
    """A way to fine-tune.

    Args:
        train: see `FineTune`.
        drop: probability of dropping a sensor in training.
        pool: see `FineTune`.
        static: of low-rank experts, those of sensors alone.
    """

    train: Literal["full", "linear", "low-rank"]
    drop: float
    pool: Pool = "mean"
    static: bool = False

    @property
    def words(self) -> str:
        """The variant's name."""
        parts = [self.train, *(["static alone"] if self.static else []), *([self.pool] if self.pool != "mean" else [])]
        return ", ".join([*parts, f"drop {self.drop:g}"])


TUNINGS = {
    tuning.words: tuning
    for tuning in (
        *(Tuning(train, drop) for train in ("linear", "low-rank", "full") for drop in (0.0, 0.5)),
        Tuning("low-rank", 0.5, static=True),
        *(Tuning(train, 0.5, "redundancy") for train in ("linear", "full")),
    )
}
RATES = {"linear": 3e-3, "low-rank": 3e-3, "full": 1e-3}
"""Learning rates: of linear the best of 1e-3, 3e-3 and 1e-2, of low-rank one of 1e-3 and 3e-3, which were alike, for
one further seed on validation crops; of full our default."""


def tuned(world: World, seed: int, steps: int, path: Path, tuning: Tuning) -> FineTune:
    """A model told flooded from dry."""
    torch.manual_seed(seed)
    model = FineTune(
        str(path),
        "multiclass",
        ("dry", "flooded"),
        list(world.sensors),
        train=tuning.train,
        pool=tuning.pool,
        optimiser=Optimiser(lr=RATES[tuning.train], layer_decay=0.9 if tuning.train == "full" else 1.0),
        seed=seed,
    )
    for name, weight in model.named_parameters():
        if tuning.static and name.endswith((".gate", ".pattern_down", ".pattern_up")):
            weight.requires_grad_(False)
    optimiser, schedule = configure(model, model.optimiser, model.encoder.config.depth, steps)
    draws, drops = (torch.Generator().manual_seed(seed) for _ in range(2))
    model.train()
    for _ in range(steps):
        crops = world.labelled.take(torch.randint(len(world.labelled), (BATCH,), generator=draws))
        assert crops.labels is not None
        tiles = drop_sensors(Tiles.of(**crops.images), tuning.drop, drops)
        _step(model, torch.nn.functional.cross_entropy(model(tiles), crops.labels), optimiser, schedule)
    return model.eval()


def missing(world: World, seed: int, steps: int, path: Path, variant: str) -> Result:
    """Balanced accuracy with all sensors, with one missing and with one alone."""
    model = tuned(world, seed, steps, path, TUNINGS[variant])
    names = model.encoder.config.names
    figures: Result = {"all": accuracy(model, world.tested, names)}
    for name in names:
        figures[f"without {name}"] = accuracy(model, world.tested, [other for other in names if other != name])
        figures[f"only {name}"] = accuracy(model, world.tested, [name])
    figures["trained"] = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return figures


@torch.no_grad()
def accuracy(model: FineTune, source: Source, names: Sequence[str]) -> float:
    """Mean over the classes of the share of a class's crops that is told right, seen by some sensors."""
    right = torch.cat([(model(tiles.only(names)).argmax(1) == label) for tiles, label in batches(source)])
    assert source.labels is not None
    return statistics.mean(float(right[source.labels == label].float().mean()) for label in (0, 1))


# The study.


class Study:
    """Results in a file, so that an interrupted study goes on.

    Args:
        out: its folder.
    """

    def __init__(self, out: Path) -> None:
        self.file = out / "results.json"
        self.results: list[Result] = json.loads(self.file.read_text()) if self.file.exists() else []

    def note(self, part: str, variant: str, seed: int, measure: Callable[[], Result]) -> None:
        """Measures once."""
        key = {"part": part, "variant": variant, "seed": seed}
        if any(key.items() <= found.items() for found in self.results):
            return
        since = time.monotonic()
        figures = measure()
        self.results.append({**key, "seconds": time.monotonic() - since, **figures})
        self.file.write_text(json.dumps(self.results, indent=1))
        print(self.results[-1], flush=True)


def table(results: Sequence[Result]) -> str:
    """Means over seeds, and the lowest and highest in brackets."""
    lines = ["| tiers | error | tokens in the tier | dead experts | one sensor: removed / error grows | by frequency |"]
    lines.append("|---" * 6 + "|")
    for variant in TIERS:
        runs = [found for found in results if (found["part"], found["variant"]) == ("tiers", variant)]
        if runs:
            pruned = [f"{_mean(runs, _removed(n)):.1%} / {_mean(runs, _grown(n)):+.2%}" for n in POLICIES]
            share, dead = f"{_mean(runs, _of('collaborative')):.0%}", f"{_mean(runs, _of('dead')):.1f}"
            cells = [_range(runs, _of("error"), ".4f"), share, dead, *pruned]
            lines.append(f"| {variant} | {' | '.join(cells)} |")
    lines += ["", "| fine-tuning | trained | all sensors | one missing | one alone |", "|---" * 5 + "|"]
    for variant in TUNINGS:
        runs = [found for found in results if (found["part"], found["variant"]) == ("missing", variant)]
        if runs:
            columns = (_of("all"), _over("without "), _over("only "))
            cells = [f"{runs[0]['trained']:,}", *(_range(runs, column, ".3f") for column in columns)]
            lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


Figure = Callable[[Result], float]


def _of(name: str) -> Figure:
    return lambda run: float(run[name])


def _over(prefix: str) -> Figure:
    return lambda run: statistics.mean(value for name, value in run.items() if name.startswith(prefix))


def _removed(policy: str) -> Figure:
    return lambda run: statistics.mean(run[f"{keep[0]}, {policy}, removed"] for keep in KEEP if len(keep) == 1)


def _grown(policy: str) -> Figure:
    return lambda run: statistics.mean(
        run[f"{keep[0]}, {policy}, error"] / run[f"{keep[0]}, error"] - 1 for keep in KEEP if len(keep) == 1
    )


def _mean(runs: Sequence[Result], figure: Figure) -> float:
    return statistics.mean(map(figure, runs))


def _range(runs: Sequence[Result], figure: Figure, form: str) -> str:
    found = [figure(run) for run in runs]
    return f"{statistics.mean(found):{form}} ({min(found):{form}}-{max(found):{form}})"


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=250, help="of pre-training")
    parser.add_argument("--tier-steps", type=int, default=150, help="of pre-training for the tiers")
    parser.add_argument("--tuning", type=int, default=100, help="steps of fine-tuning")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    study, here = Study(given.out), world(given.data)
    for seed in given.seeds:
        path = given.out / f"encoder-{seed}.ckpt"
        if not path.exists():
            save(pretrain(here, seed, given.steps).encoder, path)
        for variant in TUNINGS:
            study.note("missing", variant, seed, partial(missing, here, seed, given.tuning, path, variant))
    for seed in given.seeds:
        for variant in TIERS:
            study.note("tiers", variant, seed, partial(tiers, here, seed, given.tier_steps, variant))
    print(table(study.results))


if __name__ == "__main__":
    main()
