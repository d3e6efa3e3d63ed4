"""The study of related systems: its parts on a handful of crops."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.ablation.tiles import Source
from benchmarks.related import (
    TIERS,
    TUNINGS,
    Study,
    World,
    accuracy,
    inside,
    missing,
    pretrain,
    table,
    tiers,
    tuned,
)
from mapex_lightning.checkpoint import save
from mapex_lightning.modality import Modality
from tests.builders import config_of, encoder_of, observe, tiles_of

SENSORS = tuple(Modality(name, (name,), 10.0, "8-bit", (100.0,), (50.0,)) for name in ("radar", "swir", "nir", "green"))


def crops(count: int, seed: int = 0) -> Source:
    generator = torch.Generator().manual_seed(seed)
    images = {m.name: 100 + 50 * torch.randn(count, 1, 16, 16, generator=generator) for m in SENSORS}
    return Source(images, torch.arange(count) % 2)


WORLD = World(SENSORS, crops(8), crops(6, 1), crops(8, 2), crops(6, 3))


def test_routing_inside_experts_is_what_pruning_to_them_does() -> None:
    encoder = encoder_of(config_of((4, 0), router="grouped"))
    observe(encoder, tiles_of(encoder.config))
    narrowed = inside(encoder, {0: (1, 2)})
    assert all(set(row) <= {1, 2} for row in narrowed.config.allowed[0])
    assert encoder.config.allowed != narrowed.config.allowed


def test_balanced_accuracy_is_one_half_for_a_model_that_says_one_thing(tmp_path: Path) -> None:
    path = tmp_path / "encoder.ckpt"
    save(pretrain(WORLD, 0, 0).encoder, path)
    model = tuned(WORLD, 0, 0, path, TUNINGS["linear, drop 0"])
    with torch.no_grad():
        model.head.get_parameter("linear.bias").copy_(torch.tensor([9.0, 0.0]))
    assert accuracy(model, WORLD.tested, [m.name for m in SENSORS]) == 0.5


@pytest.mark.slow
def test_a_study_measures_everything_once_and_tells_it(tmp_path: Path) -> None:
    path, study = tmp_path / "encoder.ckpt", Study(tmp_path)
    save(pretrain(WORLD, 0, 1).encoder, path)
    for _ in range(2):
        for variant in TUNINGS:
            study.note("missing", variant, 0, partial(missing, WORLD, 0, 1, path, variant))
        for variant in TIERS:
            study.note("tiers", variant, 0, partial(tiers, WORLD, 0, 1, variant))
        study = Study(tmp_path)
    assert len(study.results) == len(TUNINGS) + len(TIERS)
    told = table(study.results)
    assert all(f"| {variant} |" in told for variant in (*TUNINGS, *TIERS))
