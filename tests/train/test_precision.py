"""Mixed precision trains as float32 does, and what adds up over many tokens does so in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.router import Assignment
from mapex_lightning.model.tokens import Tokens
from mapex_lightning.train.pretrain import Pretrain
from tests.builders import SENSORS, census_of, config_of, encoder_of, observe, tiles_of
from tests.ranks_at_work import train

HALVES = (torch.float16, torch.bfloat16)
MANY = 200_000
"""Tokens: more than float16 can count."""


@pytest.fixture(scope="module", params=["", "segmentation"], ids=["pretrain", "finetune"])
def exact(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A task and its run in float32."""
    return request.param, train("ddp", 1, 8, task=request.param)


def half(name: str) -> dict[str, Any]:
    """Settings of a Trainer; that of float16 with its scaler, which Lightning itself only makes for GPUs."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu")]} if name == "16-mixed" else {"precision": name}


@pytest.mark.parametrize("name", ["bf16-mixed", "16-mixed"])
def test_a_run_in_half_precision_stays_close_to_float32(name: str, exact: tuple[str, dict[str, Any]]) -> None:
    task, wide = exact
    found = train("ddp", 1, 8, task=task, **half(name))
    assert found["losses"] == pytest.approx(wide["losses"], rel=2e-2)
    assert found["val"]["val/loss"] == pytest.approx(wide["val"]["val/loss"], rel=2e-2)
    assert found["steps"] == wide["steps"]


@pytest.mark.parametrize("dtype", HALVES)
def test_router_gates_losses_and_errors_are_float32_under_autocast(dtype: torch.dtype) -> None:
    module = Pretrain("nano", list(SENSORS))
    with torch.autocast("cpu", dtype=dtype):
        generator = torch.Generator().manual_seed(0)
        found = reconstruct(module.encoder, module.decoder, tiles_of(module.encoder.config), 0.5, generator)
        losses = auxiliary_losses(found.assignments, len(SENSORS))
    for assignment in found.assignments.values():
        assert assignment.logits.dtype == assignment.weight.dtype == torch.float32
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert {error.mean.dtype for error in found.errors.values()} == {torch.float32}
    assert next(iter(found.predictions.values())).dtype == dtype  # the products were made in it


def assignment_of(tokens: int) -> Assignment:
    """Tokens of two sensors that almost all prefer one expert of three."""
    logits = torch.tensor([6.0, 0.0, 0.0]).expand(tokens, 3)
    chosen = torch.zeros(tokens, 1, dtype=torch.int64)
    modality = (torch.arange(tokens) % 16 == 0).long()
    return Assignment(chosen, logits[:, :1].sigmoid(), logits, modality, torch.ones(tokens, dtype=torch.bool))


@pytest.mark.parametrize("dtype", HALVES)
def test_auxiliary_losses_of_many_tokens_are_those_of_float32(dtype: torch.dtype) -> None:
    found = {0: assignment_of(MANY)}
    weights = Auxiliary(pooled=0.1, within=0.1, cap=0.1)
    wanted = total(auxiliary_losses(found, 2), weights)
    with torch.autocast("cpu", dtype=dtype):
        assert float(total(auxiliary_losses(found, 2), weights)) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_census_counts_every_token_in_half_precision(dtype: torch.dtype) -> None:
    config = config_of()
    encoder, tiles = encoder_of(config), tiles_of(config, count=300)
    with torch.autocast("cpu", dtype=dtype):
        observe(encoder, tiles)
    for census in census_of(encoder).values():
        assert census[0].sum(1).tolist() == [300 * count for count in encoder.patchify.counts(tiles).values()]


@pytest.mark.parametrize("dtype", HALVES)
def test_the_mean_of_many_tokens_neither_overflows_nor_rounds(dtype: torch.dtype) -> None:
    count = 10_000
    values = torch.full((1, count, 4), 8.0) + 0.125 * (torch.arange(count) % 3)[:, None]
    tokens = Tokens(values, torch.zeros(1, count).long(), torch.zeros(1, count, 2), torch.ones(1, count).bool())
    with torch.autocast("cpu", dtype=dtype):
        pooled = tokens.pooled()
        each = tokens.pooled_by_modality(1)[:, 0]
    torch.testing.assert_close(pooled, values.mean(1))
    torch.testing.assert_close(each, values.mean(1))
