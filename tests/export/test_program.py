"""The program that is exported is the model, on plain tensors."""

from __future__ import annotations

import pytest
import torch

from mapex_lightning.errors import MapexError
from mapex_lightning.export.program import Program, chosen, physical, program_of, reduced, sides
from mapex_lightning.model.heads import head_of
from tests.builders import SENSORS, checkpoint_of, config_of, encoder_of, observe, only, seal, tiles_of

ENCODER = encoder_of(config_of())
ALL = ("s1", "s2", "dem")


def test_it_gives_the_features_of_the_encoder() -> None:
    tiles = only(tiles_of(ENCODER.config), "s1", "dem")
    program = program_of(checkpoint_of(ENCODER), "a test")
    assert torch.equal(program(dict(tiles.images)), ENCODER.pooled(tiles))


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation"])
def test_it_gives_the_probabilities_of_a_head_unless_asked_for_features(task: str) -> None:
    described = {"task": task, "classes": ["a", "b", "c"], "pool": "mean"}
    head = head_of(ENCODER.config, described).eval()
    checkpoint = checkpoint_of(ENCODER, described)
    checkpoint["state_dict"] |= {f"head.{name}": value for name, value in head.state_dict().items()}
    images = dict(tiles_of(ENCODER.config).images)
    found = program_of(checkpoint, "a test")(images)
    assert found.shape == ((4, 3, 16, 16) if task == "segmentation" else (4, 3))
    assert torch.equal(found, Program(ENCODER, head, task).eval()(images))
    assert bool((found >= 0).all())
    assert program_of(checkpoint, "a test", features=True)(images).shape == (4, 16)


def test_a_sealed_model_is_pruned_to_the_sensors_and_gives_the_same() -> None:
    encoder = encoder_of(config_of((6, 0, 5)))
    observe(encoder, tiles_of(encoder.config, 16))
    seal(encoder, 0.8)
    checkpoint = checkpoint_of(encoder)
    smaller = reduced(checkpoint, ("s1",))
    count = [sum(value.numel() for value in one["state_dict"].values()) for one in (checkpoint, smaller)]
    assert count[1] < count[0]
    images = dict(only(tiles_of(encoder.config), "s1").images)
    torch.testing.assert_close(program_of(smaller, "a test")(images), program_of(checkpoint, "a test")(images))


def test_a_model_that_is_not_sealed_stays_whole() -> None:
    checkpoint = checkpoint_of(ENCODER)
    assert reduced(checkpoint, ("s1",)) is checkpoint


def test_the_sensors_stand_in_the_order_of_the_encoder() -> None:
    assert chosen(checkpoint_of(ENCODER), ("dem", "s1")) == ("s1", "dem")
    assert chosen(checkpoint_of(ENCODER), ()) == ALL
    with pytest.raises(MapexError, match="no modality 's3'"):
        chosen(checkpoint_of(ENCODER), ("s3",))


def test_sides_are_those_of_one_extent() -> None:
    assert sides(SENSORS, 32, 8) == {"s1": 32, "s2": 32, "dem": 16}
    for size in (0, 12, 8):  # 8 leaves half a patch of dem
        with pytest.raises(MapexError, match="no multiple of its patches of 8"):
            sides(SENSORS, size, 8)


def test_random_tiles_are_in_the_range_of_their_sensor() -> None:
    side = sides(SENSORS, 16, 8)
    whole, holed = physical(SENSORS, side, 3, seed=0), physical(SENSORS, side, 3, seed=0, holes=True)
    for sensor in SENSORS:
        mean, std = (torch.tensor(values)[:, None, None] for values in (sensor.mean, sensor.std))
        assert bool(whole[sensor.name].isfinite().all())
        assert float(((whole[sensor.name] - mean) / std).abs().max()) < 10
        assert bool(holed[sensor.name].isnan().any())
    assert bool(holed["dem"][0].isnan().all())
