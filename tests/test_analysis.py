"""What the experts of an encoder do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mapex_lightning.analysis import Analysis, analyse, damage, masked_errors, tallies, untrained
from mapex_lightning.errors import MapexError
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.decoder import Decoder, DecoderConfig
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.interventions import diverted, watched, without_mixtures
from mapex_lightning.model.specialisation import shares, specialisation, tally
from mapex_lightning.tiles import Tiles
from tests.builders import SENSORS, config_of, encoder_of, observe, only, tiles_of

CONFIG = config_of()
BATCHES = [tiles_of(CONFIG, seed=seed) for seed in range(2)]


def decoder_of(config: EncoderConfig) -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Decoder(config, DecoderConfig(width=16, depth=1, heads=2))


def specialist() -> Encoder:
    """Each sensor has an expert of its own in block 0, by its name alone."""
    encoder = encoder_of(CONFIG)
    router = encoder.mixtures[0].router
    with torch.no_grad():
        router.weight.zero_()
        router.vectors.copy_(torch.eye(3, router.vectors.shape[1]))
        router.vector_weight.copy_(20 * torch.eye(*router.vector_weight.shape))
    return encoder


def poisoned(tiles: Tiles, name: str) -> Tiles:
    """One sensor is absent from the first two tiles, and its pixels there are NaN."""
    present = {**tiles.present, name: tiles.present[name] & (torch.arange(tiles.batch_size) > 1)}
    image = tiles.images[name].clone()
    image[:2] = torch.nan
    return Tiles({**tiles.images, name: image}, present)


def absent(tiles: Tiles, name: str) -> Tiles:
    """The same with zeros."""
    found = poisoned(tiles, name)
    return Tiles({**found.images, name: found.images[name].nan_to_num(0.0)}, found.present)


def text(found: Analysis) -> str:
    return json.dumps(found.plain(), allow_nan=False)


def test_an_analysis_is_the_same_every_time_and_leaves_the_encoder_as_it_was() -> None:
    encoder, decoder = encoder_of(CONFIG).train(), decoder_of(CONFIG)
    observe(encoder, *BATCHES)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    noise = torch.random.get_rng_state()
    one, other = (text(analyse(encoder, decoder, BATCHES)) for _ in range(2))
    assert one == other
    assert torch.equal(noise, torch.random.get_rng_state())
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not any(module._forward_hooks for module in encoder.modules())


def test_usage_is_that_of_the_census() -> None:
    encoder = encoder_of(CONFIG)
    observe(encoder, *BATCHES)
    found = analyse(encoder, None, BATCHES)
    for block, mixture in encoder.mixtures.items():
        for table, row in ((found.routing[block].hard, 0), (found.routing[block].soft, 3)):
            for name, value in specialisation(mixture.census[row, :, :-1]).items():
                torch.testing.assert_close(table[name], value, atol=1e-5, rtol=1e-5)


def test_batches_can_be_any_iterable_and_are_counted() -> None:
    encoder, decoder = encoder_of(CONFIG), decoder_of(CONFIG)
    found = analyse(encoder, decoder, iter(BATCHES))
    assert found.tiles == 8
    assert text(found) == text(analyse(encoder, decoder, BATCHES))


def test_absent_tokens_change_nothing_even_if_they_are_poison() -> None:
    encoder, decoder = encoder_of(CONFIG), decoder_of(CONFIG)
    one, other = (
        text(analyse(encoder, decoder, [change(tiles, "s1") for tiles in BATCHES])) for change in (absent, poisoned)
    )
    assert one == other


def test_routing_by_name_follows_the_name_and_routing_by_content_stays() -> None:
    named = analyse(specialist(), None, BATCHES).routing[0]
    off = ~torch.eye(3, dtype=torch.bool)
    assert (named.name[off] == 1).all()
    assert (named.content[off] == 0).all()
    assert named.hard["nmi"] == pytest.approx(1)
    blind = analyse(encoder_of(config_of(router="blind")), None, BATCHES).routing[0]
    assert (blind.content[off] == 1).all()
    assert blind.name.diagonal().isnan().all()


def test_rows_are_the_tokens_own_sensor_and_columns_what_the_router_is_told() -> None:
    encoder = specialist()
    router = encoder.mixtures[0].router
    with torch.no_grad():
        router.weight.copy_(2 * torch.randn(router.weight.shape, generator=torch.Generator().manual_seed(0)))
        router.vectors[2] = 0  # told that they are dem's, tokens go by their content
    tiles = tiles_of(CONFIG, count=16)
    found = analyse(encoder, None, [tiles]).routing[0]
    with watched(encoder, lambda router, given, answer: (given, answer)) as seen:
        encoder(tiles)
    ((tokens, modality, present), own) = seen[0][0]
    told = router.forward(tokens, torch.full_like(modality, 2), present)
    mine = modality == 0
    kept = (told.expert == own.expert)[mine].double().mean()
    assert 0 < kept < 1
    torch.testing.assert_close(found.content[0, 2], kept)
    usage = [shares(tally(own, 3).hard)[2], shares(tally(told._replace(modality=modality), 3).hard)[0]]
    torch.testing.assert_close(found.name[0, 2], torch.minimum(*usage).sum())
    assert found.name[2, 0] != found.name[0, 2]
    assert found.content[2, 0] != found.content[0, 2]


def test_chance_and_the_start_lie_below_specialisation() -> None:
    found = analyse(specialist(), None, [tiles_of(CONFIG, count=32)]).routing[0]
    assert found.chance < 0.2
    assert found.start_hard < 0.7
    assert found.start_soft < found.start_hard


def test_the_start_is_what_new_weights_do() -> None:
    encoder = encoder_of(CONFIG)
    encoder.seal((((0,), (1,), (2,)), (), ((0,), (1,), (2,))))
    found = analyse(encoder, None, BATCHES, seed=3)
    start = tallies(untrained(encoder, 3), BATCHES)
    for block, routing in found.routing.items():
        assert routing.hard["nmi"] == pytest.approx(1)
        assert routing.start_hard == specialisation(start[block].hard)["nmi"]
        assert routing.start_soft == specialisation(start[block].soft)["nmi"]


def test_new_weights_are_a_function_of_the_seed() -> None:
    encoder = encoder_of(CONFIG)
    one, same, other = (untrained(encoder, seed).patchify.modality for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_masks_depend_on_the_tiles_and_the_seed_alone() -> None:
    decoder = decoder_of(CONFIG)
    errors = [masked_errors(encoder_of(CONFIG, seed), decoder, BATCHES) for seed in (0, 1)]
    other = masked_errors(encoder_of(CONFIG), decoder, BATCHES, seed=1)
    for name in CONFIG.names:
        assert errors[0][name].number == errors[1][name].number
        assert errors[0][name].total != errors[1][name].total
    assert any(other[name].total != errors[0][name].total for name in CONFIG.names)


def test_the_damage_is_the_error_inside_the_context() -> None:
    encoder, decoder = encoder_of(CONFIG), decoder_of(CONFIG)
    found = damage(encoder, decoder, BATCHES)

    def errors() -> Tensor:
        return torch.stack([error.mean for error in masked_errors(encoder, decoder, BATCHES).values()])

    assert torch.equal(found.full, errors())
    with without_mixtures(encoder):
        assert torch.equal(found.no_mixtures, errors())
    with diverted(encoder, 2, 1):
        assert torch.equal(found.diverted[2][1], errors())
    assert list(found.skipped) == [0, 1, 2]
    assert not torch.equal(found.skipped[1], found.full)


def test_an_expert_without_tokens_causes_nothing() -> None:
    encoder = encoder_of(CONFIG)
    with torch.no_grad():
        encoder.mixtures[0].router.bias[:, 1] = -1e6
    found = analyse(encoder, decoder_of(CONFIG), BATCHES)
    assert not found.causal(0)[1].any()
    assert found.causal(0)[[0, 2]].any()
    assert found.routing[0].hard["dead"] == 1
    assert "block 0, no change without expert 1: not chosen under masking" in found.table()


def test_a_specialised_expert_matters_to_its_own_sensor_where_no_other_looks_at_it() -> None:
    encoder, decoder = specialist(), decoder_of(CONFIG)
    alone = [only(tiles, "s1") for tiles in BATCHES]
    found = analyse(encoder, decoder, alone)
    assert found.causal(0)[0, 0] != 0
    assert not found.causal(0)[1:, 0].any()
    assert found.causal(0)[:, 1:].isnan().all()


def test_a_block_of_one_expert_has_no_other_to_divert_to() -> None:
    config = config_of(experts=(1, 0, 4))
    found = analyse(encoder_of(config), decoder_of(config), BATCHES)
    assert found.causal(0).isnan().all()
    assert found.plain()["damage"]["diverted"]["0"] == [[None] * 3]


def test_a_dense_twin_has_no_routing_but_its_blocks_can_be_skipped() -> None:
    config = config_of(experts=(0, 0))
    found = analyse(encoder_of(config), decoder_of(config), BATCHES)
    assert found.routing == {}
    assert found.damage is not None
    assert list(found.damage.skipped) == [0, 1]


def test_without_a_decoder_the_table_says_what_is_missing() -> None:
    found = analyse(encoder_of(CONFIG), None, BATCHES)
    assert found.damage is None
    assert "no decoder" in found.table()
    assert found.plain()["damage"] is None
    with pytest.raises(MapexError, match="Without a decoder"):
        found.causal(0)


def test_the_table_names_sensors_blocks_and_interventions() -> None:
    table = analyse(encoder_of(CONFIG), decoder_of(CONFIG), BATCHES).table()
    for words in ("s1", "s2", "dem", "block  0", "mixture of block 2 skipped", "feed-forward of block 1 skipped"):
        assert words in table
    assert "all mixtures skipped" in table
    for term in ("stays: ", "follows: ", "effective experts: ", "token entropy: ", "distance: "):
        assert term in table
    assert "nan" not in table


def test_a_sensor_without_tiles_is_said_to_have_none() -> None:
    found = analyse(encoder_of(CONFIG), decoder_of(CONFIG), [only(tiles, "s1", "s2") for tiles in BATCHES])
    assert "dem          no tokens" in found.table()
    assert found.routing[0].name[2].isnan().all()
    assert found.damage is not None
    assert found.damage.full[2].isnan()
    assert "nan" not in found.table()


def test_top_two_and_merged_sensors_are_analysed_alike() -> None:
    config = replace(config_of(top_k=2), modalities=SENSORS[:2])
    found = analyse(encoder_of(config), decoder_of(config), [only(tiles, "s1", "s2") for tiles in BATCHES])
    assert found.routing[0].hard["share"].shape == (2, 3)
    assert text(found)


def test_no_tiles_is_an_error_with_a_way_out() -> None:
    with pytest.raises(MapexError, match="needs tiles"):
        analyse(encoder_of(CONFIG), None, [])
