"""What the ablation measures of an encoder: linear probes, masked reconstruction, routing, and who carries weight.

Axes: B and N tiles, P patches, C bands, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.ablation.tiles import BANDS, PATCH, Collection, Source, cut, even, floods, held_out_parts, shores
from benchmarks.ablation.variants import PASSES, Pair, Variant, in_force
from mapex_lightning.data.tileset import Split
from mapex_lightning.modality import Modality
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.interventions import skipped
from mapex_lightning.model.patchify import grid_places, patches, standardise
from mapex_lightning.model.reconstruction import Reconstruction, reconstruct
from mapex_lightning.model.specialisation import specialisation
from mapex_lightning.tiles import Tiles

SHOTS = (10, 50)
"""Labelled tiles per class, or labelled crops."""
DRAWS = 5
"""Draws of labels per probe; a figure is their mean."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Of the probes' regularisation, scikit-learn's C."""
JUDGED: tuple[Split, ...] = ("val", "test")
VISIBLE = 0.25
"""Share of visible tokens under which every variant is judged."""
MOST = 128
"""Held-out crops of each source for reconstruction."""

Figures = dict[str, float]


class Task(NamedTuple):
    """A labelled task of one sensor: a class per tile, or per patch.

    Attributes:
        name: in the names of figures.
        sensor: of the images.
        tiles: per split, images (N, C, H, W) and labels (N,), or (N, P) for the P patches of a crop, -1 where mixed.
    """

    name: str
    sensor: str
    tiles: dict[Split, tuple[Tensor, Tensor]]


def tasks(collection: Collection) -> list[Task]:
    """Land use (EuroSAT) from two sensors; from two others whether a crop is flooded, and which of its patches are."""
    most: dict[Split, int] = {"train": 60, "val": 40, "test": 60}
    land = {split: collection[split] for split in most}
    found = [
        Task("land use, rgb", "rgb", {s: _labelled(spread(land[s]["rgb"], each), "rgb") for s, each in most.items()}),
        Task("land use, s2", "s2", {s: _labelled(land[s]["pair"], "s2") for s in most}),
    ]
    crops: dict[Split, int] = {"train": 500, "val": 300, "test": 600}
    flood = {split: spread(floods(collection[split]["flood"]), each) for split, each in crops.items()}
    shore = {split: evenly(shores(collection[split]["flood"]), each) for split, each in crops.items()}
    for sensor in ("radar", "false_colour"):
        found.append(Task(f"flooded, {sensor}", sensor, {s: _labelled(flood[s], sensor) for s in crops}))
        found.append(Task(f"water, {sensor}", sensor, {s: _labelled(shore[s], sensor) for s in crops}))
    return found


def evenly(source: Source, most: int) -> Source:
    """Up to `most` tiles, evenly over their order."""
    return source.take(even(len(source), most))


def spread(source: Source, each: int) -> Source:
    """Up to `each` tiles of every class, evenly over their order."""
    assert source.labels is not None
    mine = ((source.labels == label).nonzero()[:, 0] for label in source.labels.unique())
    return source.take(torch.cat([rows[even(len(rows), each)] for rows in mine]))


def _labelled(source: Source, sensor: str) -> tuple[Tensor, Tensor]:
    assert source.labels is not None
    return source.images[sensor], source.labels


@torch.no_grad()
def features(encoder: Encoder, sensor: str, images: Tensor, patchwise: bool) -> Tensor:
    """Frozen features of one sensor alone: tokens (N, P, D) of crops, or the mean over a tile's crops (N, D)."""
    crops = cut(images).split(256)
    tokens = torch.cat([encoder(Tiles.of(**{sensor: part})).values for part in crops])
    return tokens if patchwise else reduce(tokens, "(n k) p d -> n d", "mean", n=len(images))


