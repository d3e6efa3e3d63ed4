"""The laws of pruning, over drawn shapes, sensors, routers, policies, sealed or not, in single and double precision."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from mapex_lightning.checkpoint import ENCODER, KEY, describe, load, save, weights, write
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.model.config import EncoderConfig, RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.mixture import CENSUS
from mapex_lightning.pruning import Kept, Policy, count_parameters, prune, sealing
from mapex_lightning.pruning.choice import Rule, Score, allowed_experts
from mapex_lightning.tiles import Tiles
from tests.builders import (
    HEIGHT,
    OPTICAL,
    RADAR,
    ROUTERS,
    census_of,
    checkpoint_of,
    config_of,
    encoder_of,
    observe,
    only,
    rebuilt,
    seal,
    steady,
    tiles_of,
)

NAMES = ("s1", "s2", "dem")
COLOUR = Modality("rgb", ("R", "G", "B"), 10.0, "8-bit", (90.0, 98.0, 105.0), (52.0, 34.5, 29.0))
SCORES: tuple[Score, ...] = ("contribution", "activation", "gate", "frequency")


@dataclass(frozen=True)
class Case:
    """An encoder to prune, and the sensors to keep."""

    router: RouterMode
    top_k: int
    experts: tuple[int, ...]
    sealed: float | None
    dtype: torch.dtype
    seed: int
    sensors: tuple[Modality, ...] = (RADAR, OPTICAL, HEIGHT)
    keep: tuple[str, ...] = ("s1",)
    width: int = 16
    low_rank: int = 0

    @property
    def config(self) -> EncoderConfig:
        return config_of(self.experts, self.sensors, self.router, self.top_k, width=self.width, low_rank=self.low_rank)

    def tiles(self, *names: str, seed: int = 0) -> Tiles:
        return only(tiles_of(self.config, 8, seed, self.dtype), *(names or self.config.names))

    def encoder(self, *names: str) -> Encoder:
        """With a census of tiles of those sensors alone; of all, if none are given."""
        encoder = encoder_of(self.config, self.seed, self.dtype)
        if self.sealed is not None:
            observe(encoder, self.tiles())
            seal(encoder, self.sealed)
        observe(encoder, self.tiles(*names))
        return encoder


@st.composite
def drawn(draw: st.DrawFn) -> Case:
    """Any encoder, with different numbers of experts in every block."""
    sensors = draw(st.permutations([RADAR, OPTICAL, HEIGHT, COLOUR]))[: draw(st.integers(2, 4))]
    names = [sensor.name for sensor in sensors]
    return Case(
        router=draw(st.sampled_from(ROUTERS)),
        top_k=draw(st.sampled_from([1, 2])),
        experts=tuple(draw(st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any))),
        sealed=draw(st.sampled_from([None, 0.5, 0.9])),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
        seed=draw(st.integers(0, 3)),
        sensors=tuple(sensors),
        keep=tuple(draw(st.lists(st.sampled_from(names), min_size=1, unique=True))),
        width=draw(st.sampled_from([8, 16])),
        low_rank=draw(st.sampled_from([0, 2])),
    )


cases = drawn()
scores = st.sampled_from(SCORES)
fallbacks = st.sampled_from(["next", "merged"])


AMOUNTS: tuple[tuple[Rule, tuple[float, ...]], ...] = (
    ("coverage", (0.3, 0.6, 0.9, 1.0)),
    ("threshold", (0.05, 0.3, 0.6)),
    ("top", (1, 2)),
)


def by_sensor(scores: st.SearchStrategy[Score] = scores) -> st.SearchStrategy[Policy | None]:
    """Policies that choose for every sensor by itself; None is the standard one."""
    rules = [(rule, amount) for rule, amounts in AMOUNTS for amount in amounts]
    return st.none() | st.tuples(st.sampled_from(rules), scores).map(lambda drawn: Policy(*drawn[0], score=drawn[1]))


policies = by_sensor() | st.builds(lambda share, score: Policy("size", share, score), st.floats(0.7, 1.0), scores)


def pruned_or_too_small(
    checkpoint: Mapping[str, Any], keep: Sequence[str], policy: Policy | None
) -> tuple[dict[str, Any], Any]:
    """Some drawn sizes cannot be reached; those draws are left out."""
    try:
        return prune(checkpoint, keep, policy)
    except MapexError as error:
        assume("cannot be reached" not in str(error))
        raise


def same_weights(one: Mapping[str, Any], other: Mapping[str, Any], but: str = "nothing") -> bool:
    left, right = one["state_dict"], other["state_dict"]
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
        if not name.endswith(but)
    )


def without_lineage(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in checkpoint[KEY].items() if key not in ("lineage", "kind")}


def assert_equal_outputs(one: Tensor, other: Tensor) -> None:
    tolerance = 1e-12 if one.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * one.detach().abs().max().item())


# 1. Keep everything = identity.


@steady
@given(cases, scores, fallbacks)
def test_keeping_everything_changes_nothing(case: Case, score: Score, fallback: Any) -> None:
    encoder = case.encoder()
    for block, mixture in encoder.mixtures.items():
        sealed = {e for own in allowed_experts(encoder.config, block) for e in own}
        assume(mixture.census[0, :, :-1].sum(0).gt(0).all() and len(sealed) == encoder.config.experts[block])
    before = checkpoint_of(encoder)
    policy = Policy("sealed", fallback=fallback) if encoder.config.sealed else Policy("coverage", 1.0, score, fallback)
    after, report = prune(before, encoder.config.names, policy)
    assert same_weights(before, after)
    assert without_lineage(before) == without_lineage(after)
    assert report.parameters[0] == report.parameters[1]
    assert report.bytes[0] == report.bytes[1]
    assert all(value == pytest.approx(1) for blocks in report.retained.values() for value in blocks.values())


@steady
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True), st.floats(0.05, 1.0), st.integers(0, 9))
def test_specialised_experts_go_with_their_sensor_and_collaborative_ones_stay_by_frequency(
    keep: list[str], coverage: float, seed: int
) -> None:
    everybodys = (3, 4, 5)  # and one more expert for each of the three sensors
    config = config_of((6,), router="grouped", top_k=2, allowed=(tuple((m, *everybodys) for m in range(3)),))
    encoder = encoder_of(config, seed)
    observe(encoder, tiles_of(config, 16))
    kept = prune(checkpoint_of(encoder), keep, Policy("coverage", coverage, "frequency"))[1].experts[0]
    tokens = encoder.mixtures[0].census[CENSUS.index("tokens")]
    needed = set()
    for sensor in (config.names.index(name) for name in keep):
        often = sorted((sensor, *everybodys), key=lambda e: -float(tokens[sensor, e]))
        total, n = float(tokens[sensor].sum()), 1
        while float(tokens[sensor, often[:n]].sum()) < coverage * total * (1 - 1e-9):
            n += 1
        needed |= set(often[:n])
    assert set(kept) == needed
    assert set(kept) - set(everybodys) <= {config.names.index(name) for name in keep}


def test_a_dead_expert_is_not_kept() -> None:
    encoder = encoder_of(config_of((4,)))
    with torch.no_grad():
        encoder.mixtures[0].router.bias[0, 2] = -1000
    observe(encoder, tiles_of(encoder.config, 16))
    _, report = prune(checkpoint_of(encoder), NAMES, Policy("coverage", 1.0))
    assert report.experts == {0: (0, 1, 3)}


# 2. Idempotent.


@steady
@given(cases, policies, fallbacks)
def test_pruning_twice_is_pruning_once(case: Case, policy: Policy | None, fallback: Any) -> None:
    policy = None if policy is None else replace(policy, fallback=fallback)
    once, first = pruned_or_too_small(checkpoint_of(case.encoder()), case.keep, policy)
    if policy is not None and policy.rule == "size":  # a share of what is left would be less than one of the whole
        policy = replace(policy, amount=max(2, first.parameters[1]))
    twice, second = prune(once, case.keep, policy)
    assert without_lineage(once) == without_lineage(twice)
    assert same_weights(once, twice)
    assert second.parameters == (first.parameters[1], first.parameters[1])


# 3. Keep {s1, s2} then {s1} = keep {s1}.


@steady
@given(cases, by_sensor(), st.data())
def test_pruning_step_by_step_is_pruning_at_once(case: Case, policy: Policy | None, data: st.DataObject) -> None:
    checkpoint = checkpoint_of(case.encoder())
    some = data.draw(st.lists(st.sampled_from(case.keep), min_size=1, unique=True))
    at_once, _ = prune(checkpoint, some, policy)
    step_by_step, _ = prune(prune(checkpoint, case.keep, policy)[0], some, policy)
    assert without_lineage(at_once) == without_lineage(step_by_step)
    assert same_weights(at_once, step_by_step, but="census")
    for name, value in at_once["state_dict"].items():  # sums of what is gone differ by the order of adding up
        if name.endswith("census"):
            torch.testing.assert_close(step_by_step["state_dict"][name], value)


# 4. Exact.


def dropped_nothing(encoder: Encoder, tiles: Tiles, kept: Kept) -> Tensor:
    """(B,) bool: tiles of which no token gives weight to an expert that is not kept."""
    tokens = encoder.patchify(tiles)
    _, assignments = encoder.encode(tokens)
    fine = torch.ones(len(tokens.present), dtype=torch.bool)
    for block, chosen in assignments.items():
        missing = ~torch.isin(chosen.expert, torch.tensor(kept[block])) & (chosen.weight > 0)
        fine &= ~missing.any(1).view_as(tokens.present).any(1)
    return fine


@steady
@given(cases, policies)
def test_tiles_that_chose_no_dropped_expert_keep_their_output(case: Case, policy: Policy | None) -> None:
    encoder, tiles = case.encoder(*case.keep), case.tiles(*case.keep)
    pruned, report = pruned_or_too_small(checkpoint_of(encoder), case.keep, policy)
    fine = dropped_nothing(encoder, tiles, report.experts)
    assert policy is None or policy.rule != "coverage" or policy.amount < 1 or fine.all()
    assume(fine.any())
    assert_equal_outputs(encoder(tiles).values[fine], rebuilt(pruned, case.dtype)(tiles).values[fine])


@steady
@given(cases.filter(lambda case: case.sealed is not None), fallbacks, st.integers(1, 99))
def test_a_sealed_encoder_is_pruned_exactly_for_every_input(case: Case, fallback: Any, seed: int) -> None:
    encoder, tiles = case.encoder(), case.tiles(*case.keep, seed=seed)
    wild = tiles._replace(images={name: 10 * image for name, image in tiles.images.items()})
    pruned, report = prune(checkpoint_of(encoder), case.keep, Policy("sealed", fallback=fallback))
    assert report.exact
    for unseen in (tiles, wild):
        assert_equal_outputs(encoder(unseen).values, rebuilt(pruned, case.dtype)(unseen).values)


@steady
@given(cases, policies, st.integers(1, 99))
def test_cutting_experts_away_is_never_routing_to_them(case: Case, policy: Policy | None, seed: int) -> None:
    encoder, tiles = case.encoder(), case.tiles(*case.keep, seed=seed)
    pruned, report = pruned_or_too_small(checkpoint_of(encoder), case.keep, policy)
    masked = []
    for block in range(encoder.config.depth):
        kept = report.experts.get(block, ())
        own = allowed_experts(encoder.config, block) if kept else ()
        masked.append(tuple(tuple(e for e in experts if e in kept) or kept for experts in own))
    encoder.seal(tuple(masked))
    assert_equal_outputs(encoder(tiles).values, rebuilt(pruned, case.dtype)(tiles).values)


def test_a_block_that_is_left_with_one_expert_keeps_its_gate() -> None:
    encoder = encoder_of(config_of((4, 3), top_k=2), dtype=torch.float64)
    encoder.seal((((1,), (0, 2), (3,)), ((2,), (0,), (1,))))
    tiles = only(tiles_of(encoder.config, dtype=torch.float64), "s1")
    pruned, report = prune(checkpoint_of(encoder), ["s1"])
    assert report.experts == {0: (1,), 1: (2,)}
    assert_equal_outputs(encoder(tiles).values, rebuilt(pruned, torch.float64)(tiles).values)


# 5. Reported sizes equal counted sizes.


@steady
@given(cases, policies, fallbacks)
def test_reported_sizes_are_those_of_the_encoder_that_is_built(
    case: Case, policy: Policy | None, fallback: Any
) -> None:
    encoder = case.encoder()
    policy = None if policy is None else replace(policy, fallback=fallback)
    pruned, report = pruned_or_too_small(checkpoint_of(encoder), case.keep, policy)
    for size, memory, built in zip(
        report.parameters, report.bytes, (encoder, Encoder(describe(pruned).encoder).to(case.dtype)), strict=True
    ):
        assert size == sum(parameter.numel() for parameter in built.parameters())
        assert memory == sum(value.numel() * value.element_size() for value in built.state_dict().values())


@steady
@given(cases, st.floats(0.5, 1.0), scores, fallbacks)
def test_a_size_that_is_asked_for_is_kept_to(case: Case, share: float, score: Score, fallback: Any) -> None:
    checkpoint = checkpoint_of(case.encoder())
    everything = prune(checkpoint, case.keep, Policy("size", 1.0, score, fallback))[1]
    target = max(2, int(share * everything.parameters[1]))
    report = pruned_or_too_small(checkpoint, case.keep, Policy("size", target, score, fallback))[1]
    assert report.parameters[1] <= target


# 6. The file loads strictly, alone, in a fresh process, and trains.

ALONE = """
import sys
import torch
from mapex_lightning.checkpoint import load
from mapex_lightning.tiles import Tiles

