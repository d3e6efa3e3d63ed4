"""A step on a few tiles says whether training works and how much memory it takes."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import peak
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile
from mapex_lightning.train.base import MapexModule
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.pretrain import Pretrain
from mapex_lightning.train.rehearsal import TILES, Memory, rehearse
from tests.workshop import trainer_of

SENSORS = ["s1", "s2"]
CPU = {"accelerator": "cpu", "precision": "32-true"}


def tiles(batch: int = 32, size: int = 64, train: int = 32) -> TileData:
    return TileData([Synthetic(train=train, val=0, test=0, size=size, missing=0.0)], list(SENSORS), size, batch)


def model_of(kind: str, data: TileData, encoder: str = "nano") -> MapexModule:
    if kind == "pretrain":
        return Pretrain(encoder, list(SENSORS))
    return FineTune(encoder, data.task, data.classes, list(SENSORS))


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("encoder", "batch"), [("nano", 16), pytest.param("tiny", 64, marks=pytest.mark.slow)], ids=["nano", "tiny"]
)
def test_the_estimate_is_near_the_true_peak_of_a_larger_batch(kind: str, encoder: str, batch: int) -> None:
    data = tiles(batch, train=2 * batch)
    found = rehearse(model_of(kind, data, encoder), data, **CPU)
    assert found.tiles == TILES < batch

    def step() -> None:
        # Of the second step on, the optimiser's state is there during the backward pass.
        trainer_of(max_steps=2, limit_val_batches=0).fit(model_of(kind, data, encoder), datamodule=data)

    assert found.memory.of(batch) / 1.5 < peak(step, torch.device("cpu")) < found.memory.of(batch) * 1.5


def test_a_step_shows_loss_and_gradient_and_the_data_stay_as_they_were() -> None:
    data = tiles(batch=32, size=16)
    found = rehearse(model_of("pretrain", data), data, **CPU)
    assert found.finite
    assert found.loss > 0 < found.gradient
    assert (data.batch_size, data.workers, found.device.type) == (32, 0, "cpu")


def test_frozen_weights_take_neither_gradients_nor_optimiser_state() -> None:
    data = tiles(size=16)
    full, linear = (
        rehearse(FineTune("nano", data.task, data.classes, list(SENSORS), train=way), data, **CPU).memory
        for way in ("full", "linear")
    )
    assert full.parameters == linear.parameters
    assert linear.gradients < full.gradients / 100
    assert linear.optimiser < full.optimiser / 100
    assert full.optimiser == pytest.approx(2 * full.gradients, rel=0.01)


def test_the_largest_batch_is_the_last_that_fits() -> None:
    memory = Memory(parameters=100, gradients=100, optimiser=200, per_tile=7)
    most = memory.most_tiles(500)
    assert memory.of(most) <= 500 < memory.of(most + 1)
    assert memory.most_tiles(399) == 0


class Broken(Synthetic):
    """Tiles that cannot be read."""

    def read(self, key: str, modalities: object) -> Tile:
        raise MapexError("The disk is gone.")


def test_what_keeps_a_step_from_being_taken_is_said() -> None:
    data = TileData([Broken(train=4, val=0, test=0, size=16)], list(SENSORS), 16, 4)
    with pytest.raises(MapexError, match="The disk is gone"):
        rehearse(model_of("pretrain", data), data, **CPU)
    other = TileData(
        [Synthetic(train=4, val=0, test=0, size=16)], [Modality("s9", ("VV",), 10.0, "dB", (0,), (1,))], 16
    )
    with pytest.raises(MapexError, match="s9"):
        rehearse(model_of("pretrain", other), other, **CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_said() -> None:
    data = tiles(size=16)
    with pytest.raises(MapexError, match="A training step fails: MisconfigurationException: No supported gpu backend"):
        rehearse(model_of("pretrain", data), data, accelerator="gpu", precision="32-true")