def plain(images: Tensor, patchwise: bool) -> Tensor:
    """What needs no learning: mean and deviation of every band, of the tile and, for patches, of the patch as well."""
    smooth = reduce(images, "n c (h s) (w t) -> n c h w", "mean", s=4, t=4)
    whole = torch.cat([images.mean((2, 3)), images.std((2, 3)), smooth.std((2, 3))], dim=1)
    if not patchwise:
        return whole
    pixels = rearrange(images, "n c (h p) (w q) -> n (h w) c (p q)", p=PATCH, q=PATCH)
    return torch.cat([pixels.mean(3), pixels.std(3), repeat(whole, "n f -> n p f", p=pixels.shape[1])], dim=2)


def probes(encoder: Encoder | None, task: Task, seed: int) -> Figures:
    """Balanced accuracy of logistic regression on few labels, of frozen features or plain statistics.

    The strength of regularisation is chosen on the validation tiles, from `STRENGTHS`: it matters most where features
    are many and labels few. Few are 10 or 50 tiles per class, or 10 or 50 crops whose patches are labelled.
    """
    patchwise = task.tiles["train"][1].ndim == 2
    seen = {
        split: plain(images, patchwise) if encoder is None else features(encoder, task.sensor, images, patchwise)
        for split, (images, _) in task.tiles.items()
    }
    labels = {split: found for split, (_, found) in task.tiles.items()}
    figures: Figures = {}
    for shots in SHOTS:
        scores = np.zeros((len(STRENGTHS), DRAWS, len(JUDGED)))
        for draw in range(DRAWS):
            rows = _drawn(labels["train"], shots, torch.Generator().manual_seed(1000 * seed + draw))
            train = _table(seen["train"][rows], labels["train"][rows])
            for index, strength in enumerate(STRENGTHS):
                regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
                model = make_pipeline(StandardScaler(), regression).fit(*train)
                for column, split in enumerate(JUDGED):
                    x, y = _table(seen[split], labels[split])
                    scores[index, draw, column] = balanced_accuracy_score(y, model.predict(x))
        best = scores.mean(1)[scores.mean(1)[:, 0].argmax()]
        figures |= {f"{task.name}/{shots}/{split}": float(best[c]) for c, split in enumerate(JUDGED)}
    return figures


def _drawn(labels: Tensor, shots: int, generator: torch.Generator) -> Tensor:
    """Tiles that are labelled: `shots` of every class, or `shots` crops."""
    order = torch.randperm(len(labels), generator=generator)
    if labels.ndim == 2:
        return order[:shots]
    return torch.cat([order[labels[order] == label][:shots] for label in labels.unique()])


