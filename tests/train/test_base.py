"""Where an encoder comes from, where noise comes from, and what a resumed run takes over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mapex_lightning.checkpoint import KEY, Description, save
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES
from mapex_lightning.model.config import PRESETS, RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.base import fold, start, tiles_of
from mapex_lightning.train.pretrain import Pretrain
from tests import builders
from tests.builders import config_of, encoder_of, observe, seal

FOLDED = 4511150776679624995
"""What `fold(0, "head")` was when this test was written: runs of the past must stay repeatable."""


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Encoder, str]:
    """A tiny encoder and the checkpoint that holds it."""
    encoder = encoder_of(config_of())
    path = tmp_path / "encoder.ckpt"
    save(encoder, path, "made by a test")
    return encoder, str(path)


def test_a_seed_of_parts_is_the_same_in_every_process() -> None:
    assert fold(0, "head") == FOLDED
    assert 0 <= FOLDED < 2**63


def test_other_parts_give_another_seed() -> None:
    seeds = [fold(), fold(0), fold(1), fold("0"), fold(0, 1), fold(1, 0), fold(0, "1"), fold("step", 0)]
    assert len(set(seeds)) == len(seeds)


def test_noise_is_a_function_of_the_seed_and_the_parts() -> None:
    one, same, other = (Pretrain("nano", ["s1"], seed=seed) for seed in (1, 1, 2))

    def draw(module: Pretrain, *parts: int | str) -> list[float]:
        drawn: list[float] = torch.rand(4, generator=module.generator(*parts)).tolist()
        return drawn

    torch.rand(3)  # the global state of random numbers has no say
    assert draw(one, "step", 1) == draw(same, "step", 1)
    assert draw(one, "step", 1) != draw(one, "step", 2)
    assert draw(one, "step", 1) != draw(other, "step", 1)


def test_a_preset_starts_with_the_sensors_it_is_given_and_no_history() -> None:
    encoder, description = start("nano", ["s2", MODALITIES["dem"]], experts=3)
    assert encoder.config == description.encoder
    assert encoder.config.names == ("s2", "dem")
    assert max(encoder.config.experts) == 3
    assert description.lineage == ()


def test_a_checkpoint_starts_with_its_own_weights_sensors_and_history(saved: tuple[Encoder, str]) -> None:
    encoder, path = saved
    found, description = start(path, ["dem"])
    assert found.config == encoder.config
    assert description.lineage == ("made by a test",)
    for name, value in encoder.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_the_control_has_the_shape_of_the_checkpoint_and_other_weights(saved: tuple[Encoder, str]) -> None:
    encoder, path = saved
    control, _ = start(path, None, pretrained=False)
    assert control.config == encoder.config
    for name, weight in encoder.named_parameters():
        drawn = dict(control.named_parameters())[name]
        assert drawn.shape == weight.shape
        if weight.ndim > 1 and not name.endswith("bias"):
            assert not torch.equal(drawn, weight), name


@pytest.mark.parametrize("router", ["conditioned", "grouped"])
def test_the_control_takes_over_neither_history_nor_sealed_sets_that_were_learned(
    router: RouterMode, tmp_path: Path
) -> None:
    encoder = encoder_of(config_of(router=router))
    observe(encoder, builders.tiles_of(encoder.config))
    seal(encoder, 0.9)
    save(encoder, tmp_path / "sealed.ckpt", "pre-trained for long")
    control, description = start(str(tmp_path / "sealed.ckpt"), None, pretrained=False)
    assert control.config.sealed == (router == "grouped")
    assert description.encoder == control.config
    assert len(description.lineage) == 1
    assert description.lineage[0].startswith("new weights in the shape of a checkpoint: 16 wide, 3 blocks")


def test_a_name_that_is_neither_preset_nor_checkpoint_gets_a_sentence() -> None:
    with pytest.raises(MapexError, match=f"checkpoint .* or a preset .{', '.join(PRESETS)}.; found 'nanoo'"):
        start("nanoo", ["s1"])


def test_a_checkpoint_that_is_not_there_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="There is no checkpoint"):
        start(str(tmp_path / "none.ckpt"), None)


@pytest.mark.parametrize("sensors", [None, []])
def test_a_preset_without_sensors_gets_a_sentence(sensors: list[str] | None) -> None:
    with pytest.raises(MapexError, match="needs modalities"):
        start("nano", sensors)


def test_the_tiles_of_a_batch_are_found_with_and_without_labels() -> None:
    tiles = Tiles.of(s1=torch.zeros(2, 2, 16, 16))
    assert tiles_of(tiles) is tiles
    assert tiles_of((tiles, torch.zeros(2))) is tiles


def test_a_resumed_run_takes_the_sealed_sets_over_and_drops_the_line_it_will_write_again() -> None:
    module = Pretrain("nano", ["s1", "s2"], experts=2, every=3)
    sealed = Pretrain("nano", ["s1", "s2"], experts=2, every=3)
    sealed.encoder.seal((((0,), (1,)), (), (), ((0,), (0, 1)), (), ()))
    description = Description("pretrain", sealed.encoder.config, ("before", "fit: so far"))
    module.on_load_checkpoint({KEY: description.plain()})
    assert module.encoder.config == sealed.encoder.config
    assert module.lineage == ("before",)
    assert module.encoder.mixtures[3].router.allowed.tolist() == [[True, False], [True, True]]


def test_a_run_is_not_resumed_with_another_encoder() -> None:
    other = Description("pretrain", Pretrain("nano", ["s2"]).encoder.config, ("fit: so far",))
    with pytest.raises(MapexError, match="another encoder than the config describes"):
        Pretrain("nano", ["s1"]).on_load_checkpoint({KEY: other.plain()})
