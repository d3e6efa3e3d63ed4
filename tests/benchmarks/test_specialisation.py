"""The study of specialisation: a run of it, and its tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from benchmarks.specialisation import VARIANTS, Scenes, removed, run, table
from mapex_lightning.modality import modalities
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.tiles import Tiles
from tests.builders import config_of, encoder_of, tiles_of

SENSORS = modalities(["s1", "rgb"])


def batch(generator: torch.Generator) -> Tiles:
    """Four tiles of 16 x 16 pixels, in physical units."""
    return Tiles.of(
        **{
            sensor.name: torch.randn(4, len(sensor.bands), 16, 16, generator=generator) * sensor.std[0] + sensor.mean[0]
            for sensor in SENSORS
        }
    )


WORLD = Scenes("synthetic", SENSORS, batch, [batch(torch.Generator().manual_seed(1))])


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return run(WORLD, "default", seed=3, steps=1)


def test_a_run_is_plain_and_can_be_repeated(result: dict[str, Any]) -> None:
    again = run(WORLD, "default", seed=3, steps=1)
    one, other = (json.dumps({**found, "seconds": 0}, allow_nan=False) for found in (result, again))
    assert one == other


def test_the_start_in_the_analysis_is_the_start_of_the_run(result: dict[str, Any]) -> None:
    untouched = run(WORLD, "default", seed=3, steps=0)["analysis"]["routing"]
    for block, routing in result["analysis"]["routing"].items():
        assert routing["start_hard"] == untouched[block]["hard"]["nmi"]
        assert routing["start_soft"] == untouched[block]["soft"]["nmi"]


def test_what_pruning_removes_is_told_for_every_sensor_and_pair(result: dict[str, Any]) -> None:
    assert list(result["removed"]) == ["s1", "rgb", "s1+rgb"]
    assert all(0 <= share < 1 for share in result["removed"].values())


def test_fewer_sensors_need_no_more_parameters() -> None:
    encoder: Encoder = encoder_of(config_of())
    found = removed(encoder, [tiles_of(config_of())])
    assert found["s1"] >= found["s1+s2"]
    assert found["dem"] >= found["s2+dem"]


def test_the_table_has_a_row_for_every_variant_and_says_what_the_tiles_are(result: dict[str, Any]) -> None:
    lines = table([result, {**result, "variant": "pooled"}, {**result, "seed": 4}]).splitlines()
    assert lines[0] == "synthetic tiles, held out"
    rows = [line for line in lines if line.startswith(("| default |", "| pooled |"))]
    assert len(rows) == 6
    assert rows[0].startswith("| default | 2 |")
    assert len({line.count("|") for line in lines[2:6]}) == 1


def test_every_ablation_differs_from_the_default() -> None:
    assert len(set(VARIANTS.values())) == len(VARIANTS)
