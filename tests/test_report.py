"""Pages and pictures show what was found, alone, and whatever it is called."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from mapex_lightning.analysis import analyse
from mapex_lightning.checkpoint import describe, save
from mapex_lightning.comparison import Comparison, Latency
from mapex_lightning.heatmap import share_in_words
from mapex_lightning.info import Info, inform
from mapex_lightning.model.decoder import Decoder, DecoderConfig
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.pruning import Policy, Report, prune
from mapex_lightning.pruning.choice import Fallback, Rule, Score
from mapex_lightning.report import (
    COUNTED_BEFORE,
    FALLBACKS,
    RULES,
    SCORES,
    causal_maps,
    info_page,
    info_pictures,
    pruning_maps,
    pruning_page,
)
from tests.builders import SENSORS, checkpoint_of, config_of, encoder_of, observe, seal, tiles_of
from tests.markup import Parsed, parsed

COMPARISON = Comparison(
    tiles=7,
    difference=3.25e-7,
    cosine=0.99999876,
    lowest=0.98765432,
    full=Latency(12.34, 11.11, 13.57),
    pruned=Latency(6.17, 5.55, 7.77),
    device="CPU, 3 threads",
)
NASTY = "<script>alert('x')</script> & co"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """An encoder of three sensors, one with a name that is legal and odd, that has seen tiles."""
    sensors = (SENSORS[0], replace(SENSORS[1], name="Ωmega_1"), SENSORS[2])
    found = encoder_of(config_of((6, 0, 5), sensors))
    observe(found, tiles_of(found.config, 16))
    return found


def reported(encoder: Encoder, *keep: str, policy: Policy | None = None) -> Report:
    return prune(checkpoint_of(encoder), keep, policy)[1]


def shown(report: Report, comparison: Comparison | None = None, lineage: tuple[str, ...] = ("fit",)) -> Parsed:
    return parsed(pruning_page(report, "last.ckpt", "pruned.ckpt", lineage, comparison))


def alone(found: Parsed) -> bool:
    """Whether a page is whole, loads nothing and runs nothing."""
    return not found.left_open and not found.loads and "script" not in found.tags


def numbers(encoder: Encoder, folder: Path) -> Info:
    save(encoder, folder / "last.ckpt", made_by=NASTY)
    return inform(folder / "last.ckpt")


@pytest.mark.parametrize("comparison", [None, COMPARISON])
def test_the_page_of_a_pruning_stands_alone(encoder: Encoder, comparison: Comparison | None) -> None:
    assert alone(shown(reported(encoder, "s1"), comparison))


def test_the_page_of_a_pruning_holds_the_figures_of_the_report(encoder: Encoder) -> None:
    report = reported(encoder, "s1", "dem", policy=Policy("coverage", 0.8))
    words = shown(report).words
    for before, after in (report.parameters, report.bytes):
        assert words[words.index(f"{before:,}") :][:3] == [f"{before:,}", f"{after:,}", f"{after / before - 1:+.1%}"]
    for block, kept in report.experts.items():
        retained = [f"{report.retained[name][block]:.4f}" for name in report.keep]
        gone = [expert for expert in range(report.before[block]) if expert not in kept]
        row = [str(block), " ".join(map(str, kept)), " ".join(map(str, gone)), *retained]
        assert any(words[at : at + len(row)] == row for at in range(len(words))), row


def test_the_heat_maps_of_a_pruning_hold_the_shares_of_the_report(encoder: Encoder) -> None:
    report = reported(encoder, "s1")
    assert [heat_map.kept for heat_map in pruning_maps(report)] == [frozenset(kept) for kept in report.experts.values()]
    for block, heat_map in zip(report.experts, pruning_maps(report), strict=True):
        assert [list(row) for row in heat_map.shades] == [list(report.shares[n][block][:-1]) for n in report.sensors]
    text = shown(report).text
    for row in pruning_maps(report)[0].shades:
        assert "\n".join(map(share_in_words, row)) in text


def test_kept_sensors_are_told_from_the_others(encoder: Encoder) -> None:
    assert pruning_maps(reported(encoder, "dem"))[0].names == ("s1", "Ωmega_1", "dem, kept")


def test_what_an_earlier_pruning_has_cut_away_is_mentioned(encoder: Encoder) -> None:
    once, first = prune(checkpoint_of(encoder), ["s1", "dem"], Policy("top", 1))
    _, second = prune(once, ["s1"])
    sentence = "earlier pruning has cut away"
    assert sentence not in shown(first).text
    assert sentence in shown(second).text


def test_without_tiles_latency_and_change_are_not_measured_and_it_is_said_how_to(encoder: Encoder) -> None:
    found = shown(reported(encoder, "s1"))
    assert found.words.count("not measured") == 2
    assert found.text.count("give --config TILES") == 3


def test_with_tiles_the_page_holds_the_figures_of_the_comparison(encoder: Encoder) -> None:
    text = shown(reported(encoder, "s1"), COMPARISON).text
    for word in ("3.25e-07", "0.99999876", "0.98765432", "12.34 ms", "11.11 ms", "7.77 ms", "-50.0%", "7 validation"):
        assert word in text
    assert "not measured" not in text


def test_the_outcome_is_promised_just_where_it_is_exact() -> None:
    sealed = encoder_of(config_of((6, 0, 5)))
    observe(sealed, tiles_of(sealed.config, 16))
    seal(sealed, 0.9)
    promise = "that of the full model, for every input"
    assert promise in shown(reported(sealed, "s1")).text
    for policy in (Policy("top", 1), Policy("top", 1, fallback="merged")):
        report = reported(sealed, "s1", policy=policy)
        assert (promise in shown(report).text) == report.exact


def test_mass_that_sealing_has_forbidden_is_explained() -> None:
    sealed = encoder_of(config_of((6, 0, 5)))
    tiles = tiles_of(sealed.config, 16)
    observe(sealed, tiles)
    seal(sealed, 0.6)
    before = reported(sealed, "s1")
    observe(sealed, tiles)
    after = reported(sealed, "s1")
    assert min(before.retained["s1"].values()) < min(after.retained["s1"].values()) == 1
    assert COUNTED_BEFORE in shown(before).text
    assert COUNTED_BEFORE not in shown(after).text


@pytest.mark.parametrize(
    "policy",
    [
        Policy("coverage", 0.95, "activation"),
        Policy("threshold", 0.05, "gate"),
        Policy("top", 2, "frequency"),
        Policy("size", 0.85, fallback="merged"),
        Policy("size", 16_000, fallback="merged"),
    ],
)
def test_the_page_says_why_experts_were_kept(policy: Policy, encoder: Encoder) -> None:
    text = shown(reported(encoder, "s1", "dem", policy=policy)).text
    amount = f"{policy.amount:,.0f}" if policy.amount > 1 else f"{policy.amount:.4g}"
    assert RULES[policy.rule].split("{")[0] + amount in text
    assert SCORES[policy.score] in text
    assert FALLBACKS[policy.fallback] in text


def test_every_word_of_a_policy_has_its_sentence() -> None:
    assert (set(RULES), set(SCORES), set(FALLBACKS)) == (
        set(get_args(Rule)),
        set(get_args(Score)),
        {*get_args(Fallback)},
    )


def test_merged_experts_are_named(encoder: Encoder) -> None:
    report = reported(encoder, "s1", policy=Policy("top", 1, fallback="merged"))
    text = shown(report).text
    for block, merges in report.merges.items():
        assert ", ".join(f"{gone} into {kept}" for gone, kept in merges.items()) in text, block


def test_what_comes_from_outside_stays_text(encoder: Encoder, tmp_path: Path) -> None:
    pages = [
        parsed(pruning_page(reported(encoder, "Ωmega_1"), NASTY, NASTY, (NASTY,), COMPARISON)),
        parsed(info_page(numbers(encoder, tmp_path))),
    ]
    for found in pages:
        assert alone(found)
        assert NASTY in found.text
        assert "Ωmega_1" in found.text


def test_a_checkpoint_that_has_seen_nothing_has_a_page_without_heat_maps(tmp_path: Path) -> None:
    info = numbers(encoder_of(config_of()), tmp_path)
    found = parsed(info_page(info))
    assert alone(found)
    assert "heat" not in found.attributes["class"]
    assert info_pictures(info) == {}


def test_the_page_of_a_checkpoint_holds_what_info_prints(encoder: Encoder, tmp_path: Path) -> None:
    info = numbers(encoder, tmp_path)
    text = parsed(info_page(info)).text
    for rows in (info.sizes(), info.prunings(), info.blocks()):
        for row in rows:
            assert "\n".join(cell for cell in row if cell) in text


def test_the_heat_maps_of_a_checkpoint_are_those_of_its_census(encoder: Encoder, tmp_path: Path) -> None:
    info = numbers(encoder, tmp_path)
    found = parsed(info_page(info))
    assert found.attributes["class"].count("heat") == 4
    assert set(info_pictures(info)) == {"experts-hard.png", "experts-soft.png"}
    for row in info.usage[2]["hard"]["share"].tolist():
        assert "\n".join(map(share_in_words, row)) in found.text


def test_an_analysis_takes_the_place_of_the_census_and_adds_what_experts_are_worth(
    encoder: Encoder, tmp_path: Path
) -> None:
    info = numbers(encoder, tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(encoder.config, DecoderConfig(width=16, depth=1, heads=2))
    found = analyse(encoder, decoder, [tiles_of(encoder.config, seed=5)])
    page = parsed(info_page(info, found))
    assert alone(page)
    assert page.attributes["class"].count("heat") == 6
    assert set(info_pictures(info, found)) == {"experts-hard.png", "experts-soft.png", "causal.png"}
    for row in found.routing[0].soft["share"].tolist():
        assert "\n".join(map(share_in_words, row)) in page.text
    assert found.damage is not None
    assert "\n".join(f"{value:.4f}" for value in found.damage.full.tolist()) in page.text
    skipped = (found.damage.skipped[1] / found.damage.full - 1).tolist()
    assert "feed-forward of block 1 skipped\n" + "\n".join(f"{value:+.1%}" for value in skipped) in page.text


def test_the_darkest_cell_of_the_causal_maps_is_the_largest_harm(encoder: Encoder) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(encoder.config, DecoderConfig(width=16, depth=1, heads=2))
    found = analyse(encoder, decoder, [tiles_of(encoder.config, seed=5)])
    maps = causal_maps(found)
    most = max(float(found.causal(block).nan_to_num(-1).max()) for block in found.routing)
    assert len(maps) == 2
    assert maps[0].experts == 6
    assert max(max(row) for heat_map in maps for row in heat_map.shades) == pytest.approx(min(1, most / 0.01))


def test_without_a_decoder_it_is_said_that_worth_was_not_measured(encoder: Encoder, tmp_path: Path) -> None:
    found = analyse(encoder, None, [tiles_of(encoder.config, seed=5)])
    assert "this checkpoint has no decoder" in parsed(info_page(numbers(encoder, tmp_path), found)).text


def test_the_lineage_of_the_pruned_model_is_told(encoder: Encoder) -> None:
    checkpoint, report = prune(checkpoint_of(encoder), ["s1"])
    lineage = describe(checkpoint).lineage
    text = shown(report, lineage=lineage).text
    assert re.search("\n".join(map(re.escape, lineage)), text)
