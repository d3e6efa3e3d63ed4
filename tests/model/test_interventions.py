"""Contexts in which an encoder behaves differently."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mapex_lightning.errors import MapexError
from mapex_lightning.model.config import RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.interventions import at_rest, diverted, restricted, skipped, watched, without_mixtures
from mapex_lightning.model.router import Assignment
from mapex_lightning.tiles import Tiles
from tests.builders import ROUTERS, config_of, encoder_of, observe, seal, tiles_of

CONFIG = config_of()
TILES = tiles_of(CONFIG)


def output(encoder: Encoder) -> Tensor:
    with torch.no_grad():
        values: Tensor = encoder(TILES).values
    return values


def assignments(encoder: Encoder) -> dict[int, Assignment]:
    with torch.no_grad():
        return encoder.encode(encoder.patchify(TILES))[1]


def silenced(encoder: Encoder, block: int, expert: int) -> Encoder:
    """The router never chooses the expert."""
    with torch.no_grad():
        encoder.mixtures[block].router.bias[:, expert] = -1e6
    return encoder


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("router", ROUTERS)
def test_diverting_an_expert_moves_its_tokens_alone_and_keeps_their_gates(router: RouterMode, top_k: int) -> None:
    encoder = encoder_of(config_of(router=router, top_k=top_k))
    before = assignments(encoder)[0]
    expert = int(before.expert[0, 0])
    with diverted(encoder, 0, expert):
        after = assignments(encoder)[0]
    leaving = before.expert == expert
    assert not (after.expert == expert).any()
    assert (after.expert[~leaving] == before.expert[~leaving]).all()
    assert (after.weight == before.weight).all()
    assert all(len(set(row)) == top_k for row in after.expert.tolist())


def test_a_diverted_token_goes_to_the_expert_that_ranks_next() -> None:
    encoder = encoder_of(CONFIG)
    before = assignments(encoder)[0]
    expert = int(before.expert[0, 0])
    with diverted(encoder, 0, expert):
        after = assignments(encoder)[0]
    leaving = before.expert[:, 0] == expert
    assert (after.expert[leaving, 0] == before.logits.topk(2).indices[leaving, 1]).all()


def test_diverting_an_expert_changes_the_output() -> None:
    encoder = encoder_of(CONFIG)
    before = output(encoder)
    with diverted(encoder, 0, int(assignments(encoder)[0].expert[0, 0])):
        assert not torch.equal(output(encoder), before)


def test_diverting_an_expert_that_is_never_used_changes_nothing() -> None:
    encoder = silenced(encoder_of(CONFIG), 0, 1)
    before = output(encoder)
    with diverted(encoder, 0, 1):
        assert torch.equal(output(encoder), before)


def test_a_token_that_uses_every_expert_stays() -> None:
    encoder = encoder_of(config_of(experts=(2, 0), top_k=2))
    before = output(encoder)
    with diverted(encoder, 0, 1):
        assert torch.equal(output(encoder), before)


def test_the_next_expert_of_a_sealed_sensor_may_lie_outside_of_its_set() -> None:
    encoder = encoder_of(CONFIG)
    encoder.seal((((0,), (1,), (2,)), (), ((0,), (1,), (2,))))
    with diverted(encoder, 0, 0):
        found = assignments(encoder)[0]
    assert (found.expert[found.modality == 0] != 0).all()
    assert (found.expert[found.modality == 1] == 1).all()


@pytest.mark.parametrize("keep_gate", [True, False])
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("router", ROUTERS)
def test_restricting_to_all_experts_changes_nothing(router: RouterMode, sealed: bool, keep_gate: bool) -> None:
    encoder = encoder_of(config_of(router=router))
    observe(encoder, TILES)
    if sealed:
        seal(encoder, 0.7)
    before = output(encoder)
    with restricted(encoder, {0: range(3), 2: range(4)}, keep_gate=keep_gate):
        assert torch.equal(output(encoder), before)


@pytest.mark.parametrize("keep_gate", [True, False])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("router", ROUTERS)
def test_a_restricted_encoder_uses_the_given_experts_alone(router: RouterMode, top_k: int, keep_gate: bool) -> None:
    encoder = encoder_of(config_of(router=router, top_k=top_k))
    with restricted(encoder, {0: [1], 2: [3, 0]}, keep_gate=keep_gate):
        found = assignments(encoder)
    assert found[0].expert[found[0].weight > 0].unique().tolist() == [1]
    assert found[2].expert[found[2].weight > 0].unique().tolist() == [0, 3]


def test_a_restricted_token_whose_expert_stays_is_left_alone() -> None:
    encoder = encoder_of(CONFIG)
    before = assignments(encoder)[0]
    with restricted(encoder, {0: [0, 2]}):
        after = assignments(encoder)[0]
    stays = (before.expert != 1)[:, 0]
    assert stays.any()
    assert (after.expert[stays] == before.expert[stays]).all()
    assert (after.weight[stays] == before.weight[stays]).all()


def test_the_gate_is_that_of_the_new_expert_unless_it_is_kept() -> None:
    encoder = encoder_of(CONFIG)
    before = assignments(encoder)[0]
    with restricted(encoder, {0: [1]}):
        new = assignments(encoder)[0]
    with restricted(encoder, {0: [1]}, keep_gate=True):
        kept = assignments(encoder)[0]
    torch.testing.assert_close(new.weight[:, 0], before.logits[:, 1].sigmoid())
    assert torch.equal(kept.weight, before.weight)


def test_a_sealed_sensor_stays_in_its_set_where_something_of_it_is_left() -> None:
    encoder = encoder_of(CONFIG)
    encoder.seal((((0, 1), (1,), (2,)), (), ((0,), (1,), (2,))))
    with restricted(encoder, {0: [1, 2]}):
        found = assignments(encoder)[0]
    assert found.expert[found.modality == 0].unique().tolist() == [1]
    assert found.expert[found.modality == 2].unique().tolist() == [2]


@pytest.mark.parametrize("experts", [{0: []}, {0: [3]}, {1: [0]}, {9: [0]}])
def test_restricting_to_what_is_not_there_says_what_is(experts: dict[int, list[int]]) -> None:
    with pytest.raises(MapexError, match="one or more of its"), restricted(encoder_of(CONFIG), experts):
        pass


@pytest.mark.parametrize("router", ROUTERS)
def test_skipping_equals_feed_forwards_that_give_nothing(router: RouterMode) -> None:
    encoder, muted = (encoder_of(config_of(router=router)) for _ in range(2))
    with torch.no_grad():
        for name, weight in muted.blocks.named_parameters():
            if name.split(".")[-1].startswith("outer") or "fc2" in name:
                weight.zero_()
    with skipped(encoder, range(3)):
        torch.testing.assert_close(output(encoder), output(muted))


def test_without_mixtures_dense_blocks_go_on() -> None:
    encoder = encoder_of(CONFIG)
    with without_mixtures(encoder):
        mixtures = output(encoder)
    with skipped(encoder, [0, 2]):
        assert torch.equal(output(encoder), mixtures)
    with skipped(encoder, range(3)):
        assert not torch.equal(output(encoder), mixtures)


def test_watching_changes_nothing_and_sees_every_router() -> None:
    encoder = encoder_of(CONFIG)
    before = output(encoder)
    with watched(encoder, lambda router, given, found: (router, found)) as seen:
        assert torch.equal(output(encoder), before)
    for block, mixture in encoder.mixtures.items():
        ((router, found),) = seen[block]
        assert router is mixture.router
        assert torch.equal(found.expert, assignments(encoder)[block].expert)


def test_contexts_nest() -> None:
    encoder = encoder_of(CONFIG)
    with restricted(encoder, {0: [0, 1]}), diverted(encoder, 0, 0), skipped(encoder, [1]):
        assert not (assignments(encoder)[0].expert == 0).any()


def test_after_a_context_all_is_as_before() -> None:
    encoder = encoder_of(CONFIG)
    before = output(encoder)
    for context in (diverted(encoder, 0, 0), restricted(encoder, {0: [1]}), without_mixtures(encoder)):
        with context:
            assert not torch.equal(output(encoder), before)
        assert torch.equal(output(encoder), before)
    assert not any(module._forward_hooks for module in encoder.modules())


def test_after_an_error_inside_a_context_all_is_as_before() -> None:
    encoder = encoder_of(CONFIG)
    before = output(encoder)
    wrong = Tiles.of(unknown=torch.zeros(1, 1, 8, 8))
    with pytest.raises(MapexError), without_mixtures(encoder):
        encoder(wrong)
    assert torch.equal(output(encoder), before)


def test_at_rest_an_encoder_is_in_evaluation_and_takes_no_census() -> None:
    encoder = encoder_of(CONFIG).train()
    with encoder.observe():
        with at_rest(encoder):
            assert not encoder.training
            assert not encoder(TILES).values.requires_grad
        assert encoder.training
        assert not any(mixture.counted.any() for mixture in encoder.mixtures.values())
        encoder(TILES)
    assert all(mixture.census.any() for mixture in encoder.mixtures.values())
