"""The command ``mapex prune``: without tiles it needs neither data nor Trainer and answers in seconds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, get_args

from mapex_lightning.checkpoint import describe, read, write
from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_whole
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.pruning import Policy, Report, prune
from mapex_lightning.pruning.choice import Fallback, Rule, Score
from mapex_lightning.runs import PRUNED, find_checkpoint


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise MapexError(f"{message[0].upper()}{message[1:]}. See mapex prune --help.")


def run(words: Sequence[str]) -> None:
    """Prunes as the words after ``mapex prune`` say.

    Raises:
        MapexError: a word is wrong, the checkpoint cannot be used, or the output cannot be written.
    """
    parser = _Parser("mapex prune", add_help=False, allow_abbrev=False)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--keep", required=True)
    rules = parser.add_mutually_exclusive_group()
    for rule in get_args(Rule):
        if rule != "sealed":
            rules.add_argument(f"--{rule}", type=float)
    parser.add_argument("--score", choices=get_args(Score))
    parser.add_argument("--fallback", choices=get_args(Fallback))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--config", "-c", action="append", default=[])
    known, rest = parser.parse_known_args(words)
    if rest and not known.config:
        raise MapexError(f"{rest[0]} is no option of mapex prune without --config TILES. See mapex prune --help.")
    source = find_checkpoint(known.ckpt)
    keep = tuple(name.strip() for name in known.keep.split(",") if name.strip())
    out = known.out or source.with_name(PRUNED)
    if out.resolve() == source.resolve():
        raise MapexError(f"--out {out} is the checkpoint to prune itself; give another file.")
    checkpoint = read(source)
    policy = _policy(known, describe(checkpoint).encoder)
    if known.config:
        from mapex_lightning import cli

        configs = [word for name in known.config for word in ("--config", name)]
        finish(source, out, cli.prune_on_tiles(source, keep, policy, [*configs, *rest]))
    else:
        finish(source, out, prune(checkpoint, keep, policy))


def _policy(known: argparse.Namespace, config: EncoderConfig) -> Policy:
    """The policy that the words ask for, and the standard one as far as they ask for nothing."""
    given = [Policy(rule, amount) for rule in get_args(Rule) if (amount := getattr(known, rule, None)) is not None]
    others = {name: word for name in ("score", "fallback") if (word := getattr(known, name))}
    return replace(given[0] if given else Policy.standard(config), **others)


def finish(source: Path, out: Path, result: tuple[dict[str, Any], Report] | None) -> None:
    """Writes checkpoint and report and prints the latter; None is the result of a process that must not write."""
    if result is None:
        return
    checkpoint, report = result
    write(checkpoint, out)
    summary = {"source": str(source), **report.plain()}
    write_whole(out.with_suffix(".json"), lambda beside: beside.write_text(json.dumps(summary, indent=2) + "\n"))
    print(f"{source}\n{report.table()}\n{out}", flush=True)
