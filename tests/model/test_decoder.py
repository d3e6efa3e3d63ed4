"""The decoder predicts what it is asked for by sensor and place, from visible tokens alone."""

from __future__ import annotations

import pytest
import torch

from mapex_lightning.errors import MapexError
from mapex_lightning.model.config import PRESETS, preset
from mapex_lightning.model.decoder import Decoder, DecoderConfig, decoder_for
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.target import make_target, masked_error, mean_over_modalities, target_size
from mapex_lightning.model.tokens import Tokens
from mapex_lightning.tiles import Tiles
from tests.builders import SENSORS, config_of, encoder_of, only, tiles_of

CONFIG = config_of()


def decoder_of() -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Decoder(CONFIG, DecoderConfig(16, 2, 2)).eval()


def pair() -> tuple[Tokens, Tokens]:
    """All tokens of some tiles, and every third of them, encoded."""
    encoder = encoder_of(CONFIG)
    tokens = encoder.patchify(tiles_of(CONFIG))
    return tokens, encoder.encode(tokens.take(torch.tensor([0, 3, 6]).expand(4, 3)))[0]


COUNTS = {"s1": 4, "s2": 4, "dem": 1}
"""Tokens per sensor of the tiles above."""


def test_every_patch_of_every_sensor_is_predicted() -> None:
    found = decoder_of()(*pair(), COUNTS)
    assert {name: value.shape for name, value in found.items()} == {
        "s1": (4, 4, target_size(CONFIG.modality("s1"), 8)),
        "s2": (4, 4, target_size(CONFIG.modality("s2"), 8)),
        "dem": (4, 1, target_size(CONFIG.modality("dem"), 8)),
    }


def test_a_sensor_that_is_not_asked_for_is_not_predicted() -> None:
    encoder = encoder_of(CONFIG)
    queries = encoder.patchify(only(tiles_of(CONFIG), "s1", "dem"))
    assert list(decoder_of()(queries, pair()[1], {"s1": 4, "dem": 1})) == ["s1", "dem"]


def test_of_a_query_only_sensor_and_place_are_read() -> None:
    queries, memory = pair()
    other = queries._replace(values=torch.full_like(queries.values, torch.nan))
    one, two = decoder_of()(queries, memory, COUNTS), decoder_of()(other, memory, COUNTS)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_absent_memory_does_not_matter() -> None:
    queries, memory = pair()
    memory.present[:, 2] = False
    poisoned = memory._replace(values=torch.where(memory.present[..., None], memory.values, 1e4))
    one, two = decoder_of()(queries, memory, COUNTS), decoder_of()(queries, poisoned, COUNTS)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_order_of_visible_tokens_does_not_matter() -> None:
    queries, memory = pair()
    shuffled = memory.take(torch.tensor([2, 0, 1]).expand(4, 3))
    one, two = decoder_of()(queries, memory, COUNTS), decoder_of()(queries, shuffled, COUNTS)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name])


def losses(encoder: Encoder, decoder: Decoder, tiles: Tiles) -> torch.Tensor:
    """Every second token predicts the others."""
    tokens = encoder.patchify(tiles)
    at = torch.arange(0, 9, 2).expand(len(tokens.present), -1)
    predictions = decoder(tokens, encoder.encode(tokens.take(at))[0], COUNTS)
    hidden = tokens.present & (torch.arange(9) % 2 == 1)
    parts = zip(predictions, hidden.split([p.shape[1] for p in predictions.values()], dim=1), strict=True)
    return mean_over_modalities(
        {
            name: masked_error(
                predictions[name], make_target(tiles.images[name], CONFIG.modality(name), CONFIG.patch), mask
            )
            for name, mask in parts
        }
    )


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e30, 3e38])
@pytest.mark.parametrize("name", CONFIG.names)
def test_absent_pixels_change_neither_the_loss_nor_a_gradient(name: str, poison: float) -> None:
    encoder, decoder, found = encoder_of(CONFIG), decoder_of(), []
    for value in (0.0, poison):
        tiles = tiles_of(CONFIG)
        tiles.present[name][1:] = False
        tiles.images[name][1:] = value
        encoder.zero_grad()
        decoder.zero_grad()
        loss = losses(encoder, decoder, tiles)
        loss.backward()
        gradients = [p.grad for p in (*encoder.parameters(), *decoder.parameters())]
        found.append((loss.detach(), [g.clone() for g in gradients if g is not None]))
    (clean, wanted), (poisoned, got) = found
    assert clean > 0
    assert torch.equal(clean, poisoned)
    assert all(a.isfinite().all() and torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_decoder_of_about_half_its_width(name: str) -> None:
    encoder = preset(name, SENSORS)
    assert encoder.width / 4 < decoder_for(encoder).width <= encoder.width / 2


@pytest.mark.parametrize("shape", [(18, 1, 2), (16, 1, 3), (16, 0, 2)])
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(MapexError, match="A decoder needs"):
        DecoderConfig(*shape)
