"""How long until a model answers? Fresh processes: help, and from nothing to the first features; and bytes on disk.

    python -m benchmarks.startup
    python -m benchmarks.startup --preset small

An encoder of four sensors with random weights and what pruning to s2 leaves of it are loaded by
`mapex_lightning.checkpoint.load` and see one tile of s2. The ViT of equal compute is built by timm and loads its
weights with torch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.encoder import family, vit_of
from benchmarks.measure import Candidate, alternate, begin, options, ratio, spread, table
from mapex_lightning.__main__ import LIGHT
from mapex_lightning.checkpoint import save
from mapex_lightning.model.config import PRESETS

COMMANDS = ("mapex", *(f"mapex {name}" for name in (*LIGHT, "fit", "predict")))
"""Whose ``--help`` is timed."""

ENCODER = """
import sys, torch
from mapex_lightning.checkpoint import load
from mapex_lightning.tiles import Tiles
with torch.no_grad():
    load(sys.argv[1]).pooled(Tiles.of(s2=torch.rand(1, 12, 64, 64)))
"""

VIT = """
import sys, torch
from timm.models.vision_transformer import VisionTransformer
found = torch.load(sys.argv[1], weights_only=True, mmap=True)
vit = VisionTransformer(**found["arguments"])
vit.load_state_dict(found["state_dict"])
with torch.no_grad():
    vit.eval()(torch.rand(1, 12, 64, 64))
"""


def files(name: str, folder: Path) -> dict[str, tuple[str, Path]]:
    """Writes the models of a preset; by name, the program that loads each, and its file."""
    encoders = family(name, torch.device("cpu"))
    found = {}
    for way in ("unpruned", "pruned"):
        path = folder / f"{way}.ckpt"
        save(encoders[way], path)
        found[way] = (ENCODER, path)
    config = encoders["pruned"].config
    vit, path = vit_of(config), folder / "vit.pt"
    arguments = {"img_size": 64, "patch_size": config.patch, "in_chans": 12, "num_classes": 0, "global_pool": "avg"}
    arguments |= {"class_token": False, "fc_norm": False, "embed_dim": config.width}
    arguments |= {"depth": config.depth, "num_heads": config.heads}
    torch.save({"arguments": arguments, "state_dict": vit.state_dict()}, path)
    return {**found, "timm ViT": (VIT, path)}


def process(*words: str) -> Candidate:
    """A fresh Python that runs to its end."""
    return Candidate(partial(subprocess.run, [sys.executable, *words], check=True, stdout=subprocess.DEVNULL))


def main(words: Sequence[str] | None = None) -> None:
    """Starts everything by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="base")
    options(parser, rounds=5)
    given = parser.parse_args(words)
    device = torch.device("cpu")
    clock = begin(given, device)
    helps = {command: process("-m", "mapex_lightning", *command.split()[1:], "--help") for command in COMMANDS}
    helps["python, nothing else"] = process("-c", "")
    times = alternate(helps, given.rounds, device, clock)
    rows = [[way, spread(took.whole)] for way, took in times.items()]
    print(f"\n{table(['--help', 'seconds'], rows)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = files(given.preset, Path(folder))
        starts = {way: process("-c", program, str(path)) for way, (program, path) in found.items()}
        starts["import torch alone"] = process("-c", "import torch")
        times = alternate(starts, given.rounds, device, clock)
        bytes_of = {way: path.stat().st_size for way, (_, path) in found.items()}
    rows = [
        [
            way,
            f"{bytes_of[way] / 1e6:.1f} MB" if way in bytes_of else "",
            spread(took.whole),
            ratio(took.whole, times["timm ViT"].whole),
        ]
        for way, took in times.items()
    ]
    columns = ["process to first features", "file", "seconds", "/ ViT"]
    print(f"\n{given.preset}\n\n{table(columns, rows)}", flush=True)


if __name__ == "__main__":
    main()
