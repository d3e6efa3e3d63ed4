"""Does a run survive its machine? One run, pre-empted again and again, by the command line as a scheduler would do it.

    python -m benchmarks.endurance
    python -m benchmarks.endurance --minutes 6 --every 2 --out FOLDER

Preset nano pre-trains on synthetic tiles in short epochs, each with validation, pictures and checkpoints, and with a
process that reads data. Every few minutes the run gets SIGUSR1 or SIGTERM in turn, must end with exit code 75, and
`mapex fit --run` is called again with the same words. Then every step must stand in the run's log exactly once. Memory
is what the run and its children hold beside files, in each of them (so what they share since they were forked counts in
each), sampled every few seconds; its first third, in which everything is used for the first time, does not count:
compared are the medians of the second third of a stretch and of the last. Proportional set sizes would be nearer to
what the machine loses, and also tell how the kernel attributes pages that are shared, which changes over time.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.measure import machine, table

RUN = "endurance"
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

TILES = "[{class_path: Synthetic, init_args: {train: 512, val: 64, test: 64}}]"

GRACE = 120.0
"""Seconds that a pre-empted run may take to end."""


class Stretch(NamedTuple):
    """From a start of the run to its pre-emption.

    Attributes:
        signal: what ended it.
        code: the exit code.
        ending: seconds from the signal to the end of the process.
        memory: MB, sample by sample.
    """

    signal: str
    code: int
    ending: float
    memory: tuple[float, ...]

    @property
    def thirds(self) -> tuple[float, float]:
        """Median memory of the second third and of the last, in MB."""
        third = len(self.memory) // 3
        return statistics.median(self.memory[third : 2 * third]), statistics.median(self.memory[2 * third :])


def held(pid: int) -> float:
    """Memory of a process and of each of its children in MB, added up, but for mapped files."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has ended since
            continue
        children.setdefault(parent, []).append(int(folder.name))
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        waiting += children.get(one, [])
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Anonymous:")), 0)
    return total / 1024


def stretch(words: Sequence[str], folder: Path, seconds: float, number: signal.Signals, pause: float) -> Stretch:
    """Starts or continues the run and pre-empts it."""
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        end, memory = time.monotonic() + seconds, []
        while time.monotonic() < end and process.poll() is None:
            memory.append(held(process.pid))
            time.sleep(pause)
        asked = time.monotonic()
        process.send_signal(number)
        try:
            code = process.wait(GRACE)
        finally:
            process.kill()
    return Stretch(number.name, code, time.monotonic() - asked, tuple(memory))


def logged(path: Path) -> list[int]:
    """The steps with a training loss in a run's log, in its order."""
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


def faults(steps: Sequence[int]) -> tuple[int, int]:
    """How many steps up to the last are missing, and how many stand more than once."""
    return (max(steps) + 1 - len(set(steps)), len(steps) - len(set(steps))) if steps else (0, 0)


def main(words: Sequence[str] | None = None) -> None:
    """Runs, pre-empts, and prints a line for each stretch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the whole run")
    parser.add_argument("--every", type=float, default=5.0, help="minutes between pre-emptions")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between samples of memory")
    parser.add_argument("--out", type=Path, help="where the run is kept; by default nowhere")
    parser.add_argument("--settings", nargs=argparse.REMAINDER, default=[], help="the rest: words of mapex fit")
    given = parser.parse_args(words)
    fit = [sys.executable, "-m", "mapex_lightning", "fit", "--config", "pretrain.yaml", "--run", RUN]
    fit += ["--data.sets", TILES, "--data.batch_size", "16", "--data.workers", "1"]
    fit += ["--trainer.log_every_n_steps", "1", "--trainer.max_epochs", "2000", *given.settings]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        signals = itertools.cycle(SIGNALS)
        found = [
            stretch(fit, folder, given.every * 60, next(signals), given.pause)
            for _ in range(max(1, round(given.minutes / given.every)))
        ]
        steps = logged(folder / "runs" / RUN / "csv" / "metrics.csv")
    print(machine(torch.device("cpu")))
    rows = [
        [number, one.signal, one.code, f"{one.ending:.0f}", f"{first:.0f}", f"{last:.0f}", f"{last / first:.3f}"]
        for number, one in enumerate(found, 1)
        for first, last in [one.thirds]
    ]
    heads = ["stretch", "ended by", "exit code", "seconds to the end", "MB, second third", "MB, last third", "ratio"]
    print(table(heads, rows))
    missing, twice = faults(steps)
    across = found[-1].thirds[1] / found[0].thirds[1]
    print(f"\n{len(steps)} steps in the log: {missing} missing, {twice} more than once.")
    print(f"Memory at the end of the last stretch against the first: {across:.3f}.")


if __name__ == "__main__":
    main()
