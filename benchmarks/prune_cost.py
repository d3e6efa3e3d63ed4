"""What does `mapex prune` cost? Time and memory, against reading and writing the same file.

    python -m benchmarks.prune_cost

A checkpoint of four sensors with random weights and a census is made first. Both programs run in fresh processes that
have imported torch, so that only the work counts: ``prune`` is the command with all that it writes; ``read and write``
is ``torch.load`` (not mapped into memory) and ``torch.save`` of the whole, fsync included, as checkpoints are written.
Memory is the highest resident set of the process as Linux keeps it (VmHWM), less what it was when the work began; pages
of a file that is mapped into memory count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.encoder import SENSORS, tiles_of
from benchmarks.measure import begin, options, ratio, spread, table
from mapex_lightning.checkpoint import save
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import PRESETS, preset
from mapex_lightning.model.encoder import Encoder

WATCH = """
import json, resource, sys, time
import torch
{imports}
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
def processor():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
clock = processor if sys.argv[1] == "processor" else time.perf_counter
before, start = resident(), clock()
{work}
print(json.dumps({{"seconds": clock() - start, "bytes": resident() - before}}))
"""

PROGRAMS = {
    "read and write": WATCH.format(
        imports="from mapex_lightning.files import write_whole",
        work="found = torch.load(sys.argv[2], weights_only=True, mmap=False)\n"
        "write_whole(sys.argv[3], lambda beside: torch.save(found, beside))",
    ),
    "prune": WATCH.format(
        imports="from mapex_lightning.commands import prune",
        work='prune.run(["--ckpt", sys.argv[2], "--keep", "s2", "--out", sys.argv[3]])',
    ),
}


def make(name: str, path: Path) -> None:
    """Writes a checkpoint with random weights and the census of a few tiles."""
    torch.manual_seed(0)
    encoder = Encoder(preset(name, modalities(SENSORS))).eval()
    with torch.no_grad(), encoder.observe():
        encoder(tiles_of(encoder.config, 2, torch.device("cpu")))
    save(encoder, path)


def run(program: str, clock: str, source: Path, out: Path) -> dict[str, float]:
    """Seconds and bytes of a program."""
    words = [sys.executable, "-c", PROGRAMS[program], clock, str(source), str(out)]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Runs both by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="base")
    options(parser, rounds=5)
    given = parser.parse_args(words)
    begin(given, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "full.ckpt", Path(folder) / "out.ckpt"
        make(given.preset, source)
        found: dict[str, list[dict[str, float]]] = {program: [] for program in PROGRAMS}
        sizes = {}
        for _ in range(given.rounds):
            for program, kept in found.items():
                kept.append(run(program, given.clock, source, out))
                sizes[program] = out.stat().st_size
        full, pruned = source.stat().st_size, sizes["prune"]
    plain = [one["seconds"] for one in found["read and write"]]
    rows: list[list[Any]] = []
    for program, kept in found.items():
        seconds = [one["seconds"] for one in kept]
        most = statistics.median(one["bytes"] for one in kept)
        row = [program, spread(seconds), ratio(seconds, plain), f"{most / 1e6:.0f} MB", f"{most / (full + pruned):.2f}"]
        rows.append(row)
    print(f"\n{given.preset}: {full / 1e6:.0f} MB, pruned to s2 {pruned / 1e6:.0f} MB\n")
    print(table(["program", "seconds", "/ read and write", "peak memory", "/ both files"], rows), flush=True)


if __name__ == "__main__":
    main()
