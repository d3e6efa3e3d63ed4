"""The command ``mapex export``: a checkpoint for programs that know nothing of mapex."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from mapex_lightning.checkpoint import read
from mapex_lightning.commands.parser import Parser
from mapex_lightning.errors import MapexError
from mapex_lightning.runs import find_checkpoint

WEIGHTS = "safetensors"
"""The form that holds weights; the others hold graphs."""


def run(words: Sequence[str]) -> None:
    """Exports as the words after ``mapex export`` say.

    Raises:
        MapexError: a word is wrong, the checkpoint cannot be used, a package is missing, the graph deviates, or the
            folder cannot be written to.
    """
    parser = Parser("export", ckpt=None)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--to", required=True, choices=(WEIGHTS, "torch", "onnx"))
    parser.add_argument("--keep", default="")
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--license")
    parser.add_argument("--out", type=Path)
    known = parser.parse_args(list(words))
    source = find_checkpoint(known.ckpt)
    keep = tuple(name.strip() for name in known.keep.split(",") if name.strip())
    out = known.out or source.with_name("-".join([source.stem, *keep, known.to]))
    graph = {"--size": known.size, "--batch": known.batch, "--features": known.features or None}
    stray = [name for name, value in graph.items() if value is not None] if known.to == WEIGHTS else []
    if known.to != WEIGHTS and known.license:
        stray = ["--license"]
    if stray:
        raise MapexError(f"{stray[0]} is no option of an export to {known.to}. See mapex export --help.")
    (_weights if known.to == WEIGHTS else _graph)(known, source, keep, out)


def _weights(known: Namespace, source: Path, keep: Sequence[str], out: Path) -> None:
    from mapex_lightning.export import card

    print(card.write_weights(read(source), str(source), out, keep=keep, licence=known.license or card.UNKNOWN))
    print(out / card.CARD, flush=True)


def _graph(known: Namespace, source: Path, keep: Sequence[str], out: Path) -> None:
    if known.size is None or known.size < 1 or (known.batch is not None and known.batch < 1):
        raise MapexError(
            "A graph has tiles of one size: give --size PIXELS, the side of a tile of the finest sensor, and where the "
            f"number of tiles is to be fixed --batch N, both 1 or more; found {known.size} and {known.batch}."
        )
    from mapex_lightning.export.graphs import RECORD, write_graph

    done = write_graph(
        read(source),
        str(source),
        out,
        known.to,
        size=known.size,
        keep=keep,
        batch=known.batch,
        features=known.features,
    )
    for name, shape in done.inputs.items():
        print(f"  {name} ({', '.join(map(str, shape))})")
    print(f"  -> {done.output}")
    for check in done.checks:
        print(f"  deviation {check.deviation:.1e} on {check.tiles} tiles{' with holes' if check.holes else ''}")
    print(f"{done.path}\n{out / RECORD}", flush=True)
