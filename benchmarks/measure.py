"""How the benchmarks measure: candidates take turns, and what counts is the ratio within a turn.

Times of a machine drift by more than the differences we look for; two candidates a few milliseconds apart drift
together.
"""

from __future__ import annotations

import argparse
import gc
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

Name = TypeVar("Name", bound=Hashable)

Clock = Callable[[], float]


def processor() -> float:
    """Seconds that processors have worked for this process and for the children that it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": processor}
"""What a second is. Processor time, with one thread, is for machines that others use at the same time."""

LEAST = 0.02
"""Seconds that a sample takes at least; shorter calls are repeated until they do."""


class Candidate(NamedTuple):
    """Something to time.

    Attributes:
        forward: the first part.
        backward: the second part, given what the first returned; None where there is just one.
    """

    forward: Callable[[], Any]
    backward: Callable[[Any], object] | None = None


class Times(NamedTuple):
    """Seconds per call, one entry per round.

    Attributes:
        forward: of the first part.
        whole: of both parts.
    """

    forward: list[float]
    whole: list[float]


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """As in the tables: ``0.97 (0.95-0.99)``."""
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of a sample."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(these: Sequence[float], those: Sequence[float]) -> Spread:
    """Spread of the ratio of two samples, taken round by round."""
    return spread([a / b for a, b in zip(these, those, strict=True)])


def alternate(
    candidates: Mapping[Name, Candidate], rounds: int, device: torch.device, clock: Clock = time.perf_counter
) -> dict[Name, Times]:
    """Times all candidates, once each in every round, in an order that rotates.

    Args:
        candidates: by name.
        rounds: how often; before the first, everything runs once or twice untimed.
        device: where they run; on CUDA the clock waits for it.
        clock: see `CLOCKS`.
    """
    calls = {name: _calls(candidate, device, clock) for name, candidate in candidates.items()}
    found = {name: Times([], []) for name in candidates}
    names = list(candidates)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                sample = [_once(candidates[name], device, clock) for _ in range(calls[name])]
                for kept, seconds in zip(found[name], zip(*sample, strict=True), strict=True):
                    kept.append(statistics.fmean(seconds))
    finally:
        gc.enable()
    return found


def _calls(candidate: Candidate, device: torch.device, clock: Clock) -> int:
    _once(candidate, device, clock)
    _, seconds = _once(candidate, device, clock)
    return math.ceil(LEAST / max(seconds, 1e-6))


def _once(candidate: Candidate, device: torch.device, clock: Clock) -> tuple[float, float]:
    _wait(device)
    start = clock()
    out = candidate.forward()
    _wait(device)
    middle = clock()
    if candidate.backward is not None:
        candidate.backward(out)
        _wait(device)
    return middle - start, clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(step: Callable[[], object], device: torch.device) -> int:
    """Bytes that tensors take at the worst moment of a step, beyond what was there before.

    Counted from the allocator's own record of every allocation and release, so it is exact and the same on every
    run: scratch space of the matrix library, fragmentation and the interpreter are left out.

    Args:
        step: what to run; once untimed beforehand, so that nothing is counted that is made only once.
        device: where it runs.
    """
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: int(event.start_ns())):
        now += int(event.nbytes())
        highest = max(highest, now)
    return highest


def machine(device: torch.device, clock: str = "wall") -> str:
    """Where, when and by which of `CLOCKS`, for the line above a table."""
    cpus = Path("/proc/cpuinfo")
    named = [line for line in cpus.read_text().splitlines() if line.startswith("model name")] if cpus.exists() else []
    where = named[0].partition(": ")[2] if named else platform.machine()
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}, {where}"
    threads = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    return f"{where}, {threads}, {clock} time, torch {torch.__version__}, {date.today()}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """The options that all benchmarks share."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, help="of torch; by default one per core")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="processor: for a shared machine")


def begin(given: argparse.Namespace, device: torch.device) -> Clock:
    """Sets the threads, prints the machine's line, and returns the clock that was asked for."""
    if given.threads:
        torch.set_num_threads(given.threads)
    print(machine(device, given.clock), flush=True)
    return CLOCKS[given.clock]
