"""Which weights learn how fast, which are decayed, and how the learning rate runs."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import Tensor

from mapex_lightning.data.tileset import Task
from mapex_lightning.model.config import RouterMode
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.optim import Optimiser, configure, decays, depth_of, groups, schedule
from mapex_lightning.train.pretrain import Pretrain

STEPS = 100
CONFIG = Optimiser(lr=1.0, weight_decay=0.1, layer_decay=0.5)


def pretraining(router: RouterMode = "conditioned") -> Pretrain:
    return Pretrain("nano", ["s1", "s2"], router=router)


def members(found: list[dict[str, object]]) -> list[Tensor]:
    weights: list[Tensor] = []
    for group in found:
        assert isinstance(group["params"], list)
        weights += group["params"]
    return weights


def rates(config: Optimiser) -> dict[str, float]:
    """The learning rate of every weight, by name."""
    module = pretraining()
    optimiser, _ = configure(module, config, module.encoder.config.depth, STEPS)
    names = {weight: name for name, weight in module.named_parameters()}
    return {names[weight]: group["initial_lr"] for group in optimiser.param_groups for weight in group["params"]}


def test_the_warm_up_rises_to_one() -> None:
    rise = [schedule(step, STEPS, 0.1) for step in range(10)]
    assert rise == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert schedule(10, STEPS, 0.1) == 1


def test_the_cosine_falls_to_zero_and_stays_there() -> None:
    fall = [schedule(step, STEPS, 0.1) for step in range(10, STEPS + 1)]
    assert all(later < earlier for earlier, later in pairwise(fall))
    assert fall[45] == pytest.approx(0.5)
    assert fall[-1] == schedule(2 * STEPS, STEPS, 0.1) == 0


@pytest.mark.parametrize("steps", [1, 2])
def test_even_the_shortest_run_learns_at_its_first_step(steps: int) -> None:
    assert schedule(0, steps, 0.0) == schedule(0, steps, 0.1) == 1


def test_the_optimiser_follows_the_schedule() -> None:
    module = pretraining()
    optimiser, scheduler = configure(module, Optimiser(lr=2.0, warmup=0.5), module.encoder.config.depth, 4)
    found = []
    for _ in range(4):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert found == pytest.approx([1.0, 2.0, 2.0, 1.0])


@pytest.mark.parametrize(
    "name",
    [
        "encoder.patchify.modality",
        "encoder.patchify.embed.s1.bias",
        "encoder.patchify.norm.s1.weight",
        "encoder.blocks.0.norm1.weight",
        "encoder.blocks.0.mixture.router.vectors",
        "encoder.blocks.0.mixture.router.bias",
        "encoder.blocks.0.mixture.experts.inner_bias",
        "encoder.blocks.0.mixture.experts.outer_bias",
        "encoder.norm.bias",
        "decoder.modality",
    ],
)
def test_biases_norms_and_vectors_are_not_decayed(name: str) -> None:
    assert not decays(name, dict(pretraining().named_parameters())[name])


@pytest.mark.parametrize(
    "name",
    [
        "encoder.patchify.embed.s1.weight",
        "encoder.blocks.0.attention.qkv.weight",
        "encoder.blocks.0.mixture.router.weight",
        "encoder.blocks.0.mixture.experts.inner",
        "encoder.blocks.0.mixture.experts.outer",
        "decoder.heads.s2.weight",
    ],
)
def test_matrices_are_decayed_those_of_experts_too(name: str) -> None:
    assert decays(name, dict(pretraining().named_parameters())[name])


def test_only_decayed_weights_are_in_groups_with_weight_decay() -> None:
    module = pretraining()
    names = {weight: name for name, weight in module.named_parameters()}
    optimiser, _ = configure(module, CONFIG, module.encoder.config.depth, STEPS)
    for group in optimiser.param_groups:
        for weight in group["params"]:
            assert group["weight_decay"] == (0.1 if decays(names[weight], weight) else 0.0), names[weight]


def test_the_learning_rate_shrinks_per_block_and_is_least_for_embeddings() -> None:
    found = rates(CONFIG)
    for name, rate in found.items():
        assert rate == 0.5 ** (7 - depth_of(name, 6)), name
    assert found["decoder.embed.weight"] == found["encoder.norm.weight"] == 1
    assert found["encoder.blocks.5.norm1.weight"] == 0.5
    assert found["encoder.blocks.0.norm1.weight"] == 0.5**6
    embeddings = {found[name] for name in found if name.startswith("encoder.patchify.")}
    assert embeddings == {min(found.values())} == {0.5**7}


def test_without_layer_decay_all_weights_learn_alike() -> None:
    assert set(rates(Optimiser(lr=0.5)).values()) == {0.5}


@pytest.mark.parametrize("router", get_args(RouterMode))
def test_every_trained_weight_is_in_exactly_one_group(router: RouterMode) -> None:
    module = pretraining(router)
    found = members(groups(module.named_parameters(), CONFIG, module.encoder.config.depth))
    assert len(found) == len(set(found))
    assert set(found) == set(module.parameters())


@pytest.mark.parametrize("task", get_args(Task))
def test_frozen_weights_are_in_no_group(task: Task) -> None:
    module = FineTune("nano", task, ["land", "water"], ["s1", "s2"], train="linear")
    found = members(groups(module.named_parameters(), CONFIG, module.encoder.config.depth))
    assert set(found) == set(module.head.parameters())


def test_weight_decay_pulls_at_matrices_alone() -> None:
    module = pretraining()
    with torch.no_grad():
        for weight in module.parameters():
            weight.fill_(1.0)
            weight.grad = torch.zeros_like(weight)
    optimiser, _ = configure(module, Optimiser(lr=1.0, weight_decay=0.5, warmup=0.0), 6, STEPS)
    optimiser.step()
    for name, weight in module.named_parameters():
        assert float(weight.detach().max()) == (0.5 if decays(name, weight) else 1.0), name
