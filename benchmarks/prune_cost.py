"""What `mapex prune` costs beside a plain read and write of the same file: time and peak memory, in fresh processes.

    python -m benchmarks.prune_cost
    python -m benchmarks.prune_cost --preset small --rounds 3

The checkpoint is an encoder of three sensors with random weights and the census of a few random tiles; it is pruned to
s2. A plain read and write is torch.load and torch.save of the whole file. Both import torch, and the memory of a
process that does nothing else is taken off.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mapex_lightning.checkpoint import save
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import PRESETS, preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.tiles import Tiles

NOTHING = "import torch"
PLAIN = "import sys, torch; torch.save(torch.load(sys.argv[1], weights_only=True), sys.argv[2])"
PRUNE = """
import sys
from mapex_lightning.__main__ import main
sys.exit(main(["prune", "--ckpt", sys.argv[1], "--keep", "s2", "--coverage", "0.99", "--out", sys.argv[2]]))
"""
PEAK = "\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"


def checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint of a preset, random but for a census."""
    encoder = Encoder(preset(name, modalities(["s1", "s2", "rgb"]))).eval()
    tiles = {m.name: torch.randn(2, len(m.bands), 64, 64) * m.std[0] + m.mean[0] for m in encoder.config.modalities}
    with encoder.observe(), torch.no_grad():
        encoder(Tiles.of(**tiles))
    save(encoder, folder / "last.ckpt")
    return folder / "last.ckpt"


def run(program: str, *files: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of a program in a fresh process."""
    begin = time.perf_counter()
    words = [sys.executable, "-c", f"import sys\n{program.replace('sys.exit(', '(')}{PEAK}", *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    return seconds, int(done.stderr.split()[-1]) / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="base")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = checkpoint(given.preset, Path(folder))
        out = {name: Path(folder) / f"{name}.ckpt" for name in ("plain", "pruned")}
        times: dict[str, list[float]] = {"plain": [], "pruned": []}
        memory: dict[str, list[float]] = {"plain": [], "pruned": []}
        rest = run(NOTHING)[1]
        for _ in range(given.rounds):  # in turn, so that whatever slows the machine down slows both
            for name, program in (("plain", PLAIN), ("pruned", PRUNE)):
                seconds, peak = run(program, source, out[name])
                times[name].append(seconds)
                memory[name].append(peak - rest)
        sizes = source.stat().st_size / 1e6, out["pruned"].stat().st_size / 1e6
        ratio = [prune / plain for prune, plain in zip(times["pruned"], times["plain"], strict=True)]
        print(f"{given.preset}: {sizes[0]:.0f} MB pruned to {sizes[1]:.0f} MB, {given.rounds} rounds")
        for name in times:
            seconds, peak = statistics.median(times[name]), statistics.median(memory[name])
            share = peak / sum(sizes)
            print(f"{name:8s} {seconds:6.2f} s  {peak:6.0f} MB beyond importing torch ({share:.2f} of both files)")
        print(f"pruned / plain: {statistics.median(ratio):.2f} ({min(ratio):.2f}-{max(ratio):.2f})")


if __name__ == "__main__":
    main()
