"""The log of a run in its folder, as files that only grow, so that a run that goes on can cut them to where it was."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_whole
from mapex_lightning.runs import METRICS

ROUTING, EVENTS = "routing.csv", "tensorboard/events.out.tfevents.*"
"""The files of the log beside `METRICS`, below the folder of the run."""

BUFFERED = 100
"""Lines of the metrics that are kept in memory at most."""


def lengths(folder: Path) -> dict[str, int]:
    """How long every file of a run's log is now: lines of a table, whose header may grow, and bytes of others."""
    return {file.relative_to(folder).as_posix(): _length(file) for file in _files(folder)}


def cut(folder: Path, noted: Mapping[str, int]) -> None:
    """Takes away from a run's log what was written later than `lengths` has noted, files that are newer included.

    All of it is looked at before the first file is changed.

    Raises:
        MapexError: a file is none that a run could go on writing.
    """
    for place in {Path(name).parent for name in (METRICS, EVENTS)}:
        if (folder / place).exists() and not (folder / place).is_dir():
            raise _strange(folder / place, "it is no folder")
    kept = {file: noted.get(file.relative_to(folder).as_posix(), 0) for file in _files(folder)}
    for file in kept:
        if file.is_symlink() or not file.is_file():
            raise _strange(file, "it is no plain file")
    lines = {file: _kept_lines(file, length) for file, length in kept.items() if file.suffix == ".csv"}
    if folder / METRICS in lines:
        _check_table(folder / METRICS, lines[folder / METRICS])
    for file, length in kept.items():
        if length == 0:
            file.unlink()
        elif file in lines:
            text = b"".join(lines[file])
            if len(text) < file.stat().st_size:
                write_whole(file, partial(_write_bytes, text))
        elif file.stat().st_size > length:
            os.truncate(file, length)


def _kept_lines(file: Path, count: int) -> list[bytes]:
    """The first lines of a table; after a crash of the machine there may be fewer, and half of one."""
    lines = file.read_bytes().splitlines(keepends=True)[:count]
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]


def _check_table(file: Path, lines: Sequence[bytes]) -> None:
    """Makes sure that a table can be written anew with a longer header."""
    try:
        rows = list(csv.reader((line.decode() for line in lines), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _strange(file, str(error)) from error
    if rows and (len(set(rows[0])) < len(rows[0]) or any(len(row) != len(rows[0]) for row in rows)):
        raise _strange(file, "its rows have not a cell for each name in the first")


def _strange(path: Path, why: str) -> MapexError:
    return MapexError(
        f"{path} is no log that a run of mapex wrote and could go on with: {why}. Move it elsewhere; the run then "
        "begins another."
    )


def _files(folder: Path) -> list[Path]:
    return sorted(file for pattern in (ROUTING, METRICS, EVENTS) for file in folder.glob(pattern))


def _write_bytes(text: bytes, path: Path) -> None:
    path.write_bytes(text)


def _length(file: Path) -> int:
    if file.suffix != ".csv":
        return file.stat().st_size
    with file.open("rb") as lines:
        return sum(line.endswith(b"\n") for line in lines)


class Metrics(Logger):
    """Figures as a table, a line each time some are logged, that goes on where it stands.

    Lightning's own of the same form deletes what it finds.

    Args:
        path: of the table.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.waiting: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """What Lightning calls the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one per run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The settings of a run are in its ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds a line."""
        self.waiting.append({**{name: float(value) for name, value in metrics.items()}, "step": step})
        if len(self.waiting) >= BUFFERED:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes the lines that wait. New names make the header longer, and the table is written anew."""
        if not self.waiting:
            return
        old = self._header()
        names = sorted({*old, *(name for line in self.waiting for name in line)})
        if names == old:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, names).writerows(self.waiting)
        else:
            write_whole(self.path, lambda beside: self._write_anew(beside, names))
        self.waiting = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the lines that wait."""
        self.save()

    def _header(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    def _write_anew(self, beside: Path, names: list[str]) -> None:
        lines: list[dict[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.DictReader(file))
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows([*lines, *self.waiting])
