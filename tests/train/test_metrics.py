"""Losses and figures against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from mapex_lightning.data.tileset import Task
from mapex_lightning.tiles import IGNORED
from mapex_lightning.train.metrics import MeanIoU, by_class, confusion_of, figures_of, loss_of

LABEL = torch.tensor([[[0, 0, 0, 1]]])
GUESS = torch.tensor([[[0, 0, 1, 1]]])
"""Class 0: 2 of a union of 3; class 1: 1 of a union of 2; class 2 occurs nowhere."""


def test_mean_iou_is_the_mean_over_classes_of_hits_per_union() -> None:
    metric = MeanIoU(2)
    metric.update(GUESS, LABEL)
    assert float(metric.compute()) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_class_that_occurs_nowhere_does_not_count() -> None:
    ours, theirs = MeanIoU(3), MulticlassJaccardIndex(3, average="none")
    ours.update(GUESS, LABEL)
    theirs.update(GUESS, LABEL)
    per_class = theirs.compute()
    assert per_class[2] == 0
    assert float(ours.compute()) == pytest.approx(float(per_class[:2].mean()))
    assert float(ours.compute()) > float(per_class.mean())


def test_a_class_that_is_only_guessed_counts_as_zero() -> None:
    metric = MeanIoU(3)
    metric.update(torch.tensor([[[0, 0, 2, 1]]]), LABEL)
    assert float(metric.compute()) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_ignored_pixels_do_not_count() -> None:
    metric = MeanIoU(2)
    metric.update(GUESS, torch.tensor([[[0, 0, IGNORED, 1]]]))
    assert float(metric.compute()) == 1


def test_mean_iou_of_no_labelled_pixel_is_nan() -> None:
    metric = MeanIoU(2)
    metric.update(GUESS, torch.full_like(GUESS, IGNORED))
    assert math.isnan(float(metric.compute()))


def test_mean_iou_adds_pixels_up_over_batches() -> None:
    whole, parts = MeanIoU(3), MeanIoU(3)
    guess, label = torch.randint(3, (2, 4, 5, 5), generator=torch.Generator().manual_seed(0))
    whole.update(guess, label)
    for row in range(4):
        parts.update(guess[row : row + 1], label[row : row + 1])
    assert parts.compute() == whole.compute()


@pytest.mark.parametrize(
    ("task", "main", "names"),
    [
        ("multiclass", "accuracy", {"accuracy"}),
        ("multilabel", "map", {"map", "f1"}),
        ("segmentation", "miou", {"miou", "accuracy"}),
    ],
)
def test_every_task_has_its_figures_and_one_that_counts_most(task: Task, main: str, names: set[str]) -> None:
    figures = figures_of(task, 3)
    assert figures.main == main
    assert set(figures.metrics) == names
    assert set(figures.collection("val/").keys()) == {f"val/{name}" for name in names}


def test_one_label_has_the_figures_of_several_over_all_pairs() -> None:
    guess, label = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60).reshape(20, 3) % 2
    several, one = (figures_of("multilabel", count).collection("val/") for count in (3, 1))
    several.update(guess, label)
    one.update(guess.reshape(60, 1), label.reshape(60, 1))
    assert one.compute() == several.compute()


def test_the_iou_per_class_averaged_over_those_that_occur_is_the_mean_iou_of_all_labelled_pixels() -> None:
    guess, label = torch.randint(3, (2, 4, 5, 5), generator=torch.Generator().manual_seed(0))
    label[0, :2] = IGNORED
    confusion, mean = confusion_of("segmentation", 5), MeanIoU(5)
    for row in range(4):
        confusion.update(guess[row : row + 1], label[row : row + 1])
        mean.update(guess[row : row + 1], label[row : row + 1])
    assert int(confusion.compute().sum()) == int((label != IGNORED).sum()) == 90
    found = by_class("segmentation", confusion.compute(), "abcde")
    shares = [its["iou"] for its in found.values() if its["iou"] is not None]
    assert len(shares) == 3
    assert sum(shares) / 3 == pytest.approx(float(mean.compute()))
    assert found["e"] == {"iou": None, "precision": None, "recall": None, "pixels": 0}


def test_a_class_that_is_only_guessed_has_an_iou_of_zero_and_no_recall() -> None:
    confusion = confusion_of("segmentation", 3)
    confusion.update(torch.tensor([[[0, 0, 2, 1]]]), LABEL)
    assert confusion.compute().tolist() == [[2, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert by_class("segmentation", confusion.compute(), ["x", "y", "x"]) == {
        "x (0)": {"iou": 2 / 3, "precision": 1, "recall": 2 / 3, "pixels": 3},
        "y": {"iou": 1, "precision": 1, "recall": 1, "pixels": 1},
        "x (2)": {"iou": 0, "precision": 0, "recall": None, "pixels": 0},
    }


def test_classes_of_tiles_have_f1_precision_and_recall() -> None:
    guess, label = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1])
    confusion = confusion_of("multiclass", 3)
    confusion.update(guess, label)
    wanted = {
        "a": {"f1": 1 / 2, "precision": 1 / 3, "recall": 1, "tiles": 1},
        "b": {"f1": 1 / 2, "precision": 1, "recall": 1 / 3, "tiles": 3},
        "c": {"f1": None, "precision": None, "recall": None, "tiles": 0},
    }
    assert by_class("multiclass", confusion.compute(), "abc") == wanted
    several, one = confusion_of("multilabel", 3), confusion_of("multilabel", 1)
    several.update(torch.eye(3)[guess] * 0.9, torch.eye(3)[label].long())
    one.update((guess == 0)[:, None] * 0.9, (label == 0)[:, None].long())
    assert by_class("multilabel", several.compute(), "abc") == wanted
    assert by_class("multilabel", one.compute(), "a") == {"a": wanted["a"]}


def test_collections_of_two_stages_do_not_share_their_counts() -> None:
    figures = figures_of("multiclass", 2)
    val, test = figures.collection("val/"), figures.collection("test/")
    val.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    test.update(torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert val.compute() == {"val/accuracy": torch.tensor(1.0)}
    assert test.compute() == {"test/accuracy": torch.tensor(0.0)}


def test_a_mask_without_a_label_costs_nothing_and_teaches_nothing() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = loss_of("segmentation", logits, torch.full((2, 4, 4), IGNORED))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_segmentation_loss_is_the_mean_over_labelled_pixels() -> None:
    logits = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    loss = loss_of("segmentation", logits, torch.tensor([[[0, 1, IGNORED]]]))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(2)) - 1)


def test_the_multiclass_loss_is_minus_the_log_of_the_true_class() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0]])
    wanted = -math.log(math.exp(3) / (math.e + math.exp(3) + 1))
    assert float(loss_of("multiclass", logits, torch.tensor([1]))) == pytest.approx(wanted)


def test_the_multilabel_loss_is_the_mean_of_two_way_choices() -> None:
    loss = loss_of("multilabel", torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    assert float(loss) == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 2)
