"""Reports: checkpoints and prunings as pages and pictures that one can show to a colleague."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mapex_lightning import __version__
from mapex_lightning.heatmap import HeatMap, Picture, draw, of_changes, of_shares
from mapex_lightning.info import DASH, NOTES, USAGE, Info, heading_of, statistics
from mapex_lightning.page import Html, figures, heat_tables, page, paragraph, section, steps, table
from mapex_lightning.pruning import Policy, Report
from mapex_lightning.text import megabytes

if TYPE_CHECKING:  # both have timm behind them, which takes seconds to import
    from mapex_lightning.analysis import Analysis
    from mapex_lightning.comparison import Comparison

FOOT = f"mapex-lightning {__version__}"
ARROW = "\N{RIGHTWARDS ARROW}"

HOW = {"hard": "share of tokens that chose each expert", "soft": "mean router probability of each expert"}
"""What a cell of a heat map of usage says."""

RULES = {
    "sealed": "Every expert stays that pre-training has sealed for a kept sensor.",
    "coverage": "Of each kept sensor the fewest experts stay that carry {0:.4g} of its mass.",
    "threshold": "Every expert stays that carries {0:.4g} of a kept sensor's mass or more.",
    "top": "Of each kept sensor the {0:.0f} best experts of every mixture stay.",
    "size": "Experts were given up one after the other, the least mass per parameter first, down to {0}.",
}
SCORES = {
    "contribution": "Mass is contribution: gate x size of the expert's output, summed over a sensor's tokens.",
    "activation": "Experts are ranked by contribution per token: gate x size of the output, as a mean.",
    "gate": "Mass is the sum of an expert's gates over a sensor's tokens.",
    "frequency": "Mass is the number of a sensor's tokens that chose an expert.",
}
FALLBACKS = {
    "next": "A token that would have chosen an expert that is gone goes to the best one that stays.",
    "merged": "An expert that is gone is averaged into the most similar one that stays, and its tokens follow it.",
}
"""A `mapex_lightning.pruning.Policy` in sentences."""

COUNTED_BEFORE = (
    "Mass was counted before the model was sealed: what it lacks had gone to experts that sealing has since forbidden, "
    "so that nothing is lost by cutting them."
)


def pruning_page(
    report: Report, source: str, out: str, lineage: Sequence[str], comparison: Comparison | None = None
) -> str:
    """What pruning did, as a page.

    Args:
        report: of the pruning.
        source: the checkpoint that was pruned.
        out: the one that it became.
        lineage: of that one.
        comparison: what was measured on tiles, if there were any.
    """
    lead = f"Of {source} what {_and(report.keep)} need{'' if len(report.keep) > 1 else 's'}. {_outcome(report)}"
    policy = report.policy
    why = [_rule(policy), SCORES[policy.score]]
    if not report.exact:
        why.append(FALLBACKS[policy.fallback])
    elif _lowest(report) < 1 - 1e-9:
        why.append(COUNTED_BEFORE)
    return page(
        out,
        lead,
        _pruning_cards(report, comparison),
        section("Before and after", _before_and_after(report)),
        section("What was kept, and why", paragraph(" ".join(why)), table(*_kept(report))),
        section("Who contributes what", *_contributions(report)),
        section("Change of the output, and latency", *_compared(comparison)),
        section("Lineage", steps(lineage)),
        foot=FOOT,
    )


def _rule(policy: Policy) -> str:
    if policy.rule == "size":
        share = f"{policy.amount:.4g} of the parameters" if policy.amount <= 1 else f"{policy.amount:,.0f} parameters"
        return RULES["size"].format(share)
    return RULES[policy.rule].format(policy.amount)


def _outcome(report: Report) -> str:
    if report.exact:
        return "The output on the kept sensors is that of the full model, for every input."
    if report.policy.fallback == "merged":
        return "The output on the kept sensors may differ from that of the full model."
    return "The output differs from the full model's only for tiles in which a token had chosen an expert that is gone."


def pruning_maps(report: Report) -> list[HeatMap]:
    """Per mixture block the share of each sensor's contribution, with the kept experts marked."""
    names = [f"{name}, kept" if name in report.keep else name for name in report.sensors]
    return [
        of_shares(
            f"block {block}: share of each sensor's contribution",
            names,
            torch.tensor([report.shares[name][block][:-1] for name in report.sensors], dtype=torch.float64),
            kept,
        )
        for block, kept in report.experts.items()
    ]


def _pruning_cards(report: Report, comparison: Comparison | None) -> Html:
    cards = {
        "parameters": (_short(report.parameters, 1e6, "M"), _change(*report.parameters)),
        "weights": (_short(report.bytes, 1e6, "MB"), _change(*report.bytes)),
        "retained mass": (f"{_lowest(report):.4f}", "the lowest of any block and sensor"),
        "latency of one tile": NOT_MEASURED,
        "change of the output": NOT_MEASURED,
    }
    if comparison is not None:
        before, after = comparison.full.median, comparison.pruned.median
        cards["latency of one tile"] = (f"{before:.1f} {ARROW} {after:.1f} ms", comparison.change)
        cards["change of the output"] = (
            f"{comparison.difference:.1e}",
            f"at most, of the features' size, on {comparison.tiles} tiles",
        )
    return figures(cards)