def _table(features: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows and their classes, without the patches that are neither."""
    known = labels >= 0
    return features[known].numpy(), labels[known].numpy()


@torch.no_grad()
def reconstruction(pair: Pair, batches: Sequence[Tiles]) -> Figures:
    """Masked error per sensor on held-out crops, and radar in one measure for all variants.

    That measure, ``radar cells``, is the squared error of the mean of 4 x 4 pixels in standard deviations, over hidden
    patches of crops in whose view radar was; beside it what trivial predictors get on the same patches.
    """
    generator = torch.Generator().manual_seed(0)
    totals: dict[str, list[float]] = {}
    radar = pair.encoder.config.modality("radar")

    def add(name: str, total: float, number: float) -> None:
        before = totals.setdefault(name, [0.0, 0.0])
        totals[name] = [before[0] + total, before[1] + number]

    for tiles in batches:
        found = reconstruct(pair.encoder, pair.decoder, tiles, VISIBLE, generator, PASSES)
        for name, error in found.errors.items():
            add(f"error/{name}", float(error.total), float(error.number))
        if "radar" in tiles.images:
            for name, (total, number) in _radar(found, tiles, radar).items():
                add(name, total, number)
    return {name: total / max(1.0, number) for name, (total, number) in totals.items()}


def _radar(found: Reconstruction, tiles: Tiles, radar: Modality) -> dict[str, tuple[float, float]]:
    truth = patches(_means(standardise(tiles.images["radar"], radar), 4), 2)
    count = truth.shape[1]
    target = found.targets["radar"]
    level = found.predictions["radar"] * target.scale + target.mean
    predicted = quarters(level)
    visible = found.visible[:, :count]  # radar is the first of the sensors
    seen = visible.any(1, keepdim=True)
    here = tiles.present["radar"][:, None] & ~visible
    share = visible.float()[..., None] / visible.sum(1).clamp(min=1)[:, None, None]
    mean = (truth.mean(2, keepdim=True) * share).sum(1, keepdim=True).expand_as(truth)
    nothing = torch.zeros_like(truth)
    guesses = {"model": predicted, "mean": nothing, "visible mean": mean, "interpolation": _near(truth, visible)}
    figures = {name: _mean_over(here & seen, guess - truth) for name, guess in guesses.items()}
    for name in ("model", "mean"):
        figures[f"{name}, radar unseen"] = _mean_over(here & ~seen, guesses[name] - truth)
    return {f"radar cells/{name}": sums for name, sums in figures.items()}


def _mean_over(where: Tensor, error: Tensor) -> tuple[float, float]:
    return float(error.square().mean(2)[where].sum()), float(where.sum())


def _means(image: Tensor, side: int) -> Tensor:
    return reduce(image, "b c (h s) (w t) -> b c h w", "mean", s=side, t=side)


def quarters(values: Tensor) -> Tensor:
    """Predictions of one band (B, N, side side) as means of quarters of a patch: (B, N, 4)."""
    side = round(values.shape[-1] ** 0.5)
    if side == 1:
        return repeat(values, "b n 1 -> b n four", four=4)
    return reduce(values, "b n (h s w t) -> b n (h w)", "mean", h=2, w=2, s=side // 2, t=side // 2)


def _near(truth: Tensor, visible: Tensor) -> Tensor:
    """Interpolation: the visible patches' means weighted by one over the squared distance."""
    side = round(truth.shape[1] ** 0.5)
    place = grid_places(side, side, 1.0, truth.device)
    weight = visible.float()[:, None, :] / torch.cdist(place, place).square().clamp(min=1e-6)
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-9)
    return (weight @ truth.mean(2, keepdim=True)).expand_as(truth)


@torch.no_grad()
def health(pair: Pair, batches: Sequence[Tiles], whole: Figures) -> Figures:
    """How much worse reconstruction is, in per cent, if feed-forwards give nothing: of one block, of all mixtures."""
    mixtures = tuple(pair.encoder.mixtures)
    parts: dict[str, tuple[int, ...]] = {f"block {block}": (block,) for block in range(pair.encoder.config.depth)}
    if mixtures:
        parts["mixtures"] = mixtures
    parts["all"] = tuple(range(pair.encoder.config.depth))
    figures = {}
    for name, blocks in parts.items():
        with skipped(pair.encoder, blocks):
            found = reconstruction(pair, batches)
        ratios = [found[f"error/{sensor}"] / whole[f"error/{sensor}"] for sensor in BANDS]
        figures[f"health/{name}"] = 100 * (float(np.mean(ratios)) - 1)
    return figures


@torch.no_grad()
def routing(encoder: Encoder, batches: Sequence[Tiles]) -> Figures:
    """Normalised mutual information of sensor and chosen expert, and dead experts, per mixture."""
    with encoder.observe():
        for tiles in batches:
            encoder(tiles)
    figures: Figures = {}
    for block, mixture in encoder.mixtures.items():
        found = specialisation(mixture.census[0, :, :-1])
        figures |= {f"nmi/block {block}": float(found["nmi"]), f"dead/block {block}": float(found["dead"])}
    return figures


def measured(pair: Pair, variant: Variant, collection: Collection, judged: Sequence[Task], seed: int) -> Figures:
    """All figures of an encoder."""
    pair.eval()
    figures: Figures = {}
    with in_force(variant, training=False):
        for split in JUDGED:
            batches = held_out_parts(collection[split], MOST)
            found = reconstruction(pair, batches)
            figures |= {f"{name}/{split}": value for name, value in found.items()}
            if split == "val":
                figures |= health(pair, batches, found) | routing(pair.encoder, batches)
        for task in judged:
            figures |= probes(pair.encoder, task, seed)
    return figures
