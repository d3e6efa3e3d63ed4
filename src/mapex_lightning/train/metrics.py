"""How well a task is done: loss and figures of each kind of label, in all and per class.

Axes: B tiles, K classes, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAveragePrecision,
    BinaryConfusionMatrix,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MultilabelAveragePrecision,
    MultilabelConfusionMatrix,
    MultilabelF1Score,
)

from mapex_lightning.data.tileset import Task
from mapex_lightning.precision import widest
from mapex_lightning.tiles import IGNORED


class MeanIoU(MulticlassConfusionMatrix):
    """Mean intersection over union, over the classes that occur in label or prediction; NaN if none does.

    So a class of no label is 0 where it is predicted, as in mmsegmentation, and does not count where it is not;
    torchmetrics' macro average counts it as 0 there, too.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(num_classes=classes, ignore_index=IGNORED)

    def compute(self) -> Tensor:
        """A scalar."""
        confusion = super().compute()
        confusion = confusion.to(widest(confusion.device))
        hit = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hit
        return (hit[union > 0] / union[union > 0]).mean().float()


class MeanLoss(MeanMetric):
    """The mean of the losses of batches by their weights, however tiles fall into batches; 0 where nothing weighs."""

    def compute(self) -> Tensor:
        """A scalar."""
        total, weight = self.mean_value, self.weight
        assert isinstance(total, Tensor)
        assert isinstance(weight, Tensor)
        return total / weight.clamp(min=1)


@dataclass(frozen=True)
class TaskFigures:
    """What a task is judged by.

    Args:
        main: the figure that chooses the best checkpoint; higher is better.
        metrics: by name, of logits or probabilities and targets.
    """

    main: str
    metrics: dict[str, Metric]

    def collection(self, prefix: str) -> MetricCollection:
        """Fresh metrics that log under a prefix such as ``val/``."""
        return MetricCollection({name: metric.clone() for name, metric in self.metrics.items()}, prefix=prefix)


def figures_of(task: Task, classes: int) -> TaskFigures:
    """The figures of a task.

    * multiclass: ``accuracy``, the share of tiles that are right.
    * multilabel: ``map`` and ``f1``, both over all pairs of tile and class (micro).
    * segmentation: ``miou`` over classes that occur in label or prediction, ``accuracy`` over labelled pixels.
    """
    if task == "multiclass":
        return TaskFigures("accuracy", {"accuracy": MulticlassAccuracy(classes, average="micro")})
    if task == "multilabel" and classes == 1:  # torchmetrics' metrics of many labels want several
        return TaskFigures("map", {"map": BinaryAveragePrecision(thresholds=200), "f1": BinaryF1Score()})
    if task == "multilabel":
        metrics: dict[str, Metric] = {
            "map": MultilabelAveragePrecision(classes, average="micro", thresholds=200),
            "f1": MultilabelF1Score(classes, average="micro"),
        }
        return TaskFigures("map", metrics)
    accuracy = MulticlassAccuracy(classes, average="micro", ignore_index=IGNORED)
    return TaskFigures("miou", {"miou": MeanIoU(classes), "accuracy": accuracy})


def confusion_of(task: Task, classes: int) -> Metric:
    """A fresh count of what is taken for what, of probabilities and targets; ignored pixels are not in it.

    * multiclass, segmentation: (K, K), tiles or labelled pixels per label (rows) and prediction (columns).
    * multilabel: (K, 2, 2), or (2, 2) of a single class: the same per class, of no and yes.
    """
    if task == "multilabel":
        return BinaryConfusionMatrix() if classes == 1 else MultilabelConfusionMatrix(classes)
    return MulticlassConfusionMatrix(classes, ignore_index=IGNORED if task == "segmentation" else None)


def by_class(task: Task, confusion: Tensor, classes: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """The figures of every class; None where there is nothing that they would be a share of.

    ``iou`` of a segmentation or ``f1`` of other tasks; ``precision``, of what is predicted as the class (user's
    accuracy); ``recall``, of what is labelled so (producer's accuracy); and how many ``pixels`` or ``tiles`` that are.

    Args:
        task: kind of label.
        confusion: what `confusion_of` has counted.
        classes: their names; those of a name that occurs twice are numbered.
    """
    counts = confusion.cpu()
    if task == "multilabel":
        counts = counts.reshape(-1, 2, 2)
        hits, labelled, predicted = counts[:, 1, 1], counts[:, 1].sum(-1), counts[:, :, 1].sum(-1)
    else:
        hits, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    names = [name if classes.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(classes)]
    found: dict[str, dict[str, float | int | None]] = {}
    for name, hit, label, guess in zip(names, hits.tolist(), labelled.tolist(), predicted.tolist(), strict=True):
        segments = task == "segmentation"
        found[name] = {
            **({"iou": _share(hit, label + guess - hit)} if segments else {"f1": _share(2 * hit, label + guess)}),
            "precision": _share(hit, guess),
            "recall": _share(hit, label),
            "pixels" if segments else "tiles": label,
        }
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def loss_of(task: Task, logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy (multiclass, segmentation without ignored pixels) or its binary form (multilabel).

    Args:
        task: kind of label.
        logits: (B, K), or (B, K, H, W) for segmentation.
        target: (B,) int64, (B, K) float, or (B, H, W) int64.
    """
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, target)
    if task == "segmentation":
        if torch.are_deterministic_algorithms_enabled():  # CUDA has one for a loss of rows, and none for one of maps
            logits, target = rearrange(logits, "b k h w -> (b h w) k"), target.flatten()
        # A mean over no pixel would be NaN.
        total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        return total / (target != IGNORED).sum().clamp(min=1)
    return F.cross_entropy(logits, target)


def weight_of(task: Task, target: Tensor) -> Tensor | int:
    """How many the loss of a batch is the mean of: tiles, or labelled pixels.

    Args:
        task: kind of label.
        target: see `loss_of`.
    """
    return (target != IGNORED).sum() if task == "segmentation" else len(target)