def _lowest(report: Report) -> float:
    """The lowest share of mass that any kept sensor retains in any block."""
    return min((share for blocks in report.retained.values() for share in blocks.values()), default=1.0)


NOT_MEASURED = ("not measured", "give --config TILES")


def _before_and_after(report: Report) -> Html:
    experts = sum(report.before.values()), sum(map(len, report.experts.values()))
    rows = [
        [what, f"{before:,}", f"{after:,}", _change(before, after)]
        for what, (before, after) in (
            ("sensors", (len(report.sensors), len(report.keep))),
            ("experts", experts),
            ("parameters of the encoder", report.parameters),
            ("bytes of its weights", report.bytes),
        )
    ]
    return table(["", "before", "after", "change"], rows)


def _kept(report: Report) -> tuple[list[str], list[list[str]]]:
    merging = ["merged"] if report.merges else []
    rows = []
    for block, kept in report.experts.items():
        gone = [expert for expert in range(report.before[block]) if expert not in kept]
        merges = ", ".join(f"{e} into {to}" for e, to in report.merges.get(block, {}).items())
        retained = [f"{report.retained[name][block]:.4f}" for name in report.keep]
        rows.append([str(block), _listed(kept), _listed(gone), *([merges] if merging else []), *retained])
    return ["block", "experts kept", "experts cut", *merging, *(f"mass of {n} retained" for n in report.keep)], rows


def _contributions(report: Report) -> list[Html]:
    note = "Each row is a sensor, each column an expert by its number in the full model."
    if any(row[-1] for blocks in report.shares.values() for row in blocks.values()):
        note += " What a row lacks to 1 had gone to experts that an earlier pruning has cut away."
    return [paragraph(note), heat_tables(pruning_maps(report))]


def _compared(comparison: Comparison | None) -> list[Html]:
    if comparison is None:
        return [paragraph("Not measured: give --config TILES, and both models see a few of its validation tiles.")]
    rows = [
        ["largest difference of a pooled feature, over the root mean square of all", f"{comparison.difference:.2e}"],
        ["cosine of full and pruned vectors, mean over tiles", f"{comparison.cosine:.8f}"],
        ["cosine, lowest tile", f"{comparison.lowest:.8f}"],
    ]
    times = [
        [name, *(f"{value:.2f} ms" for value in (latency.median, latency.low, latency.high))]
        for name, latency in (("full", comparison.full), ("pruned", comparison.pruned))
    ]
    return [
        paragraph(f"Measured on {comparison.tiles} validation tiles with the kept sensors alone."),
        table(["output", "value"], rows),
        paragraph(f"Latency of one tile on {comparison.device}: runs of both in turn, their median and quartiles."),
        table(["model", "median", "first quartile", "third quartile"], times),
    ]


def _short(pair: tuple[int, int], unit: float, word: str) -> str:
    before, after = (f"{value / unit:.2f}" for value in pair)
    return f"{before} {ARROW} {after} {word}"


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else DASH


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers)) or DASH


def _and(names: Sequence[str]) -> str:
    return " and ".join((*([", ".join(names[:-1])] if names[:-1] else []), names[-1]))


def info_page(info: Info, analysis: Analysis | None = None) -> str:
    """A checkpoint as a page.

    Args:
        info: the checkpoint.
        analysis: what was measured on tiles, if there were any.
    """
    config = info.description.encoder
    found = [_sensors(info), _encoder(info)]
    if analysis is not None:
        found += [_routing(info, analysis), *_damage(analysis)]
    elif info.usage:
        found.append(_census(info))
    found.append(section("Lineage", steps(info.description.lineage)))
    heading = info.heading()
    return page(
        info.source,
        f"{heading[0].upper()}{heading[1:]}. It reads {', '.join(config.names)}.",
        _cards(info),
        *found,
        foot=FOOT,
    )


def info_pictures(info: Info, analysis: Analysis | None = None) -> dict[str, Picture]:
    """Heat maps by file name."""
    maps = {how: usage_maps(info, analysis, how) for how in USAGE}
    pictures = {f"experts-{how}.png": draw(found) for how, found in maps.items() if found}
    if analysis is not None and analysis.damage is not None:
        pictures["causal.png"] = draw(causal_maps(analysis))
    return pictures


def usage_maps(info: Info, analysis: Analysis | None, how: str) -> list[HeatMap]:
    """A heat map per mixture block: of the tiles of an analysis, or else of the census."""
    if analysis is None:
        shares = {block: usage[how]["share"] for block, usage in info.usage.items()}
    else:
        shares = {b: (r.hard if how == "hard" else r.soft)["share"] for b, r in analysis.routing.items()}
    names = info.description.encoder.names
    return [of_shares(f"block {block}: {HOW[how]}", names, share) for block, share in shares.items()]