given, found = torch.load(sys.argv[1], weights_only=True), {}
for name, images in given.items():
    encoder, tiles = load(name), Tiles.of(**images)
    found[name] = encoder(tiles).values.detach()
    encoder.train()
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = (encoder.pooled(tiles) - 1).square().mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[0], losses
torch.save(found, sys.argv[2])
"""


def test_a_pruned_file_works_alone_in_a_fresh_process(tmp_path: Path) -> None:
    expected, given_images = {}, {}
    for router in ROUTERS:
        encoder = encoder_of(config_of(router=router))
        tiles = tiles_of(encoder.config)
        observe(encoder, tiles)
        parent = tmp_path / "parent" / "last.ckpt"
        save(encoder, parent)
        name = f"{router}.ckpt"
        pruned, _ = prune(checkpoint_of(load(parent)), ["s2"])
        write(pruned, tmp_path / "other" / name)
        parent.unlink()
        expected[name], given_images[name] = rebuilt(pruned)(only(tiles, "s2")).values, only(tiles, "s2").images
    torch.save(given_images, tmp_path / "other" / "images.pt")
    subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, "images.pt", "found.pt"], cwd=tmp_path / "other", check=True
    )
    found = torch.load(tmp_path / "other" / "found.pt", weights_only=True)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert_equal_outputs(values, found[name])


# 7. More asked for is more kept.


def nested(less: Kept, more: Kept) -> bool:
    return all(set(less[block]) <= set(more[block]) for block in more)


@steady
@given(cases, st.sampled_from(["coverage", "threshold", "top", "size"]), st.data(), scores)
def test_more_coverage_keeps_all_that_less_coverage_keeps(
    case: Case, rule: Any, data: st.DataObject, score: Score
) -> None:
    amounts = {"coverage": st.floats(0.01, 1), "threshold": st.floats(0.01, 1), "top": st.integers(1, 6)}
    drawn = sorted(data.draw(amounts.get(rule, st.floats(0.6, 1))) for _ in range(2))
    checkpoint = checkpoint_of(case.encoder())
    less, more = (
        pruned_or_too_small(checkpoint, case.keep, Policy(rule, amount, score))[1].experts for amount in drawn
    )
    assert nested(more, less) if rule == "threshold" else nested(less, more)


# Merged experts.


def test_tokens_follow_a_merged_expert() -> None:
    encoder = encoder_of(config_of((4,)), dtype=torch.float64)
    router = encoder.mixtures[0].router
    with torch.no_grad():  # expert 3 is all but a twin of expert 1
        router.weight[0, 3] = 1.01 * router.weight[0, 1]
        router.vector_weight[3] = 1.01 * router.vector_weight[1]
        router.bias[0] = torch.tensor([5.0, 0, 0, 0])
        for parameter in encoder.mixtures[0].experts.parameters():
            parameter[3] = parameter[1]
    tiles = tiles_of(encoder.config, 16, dtype=torch.float64)
    encoder.mixtures[0].census[:, :, :-1] = torch.tensor([3.0, 2, 0, 1])
    pruned, report = prune(checkpoint_of(encoder), NAMES, Policy("top", 2, fallback="merged"))
    assert report.experts == {0: (0, 1)}
    assert report.merges[0][3] == 1
    small = rebuilt(pruned, torch.float64)
    assert small.config.routes == ((0, 1, report.experts[0].index(report.merges[0][2]), 1),)
    chosen, before = (e.encode(e.patchify(tiles))[1][0].expert for e in (small, encoder))
    assert torch.equal(chosen[before == 3], torch.ones_like(chosen[before == 3]))
    same = (before != 2).view(len(tiles.names) or 16, -1).all(1)
    assert (before == 3).any()
    assert_equal_outputs(encoder(tiles).values[same], small(tiles).values[same])


def test_merged_weights_are_means_by_mass() -> None:
    encoder = encoder_of(config_of((3,)))
    encoder.mixtures[0].census[:, :, :-1] = torch.tensor([6.0, 3, 1])
    checkpoint = checkpoint_of(encoder)
    pruned, report = prune(checkpoint, ["s1"], Policy("top", 1, fallback="merged"))
    assert report.merges == {0: {1: 0, 2: 0}}
    before, after = (c["state_dict"][f"{ENCODER}blocks.0.mixture.experts.outer"] for c in (checkpoint, pruned))
    torch.testing.assert_close(after[0], torch.tensordot(torch.tensor([0.6, 0.3, 0.1]), before, dims=1))


def test_a_merged_encoder_can_be_sealed_and_pruned_on() -> None:
    encoder = encoder_of(config_of((4, 0, 5)))
    observe(encoder, tiles_of(encoder.config, 16))
    small = rebuilt(prune(checkpoint_of(encoder), ["s1", "s2"], Policy("top", 1, fallback="merged"))[0])
    tiles = tiles_of(small.config, 16)
    observe(small, tiles)
    before = small(tiles).values
    small.seal(sealing(small.config, census_of(small), 1.0))
    assert torch.equal(small(tiles).values, before)
    last, report = prune(checkpoint_of(small), ["s2"])
    assert report.exact
    assert_equal_outputs(small(only(tiles, "s2")).values, rebuilt(last)(only(tiles, "s2")).values)


# What is refused.


def test_keeping_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(MapexError, match="keep one or more of s1, s2, dem"):
        prune(checkpoint_of(encoder_of(config_of())), [])


def test_an_unknown_sensor_is_refused_with_the_nearest() -> None:
    with pytest.raises(MapexError, match="Did you mean 'dem'"):
        prune(checkpoint_of(encoder_of(config_of())), ["den"])


def test_a_sensor_that_the_census_has_not_seen_is_refused() -> None:
    encoder = encoder_of(config_of())
    observe(encoder, only(tiles_of(encoder.config), "s1", "s2"))
    prune(checkpoint_of(encoder), ["s1", "s2"])
    with pytest.raises(MapexError, match="has seen no token of dem"):
        prune(checkpoint_of(encoder), ["s1", "dem"])


def test_a_sealed_encoder_needs_no_census() -> None:
    encoder = encoder_of(config_of(router="grouped"))
    _, report = prune(checkpoint_of(encoder), ["s1"])
    assert report.exact


# The rest of the file.


def test_the_order_in_which_sensors_are_named_does_not_matter() -> None:
    checkpoint = checkpoint_of(Case("free", 1, (3, 0, 4), None, torch.float32, 0).encoder())
    one, other = prune(checkpoint, ["s1", "dem"])[0], prune(checkpoint, ["dem", "s1"])[0]
    assert same_weights(one, other)
    assert one[KEY] == other[KEY]


def test_pruning_leaves_the_given_checkpoint_alone_and_shares_no_memory_with_it() -> None:
    checkpoint = checkpoint_of(Case("conditioned", 1, (3, 0, 4), None, torch.float32, 0).encoder())
    before = {name: value.clone() for name, value in checkpoint["state_dict"].items()}
    pruned, _ = prune(checkpoint, ["s1"])
    for value in pruned["state_dict"].values():
        value.zero_()
    assert same_weights({"state_dict": before}, checkpoint)


def test_only_the_kept_sensors_weights_are_in_the_file() -> None:
    encoder = Case("conditioned", 1, (3, 0, 4), None, torch.float32, 0).encoder()
    pruned, _ = prune(checkpoint_of(encoder), ["s2"])
    assert describe(pruned).encoder.modalities == (encoder.config.modality("s2"),)
    assert not [name for name in pruned["state_dict"] if ".s1." in name or ".dem." in name]


def test_decoder_and_optimiser_go_and_the_head_stays() -> None:
    encoder = Case("conditioned", 1, (3, 0, 4), None, torch.float32, 0).encoder()
    checkpoint = checkpoint_of(encoder, head={"task": "classify", "classes": ["a", "b"]})
    checkpoint["state_dict"] |= {"decoder.norm.weight": torch.ones(8), "head.linear.weight": torch.ones(2, 16)}
    checkpoint["optimizer_states"] = [{}]
    pruned, _ = prune(checkpoint, ["s1"])
    assert pruned.keys() == {"state_dict", KEY}
    assert not [name for name in pruned["state_dict"] if not name.startswith((ENCODER, "head."))]
    assert torch.equal(pruned["state_dict"]["head.linear.weight"], torch.ones(2, 16))
    assert describe(pruned).head == {"task": "classify", "classes": ["a", "b"]}


def test_the_lineage_says_what_was_kept() -> None:
    checkpoint = checkpoint_of(Case("conditioned", 1, (3, 0, 4), None, torch.float32, 0).encoder())
    pruned, _ = prune(checkpoint, ["dem", "s1"], Policy("coverage", 0.9, "gate", "merged"))
    words = "prune --keep s1,dem --coverage 0.9 --score gate --fallback merged"
    assert describe(pruned).lineage == ("made by a test", words)


@steady
@given(cases, policies, fallbacks)
def test_shares_of_the_whole_stay_shares_of_the_whole(case: Case, policy: Policy | None, fallback: Any) -> None:
    encoder = case.encoder()
    policy = None if policy is None else replace(policy, fallback=fallback)
    pruned, report = pruned_or_too_small(checkpoint_of(encoder), case.keep, policy)
    after = weights(pruned, ENCODER)
    kept = [m for m, name in enumerate(encoder.config.names) if name in case.keep]
    for block, census in census_of(encoder).items():
        smaller = after[f"blocks.{block}.mixture.census"]
        torch.testing.assert_close(smaller.sum(-1), census[:, kept].sum(-1))
        assert torch.equal(smaller[:, :, :-1], census[:, kept][:, :, list(report.experts[block])])
        assert (smaller[:, :, -1] >= census[:, kept, -1]).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_census_of_awkward_numbers_is_not_worn_by_pruning(seed: int) -> None:
    encoder = encoder_of(config_of((7, 6)))
    for mixture in encoder.mixtures.values():
        generator = torch.Generator().manual_seed(seed)
        mixture.census[:, :, :-1] = torch.rand(mixture.census[:, :, :-1].shape, generator=generator) * 1e6
    before = checkpoint_of(encoder)
    everything, _ = prune(before, NAMES, Policy("coverage", 1.0))
    assert same_weights(before, everything)
    once, _ = prune(before, ["s1", "dem"], Policy("coverage", 0.5))
    twice, _ = prune(once, ["s1", "dem"], Policy("coverage", 0.5))
    assert same_weights(once, twice)


@steady
@given(cases, by_sensor(st.sampled_from(["contribution", "activation"])))
def test_the_retained_mass_is_what_the_census_of_the_pruned_file_says(case: Case, policy: Policy | None) -> None:
    pruned, report = prune(checkpoint_of(case.encoder()), case.keep, policy)
    config = describe(pruned).encoder
    for block in config.mixtures:
        mass = weights(pruned, ENCODER)[f"blocks.{block}.mixture.census"][CENSUS.index("contribution")].double()
        for name, scores in zip(config.names, mass, strict=True):
            assert report.retained[name][block] == pytest.approx(float(1 - scores[-1] / scores.sum()), abs=1e-5)
            least = policy.amount if policy is not None and policy.rule == "coverage" else 0
            assert report.retained[name][block] >= least - 1e-5


def test_sealing_at_full_coverage_changes_no_output_on_the_tiles_of_the_census() -> None:
    encoder = Case("conditioned", 1, (3, 0, 4), None, torch.float32, 0).encoder()
    tiles = tiles_of(encoder.config, 8)
    before = encoder(tiles).values
    encoder.seal(sealing(encoder.config, census_of(encoder), 1.0))
    assert torch.equal(encoder(tiles).values, before)


def test_a_dense_encoder_is_pruned_to_its_sensors() -> None:
    encoder = encoder_of(config_of((0, 0)))
    tiles = only(tiles_of(encoder.config), "s2")
    pruned, report = prune(checkpoint_of(encoder), ["s2"])
    assert_equal_outputs(encoder(tiles).values, rebuilt(pruned)(tiles).values)
    assert report.parameters[1] < report.parameters[0]


def test_the_report_can_be_printed_and_stored() -> None:
    checkpoint = checkpoint_of(Case("conditioned", 1, (3, 0, 4), 0.9, torch.float32, 0).encoder())
    pruned, report = prune(checkpoint, ["s1"])
    plain = report.plain()
    assert plain["parameters"]["after"] == count_parameters(weights(pruned, ENCODER))
    assert plain["retained_mass"]["s1"]["minimum"] <= plain["retained_mass"]["s1"]["mean"]
    assert f"-> {plain['parameters']['after']:,} (" in report.table()
    assert "output unchanged for every input" in report.table()
    assert "unchanged" not in replace(report, exact=False).table()
    lost = replace(report, retained={"s1": {0: 0.9952, 2: 1.0}})
    assert "0.9952 minimum (counted before sealing, nothing is lost)" in lost.table()
    assert "sealing" not in replace(lost, exact=False).table()
    assert plain["policy"]["rule"] == "sealed"
    assert sum(plain["share_of_mass"]["s2"]["0"]) == pytest.approx(1)


@pytest.mark.parametrize("policy", [Policy("coverage", 0.5), Policy("top", 1), Policy("size", 0.6)])
def test_a_sealed_encoder_that_loses_allowed_experts_is_not_called_exact(policy: Policy) -> None:
    encoder = Case("conditioned", 1, (6, 6), 1.0, torch.float32, 0).encoder()
    report = prune(checkpoint_of(encoder), ["s1", "s2"], policy)[1]
    assert not report.exact
