"""The command ``mapex pack``: tiles of a config as a store that is read at the speed of memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mapex_lightning.commands.parser import Parser
from mapex_lightning.errors import MapexError

GIGABYTE = 10**9

SECONDS = 10.0
"""Between two lines of progress where stdout is no terminal."""


def run(words: Sequence[str]) -> None:
    """Packs the tiles that the words after ``mapex pack`` describe.

    Raises:
        MapexError: a word or a setting is wrong, a tile cannot be packed, or the folder cannot be written to.
    """
    parser = Parser("pack", ckpt=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--file-size", type=float, default=2.0)
    known, settings = parser.read(list(words))
    if not known.config:
        raise MapexError("mapex pack needs a config, such as: mapex pack --config eurosat.yaml --out DIR.")
    if known.ckpt:
        raise MapexError("mapex pack needs no checkpoint; leave --ckpt out.")
    if not known.file_size > 0:
        raise MapexError(f"--file-size is a number of gigabytes above 0; found {known.file_size:g}.")
    from mapex_lightning.cli.building import data_of
    from mapex_lightning.data.packed.packing import Packing, pack

    data = data_of("pack", settings)
    names = [type(source).__name__ for source in data.sets]
    for number, source in enumerate(data.sets):
        twin = f"-{names[:number].count(names[number]) + 1}" if names.count(names[number]) > 1 else ""
        out = known.out if len(names) == 1 else known.out / f"{names[number]}{twin}"
        offered = tuple(modality for modality in data.modalities if source.offers(modality))
        if not offered:
            raise MapexError(f"{names[number]} offers none of data.modalities; leave it out of data.sets.")
        packing = Packing(source, offered, out, known.size, data.workers, int(known.file_size * GIGABYTE))
        with _progress(f"{names[number]} -> {out}") as told:
            index = pack(packing, told)
        stored = ", ".join(f"{name} {files.dtype}" for name, files in index.sensors.items())
        print(f"{out}: {stored}", flush=True)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and elsewhere a line every few seconds."""
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task(title)
            yield lambda done, of: bar.update(task, completed=done, total=of)
        return
    started = printed = time.monotonic()
    before: int | None = None

    def line(done: int, of: int) -> None:
        nonlocal printed, before
        now = time.monotonic()
        before = done if before is None else before  # what an earlier run has packed is no speed of this one
        if now - printed > SECONDS or done == of:
            printed = now
            speed = (done - before) / max(now - started, 1e-9)
            print(f"{title}  {done}/{of} tiles  {speed:.0f} tiles/s", flush=True)

    yield line