def causal_maps(analysis: Analysis) -> list[HeatMap]:
    """Per mixture block how much each sensor's error grows when an expert's tokens are sent elsewhere."""
    changes = {block: analysis.causal(block).T for block in analysis.routing}
    most = max((float(change.nan_to_num(0).max()) for change in changes.values()), default=0.0)
    title = "change of error without each expert"
    return [of_changes(f"block {b}: {title}", analysis.modalities, c, max(most, 0.01)) for b, c in changes.items()]


def _cards(info: Info) -> Html:
    config = info.description.encoder
    cards = {
        "parameters of the encoder": (f"{sum(info.parameters.values()):,}", megabytes(info.bytes)),
        "file": (megabytes(info.size), f"format {info.versions['format']}"),
        "sensors": (str(len(config.names)), ", ".join(config.names)),
        "experts": (
            str(sum(config.experts)),
            f"in {len(config.mixtures)} of {config.depth} blocks, {'sealed' if config.sealed else 'not sealed'}",
        ),
    }
    return figures(cards)


def _sensors(info: Info) -> Html:
    tables = [
        table(*_headed(rows), caption=heading_of(modality))
        for modality in info.description.encoder.modalities
        for rows in statistics(modality)
    ]
    return section("Sensors", *tables)


def _encoder(info: Info) -> Html:
    parts = [paragraph(f"{info.shape()}."), table(*_headed(info.sizes()))]
    if info.alone:
        parts.append(table(*_headed(info.prunings())))
    if info.description.encoder.mixtures:
        needs = f"Of each sensor the experts that it needs ({info.rule()}): those that pruning to it alone keeps."
        parts += [paragraph(needs), table(*_headed(info.blocks())), paragraph(" ".join(NOTES), note=True)]
    return section("Encoder", *parts)


def _headed(rows: Sequence[list[str]]) -> tuple[list[str], Sequence[list[str]]]:
    return rows[0], rows[1:]


def _census(info: Info) -> Html:
    return section(
        "Who uses which expert",
        paragraph("As counted on the last validation tiles: each cell is a share of its sensor."),
        *(heat_tables(usage_maps(info, None, how)) for how in USAGE),
    )


def _routing(info: Info, analysis: Analysis) -> Html:
    head = ["block", "NMI hard", "new weights", "chance", "NMI soft", "new weights", "stays", "follows", "dead"]
    rows = [
        [
            str(block),
            *(_number(v) for v in (float(r.hard["nmi"]), r.start_hard, r.chance, float(r.soft["nmi"]), r.start_soft)),
            *(_number(float(v.nanmean())) for v in (r.content, r.name)),
            f"{int(r.hard['dead'])} of {r.hard['share'].shape[1]}",
        ]
        for block, r in analysis.routing.items()
    ]
    effective = [
        [str(block), name, *(_number(float(f[m])) for f in (r.hard["effective"], r.soft["effective"], r.token_entropy))]
        for block, r in analysis.routing.items()
        for m, name in enumerate(analysis.modalities)
    ]
    return section(
        "Who uses which expert",
        paragraph(f"Measured on {analysis.tiles} held-out tiles, unmasked. {' '.join(NOTES)}"),
        table(head, rows),
        paragraph(
            "New weights: the same encoder before any training. Chance: images given each other's sensor. Stays: share "
            "of tokens that keep their experts when the router is told that they come from another sensor (routing by "
            "content). Follows: share that then goes where that sensor's own tokens go (routing by the sensor's name).",
            note=True,
        ),
        *(heat_tables(usage_maps(info, analysis, how)) for how in USAGE),
        table(["block", "sensor", "effective experts, hard", "soft", "entropy of a token, nats"], effective),
    )


def _damage(analysis: Analysis) -> list[Html]:
    found = analysis.damage
    if found is None:
        return [section("What the experts are worth", paragraph("Not measured: this checkpoint has no decoder."))]
    rows = [["as it is", *(_number(value, "{:.4f}") for value in found.full.tolist())]]
    for block, error in found.skipped.items():
        what = "mixture" if block in analysis.routing else "feed-forward"
        rows.append([f"{what} of block {block} skipped", *_changes(error, found.full)])
    rows.append(["all mixtures skipped", *_changes(found.no_mixtures, found.full)])
    return [
        section(
            "What the experts are worth",
            paragraph(
                "Error of masked reconstruction, and how it changes when a part gives nothing: a model in good health "
                "suffers from that."
            ),
            table(["", *analysis.modalities], rows),
            heat_tables(causal_maps(analysis)),
            paragraph(
                "Of each expert: the change of each sensor's error when its tokens go to the next-ranked expert, with "
                "the gate that they had.",
                note=True,
            ),
        )
    ]


def _changes(error: Tensor, full: Tensor) -> list[str]:
    return [_number(value, "{:+.1%}") for value in (error / full - 1).tolist()]


def _number(value: float, form: str = "{:.2f}") -> str:
    return form.format(value) if value == value else DASH
