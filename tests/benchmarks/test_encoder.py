"""The benchmark of the encoder compares what is equal, and prints its tables."""

from __future__ import annotations

import pytest
import torch

from benchmarks.encoder import (
    SENSORS,
    Place,
    base_of,
    differences,
    family,
    flops_of,
    image_for,
    main,
    tiles_of,
    trial_of,
    vit_of,
)
from benchmarks.measure import CLOCKS
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import EncoderConfig, preset
from mapex_lightning.model.encoder import Encoder

CPU = torch.device("cpu")


def config_of(every: int = 2) -> EncoderConfig:
    return preset("nano", modalities(SENSORS[:2]), every=every, experts=6)


def test_the_vit_has_the_tokens_the_pixels_and_the_blocks_of_the_dense_encoder() -> None:
    config = config_of(every=0)
    encoder, vit = Encoder(config), vit_of(config)
    tiles, image = tiles_of(config, 2, CPU), image_for(vit, 2, CPU)
    assert vit.patch_embed.num_patches == encoder(tiles).values.shape[1]
    assert image.numel() == sum(pixels.numel() for pixels in tiles.images.values())
    assert vit(image).shape == encoder.pooled(tiles).shape
    ours, theirs = (sum(p.numel() for p in blocks.parameters()) for blocks in (encoder.blocks, vit.blocks))
    assert ours == theirs


@pytest.mark.parametrize("every", [0, 2])
def test_the_encoder_has_the_flops_of_the_vit_but_for_the_router(every: int) -> None:
    config = config_of(every)
    encoder, vit = Encoder(config), vit_of(config)
    tiles = tiles_of(config, 4, CPU)
    theirs = flops_of(lambda: vit(image_for(vit, 4, CPU)))
    assert flops_of(lambda: encoder.pooled(tiles)) == pytest.approx(theirs, rel=0.01)


def test_a_step_changes_the_weights_of_every_block() -> None:
    place = Place(CPU, torch.float32, False, 1, CLOCKS["wall"], 1.0)
    trial = trial_of(preset("nano", modalities(SENSORS)), 2, place)
    before = {name: value.clone() for name, value in trial.encoder.named_parameters()}
    trial.step()
    after = dict(trial.encoder.named_parameters())
    changed = {name.split(".")[1] for name, old in before.items() if "blocks" in name and not old.equal(after[name])}
    assert changed == {str(block) for block in range(trial.encoder.config.depth)}


def test_the_pruned_encoder_says_what_the_sealed_one_says() -> None:
    found = differences(family("nano", CPU), CPU)
    assert found["float64"] < 1e-14
    assert found["float32"] < 1e-6


def test_only_the_unpruned_encoder_sends_one_sensor_to_many_experts() -> None:
    encoders = family("nano", CPU)
    tiles = tiles_of(encoders["pruned"].config, 2, CPU)
    for way, encoder in encoders.items():
        _, assignments = encoder.encode(encoder.patchify(tiles))
        used = [len(assignment.expert.unique()) for assignment in assignments.values()]
        assert all(many == 1 for many in used) == (way != "unpruned")


def test_compiled_is_compared_with_compiled() -> None:
    assert base_of("encoder, compiled") == "timm ViT, compiled"
    assert base_of("encoder") == "timm ViT"


def test_the_command_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--preset", "nano", "--tokens", "128", "--tiles", "2", "--batch", "1", "--rounds", "1"])
    printed = capsys.readouterr().out
    for word in ("inference, 128 tokens", "training, 128 tokens", "dense twin", "unpruned", "sealed", "float64"):
        assert word in printed
