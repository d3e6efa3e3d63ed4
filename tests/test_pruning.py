"""The seven laws of pruning."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
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
from mapex_lightning.model.config import RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.mixture import CENSUS
from mapex_lightning.pruning import choose, count_parameters, cover, prune, sets
from mapex_lightning.tiles import Tiles
from tests.builders import (
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


@dataclass(frozen=True)
class Case:
    """An encoder to prune."""

    router: RouterMode
    top_k: int
    experts: tuple[int, ...]
    sealed: float | None
    dtype: torch.dtype
    seed: int

    def tiles(self, *names: str, seed: int = 0) -> Tiles:
        config = config_of(self.experts)
        return only(tiles_of(config, 8, seed, self.dtype), *(names or config.names))

    def encoder(self, *names: str) -> Encoder:
        """With a census of tiles of those sensors alone; of all, if none are given."""
        config = config_of(self.experts, router=self.router, top_k=self.top_k)
        encoder = encoder_of(config, self.seed, self.dtype)
        if self.sealed is not None:
            observe(encoder, self.tiles())
            seal(encoder, self.sealed)
        observe(encoder, self.tiles(*names))
        return encoder


cases = st.builds(
    Case,
    router=st.sampled_from(ROUTERS),
    top_k=st.sampled_from([1, 2]),
    experts=st.sampled_from([(3, 0, 4), (2, 5), (4, 1, 3)]),
    sealed=st.sampled_from([None, 0.5, 0.9]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 3),
)
keeps = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
coverages = st.sampled_from([None, 0.3, 0.6, 0.9, 1.0])


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
@given(cases)
def test_keeping_everything_changes_nothing(case: Case) -> None:
    encoder = case.encoder()
    for mixture in encoder.mixtures.values():
        used = mixture.router.allowed.any(0) if encoder.config.sealed else mixture.census[0, :, :-1].sum(0) > 0
        assume(used.all())
    before = checkpoint_of(encoder)
    after, report = prune(before, NAMES, None if encoder.config.sealed else 1.0)
    assert same_weights(before, after)
    assert without_lineage(before) == without_lineage(after)
    assert report.parameters[0] == report.parameters[1]
    assert report.bytes[0] == report.bytes[1]
    assert all(value == pytest.approx(1) for blocks in report.retained.values() for value in blocks.values())


def test_a_dead_expert_is_not_kept() -> None:
    encoder = encoder_of(config_of((4,)))
    with torch.no_grad():
        encoder.mixtures[0].router.bias[0, 2] = -1000
    observe(encoder, tiles_of(encoder.config, 16))
    _, report = prune(checkpoint_of(encoder), NAMES, 1.0)
    assert report.experts == {0: (0, 1, 3)}


# 2. Idempotent.


@steady
@given(cases, keeps, coverages)
def test_pruning_twice_is_pruning_once(case: Case, keep: list[str], coverage: float | None) -> None:
    once, first = prune(checkpoint_of(case.encoder()), keep, coverage)
    twice, second = prune(once, keep, coverage)
    assert without_lineage(once) == without_lineage(twice)
    assert same_weights(once, twice)
    assert second.parameters == (first.parameters[1], first.parameters[1])


# 3. Keep {s1, s2} then {s1} = keep {s1}.


@steady
@given(cases, st.permutations(NAMES), coverages)
def test_pruning_step_by_step_is_pruning_at_once(case: Case, order: list[str], coverage: float | None) -> None:
    checkpoint = checkpoint_of(case.encoder())
    first, second, _ = order
    at_once, _ = prune(checkpoint, [first], coverage)
    step_by_step, _ = prune(prune(checkpoint, [first, second], coverage)[0], [first], coverage)
    assert without_lineage(at_once) == without_lineage(step_by_step)
    assert same_weights(at_once, step_by_step, but="census")
    for name, value in at_once["state_dict"].items():  # sums of what is gone differ by the order of adding up
        if name.endswith("census"):
            torch.testing.assert_close(step_by_step["state_dict"][name], value)


# 4. Exact.


def dropped_nothing(encoder: Encoder, tiles: Tiles, kept: Mapping[int, tuple[int, ...]]) -> Tensor:
    """(B,) bool: tiles of which no token gives weight to an expert that is not kept."""
    tokens = encoder.patchify(tiles)
    _, assignments = encoder.encode(tokens)
    tile = torch.arange(len(tokens.present))[:, None].expand_as(tokens.present)[tokens.present]
    fine = torch.ones(len(tokens.present), dtype=torch.bool)
    for block, chosen in assignments.items():
        missing = ~torch.isin(chosen.expert, torch.tensor(kept[block])) & (chosen.weight > 0)
        fine[tile[missing.any(1)]] = False
    return fine


@steady
@given(cases, keeps, coverages)
def test_tiles_that_chose_no_dropped_expert_keep_their_output(
    case: Case, keep: list[str], coverage: float | None
) -> None:
    encoder, tiles = case.encoder(*keep), case.tiles(*keep)
    pruned, report = prune(checkpoint_of(encoder), keep, coverage)
    fine = dropped_nothing(encoder, tiles, report.experts)
    assert coverage != 1.0 or fine.all()
    assume(fine.any())
    assert_equal_outputs(encoder(tiles).values[fine], rebuilt(pruned, case.dtype)(tiles).values[fine])


@steady
@given(cases.filter(lambda case: case.sealed is not None), keeps, st.integers(1, 99))
def test_a_sealed_encoder_is_pruned_exactly_for_every_input(case: Case, keep: list[str], seed: int) -> None:
    encoder, tiles = case.encoder(), case.tiles(*keep, seed=seed)
    wild = tiles._replace(images={name: 10 * image for name, image in tiles.images.items()})
    pruned, report = prune(checkpoint_of(encoder), keep)
    assert report.exact
    for unseen in (tiles, wild):
        assert_equal_outputs(encoder(unseen).values, rebuilt(pruned, case.dtype)(unseen).values)


def test_a_block_that_is_left_with_one_expert_keeps_its_gate() -> None:
    encoder = encoder_of(config_of((4, 3), top_k=2), dtype=torch.float64)
    encoder.seal((((1,), (0, 2), (3,)), ((2,), (0,), (1,))))
    tiles = only(tiles_of(encoder.config, dtype=torch.float64), "s1")
    pruned, report = prune(checkpoint_of(encoder), ["s1"])
    assert report.experts == {0: (1,), 1: (2,)}
    assert_equal_outputs(encoder(tiles).values, rebuilt(pruned, torch.float64)(tiles).values)


# 5. Reported sizes equal counted sizes.


@steady
@given(cases, keeps, coverages)
def test_reported_sizes_are_those_of_the_encoder_that_is_built(
    case: Case, keep: list[str], coverage: float | None
) -> None:
    encoder = case.encoder()
    pruned, report = prune(checkpoint_of(encoder), keep, coverage)
    for size, memory, built in zip(
        report.parameters, report.bytes, (encoder, Encoder(describe(pruned).encoder).to(case.dtype)), strict=True
    ):
        assert size == sum(parameter.numel() for parameter in built.parameters())
        assert memory == sum(value.numel() * value.element_size() for value in built.state_dict().values())


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


# 7. Experts kept at coverage a are a subset of those kept at b > a.


@steady
@given(cases, keeps, st.floats(0.01, 1), st.floats(0.01, 1))
def test_more_coverage_keeps_all_that_less_coverage_keeps(
    case: Case, keep: list[str], one: float, other: float
) -> None:
    encoder = case.encoder()
    less, more = (choose(encoder.config, census_of(encoder), keep, c) for c in sorted((one, other)))
    for few, many in zip(less, more, strict=True):
        assert all(set(a) <= set(b) for a, b in zip(few, many, strict=True))


# The choice of experts.


@steady
@given(st.lists(st.integers(0, 9), min_size=2, max_size=7), st.floats(0.01, 1))
def test_the_smallest_set_that_covers_is_found(scores: list[int], coverage: float) -> None:
    mass = torch.tensor([*scores, 0.0], dtype=torch.float64)
    assume(mass.sum() > 0)
    kept = cover(mass, coverage)
    carried = float(mass[list(kept)].sum())
    assert carried >= coverage * float(mass.sum()) * (1 - 1e-9)
    best_of_fewer = float(mass.sort(descending=True).values[: len(kept) - 1].sum())
    assert len(kept) == 1 or best_of_fewer < coverage * float(mass.sum())


def test_of_equal_experts_the_lower_number_is_kept() -> None:
    assert cover(torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0]), 0.5) == (1, 2)


def test_mass_that_is_already_gone_cannot_be_covered() -> None:
    assert cover(torch.tensor([1.0, 0.0, 3.0, 96.0]), 0.9) == (0, 2)


@pytest.mark.parametrize("coverage", [0.0, -0.1, 1.1, float("nan")])
def test_a_coverage_that_is_no_share_is_refused(coverage: float) -> None:
    encoder = Case("conditioned", 1, (3, 0, 4), None, torch.float32, 0).encoder()
    with pytest.raises(MapexError, match="Coverage is a share"):
        prune(checkpoint_of(encoder), ["s1"], coverage)


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
    pruned, _ = prune(checkpoint, ["dem", "s1"], 0.9)
    assert describe(pruned).lineage == ("made by a test", "prune --keep s1,dem --coverage 0.9")


@steady
@given(cases, keeps, coverages)
def test_shares_of_the_whole_stay_shares_of_the_whole(case: Case, keep: list[str], coverage: float | None) -> None:
    encoder = case.encoder()
    pruned, report = prune(checkpoint_of(encoder), keep, coverage)
    after = weights(pruned, ENCODER)
    kept = [m for m, name in enumerate(NAMES) if name in keep]
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
    everything, _ = prune(before, NAMES, 1.0)
    assert same_weights(before, everything)
    once, _ = prune(before, ["s1", "dem"], 0.5)
    twice, _ = prune(once, ["s1", "dem"], 0.5)
    assert same_weights(once, twice)


@steady
@given(cases, keeps, coverages)
def test_the_retained_mass_is_what_the_census_of_the_pruned_file_says(
    case: Case, keep: list[str], coverage: float | None
) -> None:
    pruned, report = prune(checkpoint_of(case.encoder()), keep, coverage)
    config = describe(pruned).encoder
    for block in config.mixtures:
        mass = weights(pruned, ENCODER)[f"blocks.{block}.mixture.census"][CENSUS.index("contribution")].double()
        for name, scores in zip(config.names, mass, strict=True):
            assert report.retained[name][block] == pytest.approx(float(1 - scores[-1] / scores.sum()), abs=1e-5)
            assert coverage is None or report.retained[name][block] >= coverage - 1e-5


def test_sealing_at_full_coverage_changes_no_output_on_the_tiles_of_the_census() -> None:
    encoder = Case("conditioned", 1, (3, 0, 4), None, torch.float32, 0).encoder()
    tiles = tiles_of(encoder.config, 8)
    before = encoder(tiles).values
    encoder.seal(sets(encoder.config, census_of(encoder), 1.0))
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
