"""Heads turn features into classes, per tile or per pixel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mapex_lightning.model.heads import Classifier, Segmenter, probabilities
from tests.builders import config_of, encoder_of, only, tiles_of

CONFIG = config_of()
HEADS = [
    Classifier(CONFIG.width, 5),
    Classifier(CONFIG.width, 5, "redundancy"),
    Segmenter(CONFIG.width, 5, CONFIG.patch),
]


def test_a_classifier_gives_a_logit_per_tile_and_class() -> None:
    assert Classifier(CONFIG.width, 5)(encoder_of(CONFIG), tiles_of(CONFIG)).shape == (4, 5)


def test_a_fresh_classifier_prefers_no_class() -> None:
    logits = Classifier(CONFIG.width, 5)(encoder_of(CONFIG), tiles_of(CONFIG, 16))
    assert logits.softmax(1).sub(0.2).abs().max() < 0.1


def test_a_segmenter_gives_a_logit_per_pixel_of_the_finest_sensor() -> None:
    segmenter, encoder = Segmenter(CONFIG.width, 5, CONFIG.patch), encoder_of(CONFIG)
    assert segmenter(encoder, tiles_of(CONFIG)).shape == (4, 5, 16, 16)
    assert segmenter(encoder, only(tiles_of(CONFIG), "dem")).shape == (4, 5, 8, 8)


@pytest.mark.parametrize("head", HEADS, ids=["mean", "redundancy", "segmenter"])
def test_absent_pixels_change_no_logit(head: nn.Module) -> None:
    encoder, found = encoder_of(CONFIG), []
    for value in (0.0, torch.nan, 1e30):
        tiles = tiles_of(CONFIG)
        tiles.present["s1"][2] = False
        tiles.images["s1"][2] = value
        found.append(head.eval()(encoder, tiles))
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("head", HEADS, ids=["mean", "redundancy", "segmenter"])
def test_every_weight_of_head_and_encoder_can_learn(head: nn.Module) -> None:
    encoder = encoder_of(CONFIG)
    head.train()(encoder, tiles_of(CONFIG)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (*head.parameters(), *encoder.parameters()))


@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_probabilities_of_one_class_sum_to_one(task: str) -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(probabilities(task, logits).sum(1), torch.ones(2, 4, 4))


def test_probabilities_of_several_labels_do_not_depend_on_each_other() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    other = torch.tensor([[0.0, 9.0, -1.0]])
    torch.testing.assert_close(probabilities("multilabel", logits), 1 / (1 + torch.exp(-logits)))
    torch.testing.assert_close(probabilities("multilabel", logits)[:, ::2], probabilities("multilabel", other)[:, ::2])
