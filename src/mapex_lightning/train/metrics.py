"""How well a task is done: loss and figures of each kind of label.

Axes: B tiles, K classes, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAveragePrecision,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from mapex_lightning.data.tileset import Task
from mapex_lightning.precision import widest
from mapex_lightning.tiles import IGNORED


class MeanIoU(MulticlassConfusionMatrix):
    """Mean intersection over union, over the classes that occur in label or prediction; NaN if none does.

    torchmetrics' macro average counts an empty class as 0.
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
    * segmentation: ``miou`` over classes that occur, ``accuracy`` over labelled pixels.
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
