"""What does it cost that checkpoints carry a checksum? Against torch's plain ways, and Lightning's.

    python -m benchmarks.checkpoints

A checkpoint with random weights is written and read by turns. All ways to write but Lightning's end with the file on
the disk (fsync). *Plain* is ``torch.save`` and a rename, and ``torch.load`` into memory. *Ours* takes the checksum of
all that leaves memory, reads the file back and compares before the rename; and reads the file through before it is
mapped into memory, once per process. *All weights* copies every weight, so that whatever is mapped is read.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Candidate, alternate, begin, options, ratio, spread, table
from benchmarks.prune_cost import make
from mapex_lightning.checkpoint import checksum, read, write
from mapex_lightning.files import write_whole
from mapex_lightning.model.config import PRESETS

PLAIN, OURS, LIGHTNING = "plain", "ours", "Lightning"


def _load(path: Path, mapped: bool) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True, mmap=mapped)
    return found


def _anew(path: Path) -> dict[str, Any]:
    """Reads as a process does that has not yet read the file."""
    checksum._verified.clear()
    return read(path)


def _all_of(found: dict[str, Any]) -> None:
    for value in found["state_dict"].values():
        value.clone()


def ways(source: Path, out: Path) -> dict[tuple[str, str], Callable[[], object]]:
    """What is timed, by what is done and how."""
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    found, keeper = _load(source, mapped=False), TorchCheckpointIO()
    return {
        ("write", PLAIN): lambda: write_whole(out, lambda beside: torch.save(found, beside)),
        ("write", OURS): lambda: write(found, out),
        ("write", LIGHTNING): lambda: keeper.save_checkpoint(found, out),
        ("read", PLAIN): lambda: _load(source, mapped=False),
        ("read", OURS): lambda: _anew(source),
        ("read again", OURS): lambda: read(source),
        ("read, all weights", PLAIN): lambda: _all_of(_load(source, mapped=False)),
        ("read, all weights", OURS): lambda: _all_of(_anew(source)),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Runs all by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="base")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; by default that of temporary files")
    options(parser, rounds=7)
    given = parser.parse_args(words)
    device = torch.device("cpu")
    clock = begin(given, device)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        source, out = Path(folder) / "full.ckpt", Path(folder) / "out.ckpt"
        make(given.preset, source)
        size = source.stat().st_size
        timed = ways(source, out)
        times = alternate({way: Candidate(call) for way, call in timed.items()}, given.rounds, device, clock)
    rows: list[list[Any]] = []
    for (what, how), found in times.items():
        plain = times.get((what, PLAIN), times["read", PLAIN]).whole
        rows.append([what, how, spread(found.whole), "" if how == PLAIN else ratio(found.whole, plain)])
    print(f"\n{given.preset}: {size / 1e6:.0f} MB\n")
    print(table(["what", "how", "seconds", "/ plain"], rows), flush=True)


if __name__ == "__main__":
    main()
