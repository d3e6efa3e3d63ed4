"""What pruning costs: curves against the wrong experts, and how equal the pruned model is to the full one.

    python -m benchmarks.pruning --data DIR --out FOLDER --seeds 0 1 2 3 4

Pre-trains nano encoders on crops of four real sensors (see benchmarks/ablation/tiles.py), unsealed, and keeps each
sensor in turn.

Curves: masked reconstruction of the kept sensor, accuracy of a probe that was fitted on the full model's features, and
the largest change of one of its logits, against the share of parameters removed; for the experts that pruning chooses,
for as many random ones, for those that serve the other sensors best, for the chosen ones with the rest merged into
them, and for no mixture at all. Tokens keep the gates of the experts that they wanted, or a wrong expert would be tried
with a gate near 0.

Equivalence: accuracy of full minus pruned, paired over seeds and test tiles, with its 90 % interval, by probes of their
own and after fine-tuning: in float32, in float64 (no drift by rounding), and in float64 with both sealed first, so that
neither router can send tokens to experts that the other does not have.

Writes results.json after every seed; what was already done in FOLDER is not done again. `--parts` does only some.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmarks.ablation.tiles import Collection, Source, batch, collect, cut, floods, held_out, sensors
from mapex_lightning.analysis import masked_errors
from mapex_lightning.checkpoint import ENCODER, KEY, Description, describe, load_weights, weights
from mapex_lightning.data.tileset import Split
from mapex_lightning.files import write_whole
from mapex_lightning.model.auxiliary import auxiliary_losses, total
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.heads import Classifier
from mapex_lightning.model.interventions import at_rest, rerouted, restricted, without_mixtures
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.router import Assignment
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.pruning import Kept, Policy, Report, mass, prune, sealing
from mapex_lightning.pruning.surgery import merge
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.optim import configure
from mapex_lightning.train.pretrain import Pretrain

DRAWS = 5
"""Random prunings per point."""
POLICIES = {
    "99 %": Policy("coverage", 0.99),
    "95 %": Policy("coverage", 0.95),
    "80 %": Policy("coverage", 0.8),
    "best one": Policy("top", 1),
}
"""Points of a curve, from much to little."""
TASKS = {"rgb": "rgb", "s2": "pair", "radar": "flood", "false_colour": "flood"}
"""Per sensor, the source of its labelled tiles: land use, or whether a crop is flooded."""
MOST: dict[Split, int] = {"train": 1000, "test": 500}
"""Labelled tiles, evenly over their order."""
TUNING_STEPS, TUNING_BATCH = 100, 64
MARGIN = 0.01
"""Accuracies closer than this are called equal."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Labelled:
    """Crops of one sensor with classes, per split: images (N, C, H, W) and labels (N,)."""

    sensor: str
    images: Mapping[Split, Tensor]
    labels: Mapping[Split, Tensor]


