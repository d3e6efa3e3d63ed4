"""Low-rank experts correct a token for its sensor and for the sensors beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mapex_lightning.model.block import Block
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.lowrank import DYNAMIC, LowRank
from mapex_lightning.model.tokens import Tokens
from tests.builders import config_of, encoder_of, only, row, tiles_of

CONFIG = config_of((3, 0), low_rank=2)


def part_of(encoder: Encoder, block: int = 0) -> LowRank:
    found = encoder.blocks[block]
    assert isinstance(found, Block)
    assert found.low_rank is not None
    return found.low_rank


def tokens_of(count: int = 6) -> Tokens:
    """Three tiles: one has all sensors, one has two of them, one has nothing."""
    generator = torch.Generator().manual_seed(0)
    modality = (torch.arange(count) % 3).expand(3, count)
    present = torch.stack([torch.ones(count) > 0, modality[0] != 1, torch.zeros(count) > 0])
    values = torch.randn(3, count, 16, generator=generator, dtype=torch.float64)
    return Tokens(values, modality, torch.zeros(3, count, 2), present)


def by_hand(experts: LowRank, token: Tensor, sensor: int, sensors: list[int]) -> Tensor:
    share = sum(experts.gate[i] for i in sensors)
    assert isinstance(share, Tensor)
    corrections = [experts.sensor_up[sensor] @ experts.sensor_down[sensor] @ token]
    for j, weight in enumerate(share.softmax(0)):
        corrections.append(weight * experts.pattern_up[j] @ experts.pattern_down[j] @ token)
    return torch.stack(corrections).sum(0)


def test_a_correction_is_that_of_the_sensor_plus_that_of_the_pattern() -> None:
    experts, tokens = part_of(encoder_of(CONFIG, dtype=torch.float64)), tokens_of()
    found = experts(tokens.values, tokens)
    for tile, sensors in ((0, [0, 1, 2]), (1, [0, 2])):
        for n in range(6):
            sensor = int(tokens.modality[tile, n])
            if sensor in sensors:
                expected = by_hand(experts, tokens.values[tile, n], sensor, sensors)
                torch.testing.assert_close(found[tile, n], expected, rtol=1e-12, atol=1e-12)


def test_absent_tokens_get_nothing_and_change_nothing() -> None:
    experts, tokens = part_of(encoder_of(CONFIG, dtype=torch.float64)), tokens_of()
    wild = torch.where(tokens.present[..., None], tokens.values, 1e3)
    found = experts(tokens.values, tokens)
    assert not found[~tokens.present].any()
    assert torch.equal(experts(wild, tokens), found)


def test_fresh_low_rank_experts_change_no_output() -> None:
    plain = encoder_of(replace(CONFIG, low_rank=0))
    encoder = Encoder(CONFIG).eval()
    encoder.load_state_dict({**encoder.state_dict(), **plain.state_dict()}, strict=True)
    tiles = tiles_of(CONFIG)
    assert torch.equal(encoder(tiles).values, plain(tiles).values)


def test_a_tiles_features_are_those_of_the_tile_alone_with_the_sensors_that_it_has() -> None:
    encoder, tiles = encoder_of(CONFIG, dtype=torch.float64), tiles_of(CONFIG, dtype=torch.float64)
    tiles.present["s1"][1] = tiles.present["dem"][2] = False
    whole = encoder.pooled(tiles)
    for index in range(4):
        torch.testing.assert_close(encoder.pooled(row(tiles, index))[0], whole[index], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("names", [("s1", "s2", "dem"), ("s2",)])
def test_every_weight_gets_a_gradient_and_the_first_step_moves_them(names: tuple[str, ...]) -> None:
    encoder = Encoder(CONFIG)
    encoder.pooled(only(tiles_of(CONFIG), *names)).square().sum().backward()
    for block in range(2):
        experts = part_of(encoder, block)
        assert all(weight.grad is not None for weight in experts.parameters())
        assert experts.sensor_up.grad is not None
        used = experts.sensor_up.grad.flatten(1).any(1)
        assert used.tolist() == [name in names for name in CONFIG.names]
        assert experts.pattern_up.grad is not None
        assert experts.pattern_up.grad.flatten(1).any(1).sum() == DYNAMIC


def test_the_host_never_waits_for_the_device() -> None:
    # A number that the host would have to fetch cannot be had from a fake tensor.
    with FakeTensorMode(), torch.device("cuda"):
        experts = LowRank(CONFIG)
        tokens = Tokens(
            torch.zeros(2, 5, 16),
            torch.zeros(2, 5, dtype=torch.int64),
            torch.zeros(2, 5, 2),
            torch.zeros(2, 5, dtype=torch.bool),
        )
        assert experts(tokens.values, tokens).shape == (2, 5, 16)


def test_low_rank_experts_run_and_learn_under_bf16_autocast() -> None:
    encoder = encoder_of(CONFIG)
    with torch.autocast("cpu", torch.bfloat16):
        loss = encoder.pooled(tiles_of(CONFIG)).float().square().mean()
    loss.backward()
    for weight in part_of(encoder).parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert weight.grad.any()
