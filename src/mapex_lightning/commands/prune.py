"""The command ``mapex prune``: without tiles it needs neither data nor Trainer and answers in seconds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mapex_lightning.checkpoint import describe, read, write
from mapex_lightning.commands.parser import Parser
from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_text
from mapex_lightning.heatmap import draw, write_png
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.pruning import Policy, Report, prune
from mapex_lightning.pruning.choice import Fallback, Rule, Score
from mapex_lightning.report import pruning_maps, pruning_page
from mapex_lightning.runs import EVALUATIONS, PRUNED, find_checkpoint

if TYPE_CHECKING:
    from mapex_lightning.comparison import Comparison  # with timm behind it, which takes seconds to import

NOT_COMPARED = "  latency and change of output: not measured, give --config TILES"


def run(words: Sequence[str]) -> None:
    """Prunes as the words after ``mapex prune`` say.

    Raises:
        MapexError: a word is wrong, the checkpoint cannot be used, or the output cannot be written.
    """
    parser = Parser("prune")
    parser.add_argument("--keep", required=True)
    rules = parser.add_mutually_exclusive_group()
    for rule in get_args(Rule):
        if rule != "sealed":
            rules.add_argument(f"--{rule}", type=float)
    parser.add_argument("--score", choices=get_args(Score))
    parser.add_argument("--fallback", choices=get_args(Fallback))
    parser.add_argument("--out", type=Path)
    known, settings = parser.read(list(words))
    source = find_checkpoint(known.ckpt)
    keep = tuple(name.strip() for name in known.keep.split(",") if name.strip())
    out = known.out or source.with_name(PRUNED)
    _check_out(out, source)
    checkpoint = read(source)
    policy = _policy(known, describe(checkpoint).encoder)
    if settings:
        from mapex_lightning.commands import on_tiles

        finish(source, out, on_tiles.pruned(source, keep, policy, settings))
    else:
        finish(source, out, (*prune(checkpoint, keep, policy), None))


def _check_out(out: Path, source: Path) -> None:
    """Makes sure that nothing else is written over.

    Raises:
        MapexError: something would be.
    """
    if out.resolve() == source.resolve():
        raise MapexError(f"--out {out} is the checkpoint to prune itself; give another file.")
    if out.suffix != Path(PRUNED).suffix:
        raise MapexError(
            f"--out is a file that ends in {Path(PRUNED).suffix}, and the report stands beside it; found {out}. For "
            "safetensors, write the checkpoint and then mapex export --ckpt it --to safetensors."
        )
    if out.stem.partition("-")[0] in EVALUATIONS:
        raise MapexError(
            f"--out {out} would have its report in {out.with_suffix('.json').name}, where the figures of a run are "
            "kept. Give another name."
        )


def _policy(known: argparse.Namespace, config: EncoderConfig) -> Policy:
    """The policy that the words ask for, and the standard one as far as they ask for nothing."""
    given = [Policy(rule, amount) for rule in get_args(Rule) if (amount := getattr(known, rule, None)) is not None]
    others = {name: word for name in ("score", "fallback") if (word := getattr(known, name))}
    return replace(given[0] if given else Policy.standard(config), **others)


def finish(source: Path, out: Path, result: tuple[dict[str, Any], Report, Comparison | None] | None) -> None:
    """Writes checkpoint and report and prints the latter; None is the result of a process that must not write."""
    if result is None:
        return
    checkpoint, report, comparison = result
    measured = None if comparison is None else comparison.plain()
    plain = {"source": str(source), **report.plain(), "comparison": measured}
    lineage = describe(checkpoint).lineage
    page, picture = pruning_page(report, str(source), str(out), lineage, comparison), draw(pruning_maps(report))
    write(checkpoint, out)
    write_text(out.with_suffix(".json"), json.dumps(plain, indent=2) + "\n")
    write_text(out.with_suffix(".html"), page)
    write_png(picture, out.with_name(f"{out.stem}-experts.png"))
    print(f"{source}\n{report.table()}\n{NOT_COMPARED if comparison is None else comparison.table()}", flush=True)
    print(f"{out}\n{out.with_suffix('.html')}", flush=True)