def labelled(collection: Collection, sensor: str) -> Labelled:
    """The task of a sensor: one crop of each tile, the first."""
    images: dict[Split, Tensor] = {}
    labels: dict[Split, Tensor] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        source: Source = collection[split][TASKS[sensor]]
        source = floods(source) if TASKS[sensor] == "flood" else source
        assert source.labels is not None
        rows = torch.linspace(0, len(source) - 1, min(MOST[split], len(source))).long()
        every = cut(source.images[sensor][rows])
        images[split], labels[split] = every[:: len(every) // len(rows)], source.labels[rows]
    return Labelled(sensor, images, labels)


def pretrained(collection: Collection, steps: int, seed: int) -> Pretrain:
    """A nano encoder and its decoder, with a census of the validation tiles."""
    torch.manual_seed(seed)
    model = Pretrain(modalities=list(sensors(collection)), seal=None)
    optimiser, schedule = configure(model, model.optimiser, model.encoder.config.depth, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        found = reconstruct(model.encoder, model.decoder, batch(collection["train"], generator), 0.25, generator)
        losses = auxiliary_losses(found.assignments, len(model.encoder.config.names))
        (mean_over_modalities(found.errors) + total(losses, model.auxiliary)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    with at_rest(model.encoder), model.encoder.observe():
        for tiles in held_out(collection["val"], 512):
            model.encoder(tiles)
    return model.eval()


def as_checkpoint(encoder: Encoder) -> dict[str, Any]:
    """An encoder as `mapex_lightning.checkpoint.read` would return it."""
    state = {ENCODER + name: value for name, value in encoder.state_dict().items()}
    return {"state_dict": state, KEY: Description("pretrain", encoder.config, ("benchmark",)).plain()}


def rebuilt(checkpoint: Mapping[str, Any]) -> Encoder:
    """The encoder of a checkpoint in memory."""
    encoder = Encoder(describe(checkpoint).encoder)
    load_weights(encoder, weights(checkpoint, ENCODER), "a checkpoint in memory")
    return encoder.eval()


@torch.no_grad()
def features(encoder: Encoder, sensor: str, images: Tensor) -> Tensor:
    """Frozen features of one sensor alone: (N, D)."""
    return torch.cat([encoder.pooled(Tiles.of(**{sensor: part})) for part in images.split(256)])


def probe(encoder: Encoder, task: Labelled) -> Any:
    """Logistic regression on frozen features of the training tiles."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return model.fit(features(encoder, task.sensor, task.images["train"]).numpy(), task.labels["train"].numpy())


class Curves:
    """What one seed's encoder loses with fewer, other, merged or no experts.

    Args:
        model: pre-trained, with a census.
        collection: the tiles.
        seed: of random experts.
    """

    def __init__(self, model: Pretrain, collection: Collection, seed: int) -> None:
        self.model, self.collection = model, collection
        self.encoder, self.decoder = model.encoder, model.decoder
        self.generator = np.random.default_rng(seed)
        self.checkpoint = as_checkpoint(self.encoder)
        self.census = {block: mixture.census for block, mixture in self.encoder.mixtures.items()}

    def of(self, sensor: str) -> Figures:
        """All points of a kept sensor: ``point/way/figure`` to value."""
        task = labelled(self.collection, sensor)
        tiles = [Tiles.of(**{sensor: part}) for part in task.images["test"].split(128)]
        head = probe(self.encoder, task)
        logits = self.logits(head, task)
        found: Figures = {}

        def note(name: str, context: AbstractContextManager[Any], encoder: Encoder = self.encoder) -> None:
            with context:
                error = masked_errors(encoder, self.decoder, tiles)[sensor].mean
                changed = self.logits(head, task, encoder)
            correct = (_classes(changed) == task.labels["test"].numpy()).mean()
            found[f"{name}/reconstruction"] = float(error)
            found[f"{name}/accuracy"] = float(correct)
            found[f"{name}/logit"] = float(np.abs(changed - logits).max() / logits.std())

        note("0 full/full", nullcontext())
        for index, (point, policy) in enumerate(POLICIES.items(), start=1):
            report = prune(self.checkpoint, [sensor], policy)[1]
            at = f"{index} {point}"
            found[f"{at}/removed"] = 1 - report.parameters[1] / report.parameters[0]
            found[f"{at}/retained"] = statistics.mean(report.retained[sensor].values())
            note(f"{at}/chosen", restricted(self.encoder, report.experts))
            note(f"{at}/others'", restricted(self.encoder, self.others(sensor, report.experts), keep_gate=True))
            note(f"{at}/merged", *self.merged(sensor, policy))
            for draw in range(DRAWS):
                note(f"{at}/random {draw}", restricted(self.encoder, self.random(report.experts), keep_gate=True))
        note(f"{len(POLICIES) + 1} none/no mixture", without_mixtures(self.encoder))
        return _averaged(found)

    def logits(self, head: Any, task: Labelled, encoder: Encoder | None = None) -> np.ndarray:
        """Of the test tiles, (N, K), or (N,) for two classes."""
        found = features(encoder or self.encoder, task.sensor, task.images["test"]).numpy()
        return np.asarray(head.decision_function(found))

    def others(self, sensor: str, kept: Kept) -> Kept:
        """As many experts, those that carry most for the other sensors and as little as possible for this one."""
        mine = self.encoder.config.names.index(sensor)
        found = {}
        for block, experts in kept.items():
            share = mass(self.census[block])[:, :-1]
            share = share / share.sum(1, keepdim=True).clamp(min=1e-9)
            worth = share.sum(0) - (1 + len(share)) * share[mine]
            found[block] = tuple(sorted(worth.argsort(descending=True)[: len(experts)].tolist()))
        return found

    def random(self, kept: Kept) -> Kept:
        """As many experts, whichever."""
        return {
            block: tuple(sorted(self.generator.choice(self.encoder.config.experts[block], len(e), False).tolist()))
            for block, e in kept.items()
        }

    def merged(self, sensor: str, policy: Policy) -> tuple[AbstractContextManager[Any], Encoder]:
        """The full encoder with merged weights, whose tokens follow their experts into those that took them in."""
        report: Report = prune(self.checkpoint, [sensor], Policy(policy.rule, policy.amount, fallback="merged"))[1]
        mine = [self.encoder.config.names.index(sensor)]
        encoder = copy.deepcopy(self.encoder)
        encoder.load_state_dict(merge(encoder.state_dict(), self.census, mine, report.merges))
        stack = ExitStack()
        stack.enter_context(rerouted(encoder, {block: _following(m) for block, m in report.merges.items()}))
        return stack, encoder


def _following(merges: Mapping[int, int]) -> Any:
    def follow(router: Any, given: Any, found: Assignment) -> Assignment:
        into = torch.tensor([merges.get(e, e) for e in range(found.logits.shape[1])])
        return found._replace(expert=into[found.expert])

    return follow


def _classes(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(1) if logits.ndim == 2 else (logits > 0).astype(np.int64)


def _averaged(found: Figures) -> Figures:
    """Random draws become one figure."""
    kept = {name: value for name, value in found.items() if "random" not in name}
    for name in found:
        if "random 0" in name:
            draws = [found[name.replace("random 0", f"random {draw}")] for draw in range(DRAWS)]
            kept[name.replace("random 0", "random")] = statistics.mean(draws)
    return kept


def tuned(encoder: Encoder, task: Labelled, seed: int, dtype: torch.dtype = torch.float32) -> float:
    """Test accuracy after fine-tuning everything, from a head and in an order that depend on the seed alone."""
    encoder = copy.deepcopy(encoder).to(dtype).train()
    torch.manual_seed(seed)
    head = Classifier(encoder.config.width, int(task.labels["train"].max()) + 1).to(dtype)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=5e-4, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(TUNING_STEPS):
        rows = torch.randint(len(task.labels["train"]), (TUNING_BATCH,), generator=generator)
        tiles = Tiles.of(**{task.sensor: task.images["train"][rows].to(dtype)})
        nn.functional.cross_entropy(head(encoder, tiles), task.labels["train"][rows]).backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    encoder.eval()
    head.eval()
    with torch.no_grad():
        tests = [Tiles.of(**{task.sensor: part.to(dtype)}) for part in task.images["test"].split(256)]
        parts = [head(encoder, tiles) for tiles in tests]
    return float((torch.cat(parts).argmax(1) == task.labels["test"]).double().mean())


def sealed(full: Encoder) -> Encoder:
    """The same encoder, its experts fixed per sensor."""
    encoder = copy.deepcopy(full)
    encoder.seal(sealing(encoder.config, {block: mixture.census for block, mixture in encoder.mixtures.items()}))
    return encoder


def pruned(encoder: Encoder, sensor: str) -> Encoder:
    """The part of an encoder that a sensor needs."""
    return rebuilt(prune(as_checkpoint(encoder), [sensor])[0])


def equivalence(model: Pretrain, collection: Collection, sensor: str, seed: int) -> Figures:
    """Accuracies of the full encoder and of two pruned ones: as it is, and sealed first."""
    task, full, found = labelled(collection, sensor), model.encoder, Figures()
    models = {"full": full, "pruned": pruned(full, sensor), "sealed and pruned": pruned(sealed(full), sensor)}
    for name, encoder in models.items():
        test = features(encoder, sensor, task.images["test"]).numpy()
        found[f"probe/{name}"] = float(probe(encoder, task).score(test, task.labels["test"].numpy()))
        found[f"fine-tuned/{name}"] = tuned(encoder, task, seed)
    return found


def without_rounding(encoder: Encoder, collection: Collection, sensor: str, seed: int, how: str) -> Figures:
    """Accuracies of an encoder and of its pruned self after fine-tuning in float64."""
    task = labelled(collection, sensor)
    models = {"full": encoder, "pruned": pruned(encoder, sensor)}
    return {f"{how}/{name}": tuned(one, task, seed, torch.float64) for name, one in models.items()}


def interval(differences: Sequence[float], level: float = 0.9) -> tuple[float, float]:
    """Confidence interval of a mean (Student's t)."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return float("-inf"), float("inf")
    half = statistics.stdev(differences) / len(differences) ** 0.5
    half *= float(student.ppf((1 + level) / 2, len(differences) - 1))
    return mean - half, mean + half


def tables(results: Iterable[Mapping[str, Mapping[str, Figures]]]) -> str:
    """Means and deviations over the seeds that have each part."""
    every = list(results)
    lines: list[str] = []
    drawn = [run for run in every if "curves" in run]
    for sensor in drawn[0]["curves"] if drawn else ():
        lines += [f"\n{sensor} kept, {len(drawn)} seeds: mean (standard deviation)", HEAD]
        names = drawn[0]["curves"][sensor]
        for way in dict.fromkeys(name.rpartition("/")[0] for name in names if name.endswith("/accuracy")):
            point = way.partition("/")[0]
            cells = [_cell(drawn, sensor, f"{way}/{figure}") for figure in ("reconstruction", "accuracy", "logit")]
            sizes = [_cell(drawn, sensor, f"{point}/{figure}") for figure in ("removed", "retained")]
            lines.append(f"{way[2:]:24s} {' '.join(f'{cell:>16s}' for cell in (*sizes, *cells))}")
    lines += ["", "accuracy of the first minus the second: mean over seeds, 90 % interval, and whether within 1 point"]
    for part in ("equivalence", "float64", "sealed"):
        having = [run[part] for run in every if part in run]
        for sensor in having[0] if having else ():
            for pair in (name for name in having[0][sensor] if not name.endswith("/full")):
                lines.append(_gap([run[sensor] for run in having], sensor, *pair.split("/")))
    return "\n".join(lines)


def _gap(found: Sequence[Figures], sensor: str, how: str, other: str) -> str:
    gaps = [run[f"{how}/full"] - run[f"{how}/{other}"] for run in found]
    low, high = interval(gaps)
    verdict = "yes" if low >= -MARGIN and high <= MARGIN else "no"
    first = statistics.mean(run[f"{how}/full"] for run in found)
    return (
        f"{sensor:14s} {how:12s} full - {other:20s} {first:.3f}  {statistics.mean(gaps):+.4f}  "
        f"[{low:+.4f}, {high:+.4f}]  {verdict}  ({len(gaps)} seeds)"
    )


HEAD = f"{'':24s} {'removed':>16s} {'retained mass':>16s} {'reconstruction':>16s} {'accuracy':>16s} {'logit / sd':>16s}"


def _cell(every: Sequence[Mapping[str, Mapping[str, Figures]]], sensor: str, name: str) -> str:
    values = [run["curves"][sensor][name] for run in every if name in run["curves"][sensor]]
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4f} ({deviation:.4f})"


PARTS = ("curves", "equivalence", "float64", "sealed")


def one(collection: Collection, steps: int, seed: int, parts: Sequence[str] = PARTS) -> dict[str, dict[str, Figures]]:
    """The figures of one seed."""
    model = pretrained(collection, steps, seed)
    found: dict[str, dict[str, Figures]] = {}
    if "curves" in parts:
        curves = Curves(model, collection, seed)
        found["curves"] = {sensor: curves.of(sensor) for sensor in TASKS}
    if "equivalence" in parts:
        found["equivalence"] = {sensor: equivalence(model, collection, sensor, seed) for sensor in TASKS}
    for part, encoder in (("float64", model.encoder), ("sealed", sealed(model.encoder))):
        if part in parts:
            found[part] = {sensor: without_rounding(encoder, collection, sensor, seed, part) for sensor in TASKS}
    return found


def main() -> None:
    """Runs every seed and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=600, help="of pre-training")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    file = given.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    collection = collect(given.data)
    for seed in given.seeds:
        key = f"{given.steps} steps, seed {seed}"
        missing = [part for part in given.parts if part not in results.get(key, {})]
        if missing:
            results[key] = results.get(key, {}) | one(collection, given.steps, seed, missing)
            write_whole(file, lambda beside: beside.write_text(json.dumps(results, indent=1)))
            print(f"{key} done", flush=True)
    print(tables(results[f"{given.steps} steps, seed {seed}"] for seed in given.seeds))


if __name__ == "__main__":
    main()
