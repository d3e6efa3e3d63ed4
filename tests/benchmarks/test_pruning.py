"""The study of pruning: its controls are what they say, and its tables show every figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch

from benchmarks import pruning
from benchmarks.ablation.tiles import BANDS, SIDE, Collection, Source
from benchmarks.pruning import Curves, equivalence, interval, labelled, pretrained, tables
from mapex_lightning.data.tileset import SPLITS


def source(names: tuple[str, ...], count: int, labels: torch.Tensor, seed: int) -> Source:
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: (count, len(BANDS[name]), SIDE, SIDE) for name in names}
    return Source({name: 100 + 50 * torch.randn(size, generator=generator) for name, size in sizes.items()}, labels)


@pytest.fixture(scope="module")
def collection() -> Collection:
    """Eight tiles of every source and split, half of a class; of the flooded ones half are under water."""
    halves = torch.arange(8) % 2
    water = (halves[:, None, None] > 0).expand(8, SIDE, SIDE)
    return {
        split: {
            "flood": source(("radar", "false_colour"), 8, water, seed),
            "s2": source(("s2",), 8, halves, seed + 10),
            "pair": source(("s2", "rgb"), 8, halves, seed + 20),
            "rgb": source(("rgb",), 8, halves, seed + 30),
        }
        for seed, split in enumerate(SPLITS)
    }


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's own numbers are for figures, not for tests."""
    monkeypatch.setattr(pruning, "TUNING_STEPS", 1)
    monkeypatch.setattr(pruning, "TUNING_BATCH", 4)


@pytest.fixture(scope="module")
def curves(collection: Collection) -> Curves:
    return Curves(pretrained(collection, 2, 0), collection, 0)


@pytest.fixture(scope="module")
def found(curves: Curves) -> Mapping[str, float]:
    return curves.of("rgb")


def test_every_way_is_measured_at_every_point(found: Mapping[str, float]) -> None:
    for index, point in enumerate(pruning.POLICIES, start=1):
        for way in ("chosen", "others'", "merged", "random"):
            for figure in ("reconstruction", "accuracy", "logit"):
                assert math.isfinite(found[f"{index} {point}/{way}/{figure}"])
        assert 0 < found[f"{index} {point}/removed"] < 1
    assert not [name for name in found if "random 0" in name]


def test_the_full_model_is_compared_with_itself(found: Mapping[str, float]) -> None:
    assert found["0 full/full/logit"] == 0


def test_giving_up_experts_removes_more_and_retains_less(found: Mapping[str, float]) -> None:
    points = [f"{index} {point}" for index, point in enumerate(pruning.POLICIES, start=1)]
    for one, other in pairwise(points):
        assert found[f"{one}/removed"] <= found[f"{other}/removed"]
        assert found[f"{one}/retained"] >= found[f"{other}/retained"]


def test_the_others_experts_are_not_those_of_the_kept_sensor(curves: Curves) -> None:
    for mixture in curves.encoder.mixtures.values():
        mixture.census[:, :, :-1] = torch.eye(8)[:4] + 1e-3
    rgb = curves.encoder.config.names.index("rgb")
    kept = dict.fromkeys(curves.encoder.mixtures, (rgb,))
    for experts in curves.others("rgb", kept).values():
        assert len(experts) == 1
        assert experts != (rgb,)


def test_random_experts_are_as_many(curves: Curves) -> None:
    kept = {0: (1,), 2: (0, 3), 4: (1, 2, 5)}
    assert {block: len(experts) for block, experts in curves.random(kept).items()} == {0: 1, 2: 2, 4: 3}


def test_an_interval_is_students() -> None:
    low, high = interval([0.0, 1.0, 2.0, 3.0, 4.0])
    assert (low + high) / 2 == pytest.approx(2.0)
    assert (high - low) / 2 == pytest.approx(2.1318 * (2.5**0.5) / 5**0.5, rel=1e-3)
    assert interval([0.1]) == (-math.inf, math.inf)


def test_tables_hold_every_sensor_and_verdict(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "TASKS", {"radar": "flood"})
    monkeypatch.setattr(pruning, "DRAWS", 1)
    text = tables([pruning.one(collection, 1, seed) for seed in (0, 1)])
    assert "radar kept, 2 seeds" in text
    assert len([line for line in text.splitlines() if line.startswith("radar ") and "full - " in line]) == 6
    assert "no mixture" in text


def test_a_pruned_model_is_tuned_from_the_same_head_in_the_same_order(collection: Collection) -> None:
    model = pretrained(collection, 1, 0)
    task = labelled(collection, "rgb")
    assert pruning.tuned(model.encoder, task, 3) == pruning.tuned(model.encoder, task, 3)
    assert set(equivalence(model, collection, "rgb", 0)) == {
        f"{how}/{which}" for how in ("probe", "fine-tuned") for which in ("full", "pruned", "sealed and pruned")
    }
