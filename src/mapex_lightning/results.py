"""The figures of several runs in one table: grouped by the settings in which the runs differ, averaged over seeds."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from mapex_lightning.errors import MapexError
from mapex_lightning.files import LONGEST, read_text
from mapex_lightning.runs import BEST, EVALUATIONS, LAST, METRICS, RUNS
from mapex_lightning.settings import IDLE, SETTINGS, among, flat, read_settings
from mapex_lightning.text import aligned, indented, one_line, visible

FIGURES = tuple(f"{command}.json" for command in EVALUATIONS)
"""What ``mapex test`` and ``mapex validate`` leave in a run folder, of the run's own model."""

TAIL = 4096
"""Bytes at the end of the log in which its last line is."""

SEEDS = ("seed_everything", "data.seed", "model.seed")
"""Settings that say which of several equal runs it is."""

LARGEST = 1e100
"""Figures that are larger, or no numbers, have no mean; the same bound tells settings that are numbers from others."""

FIRST = ("model", "data.sets", "data.modalities", "model.encoder", "data.shots")
"""Settings that are looked at first for what tells runs apart, and those below them; then all others in their order."""

PACKAGE = __name__.partition(".")[0]

Value = str | int | float | bool | None
Settings = Mapping[str, Value]


class Missing(NamedTuple):
    """A run without figures.

    Attributes:
        run: its name.
        why: a clause that says what is missing and what to do.
    """

    run: str
    why: str


@dataclass(frozen=True)
class Run:
    """A run with figures.

    Args:
        name: its name.
        settings: all settings that may tell it apart, by name; see `mapex_lightning.settings`.
        figures: by name, such as ``test/accuracy``.
        when: when the figures were written, in seconds.
    """

    name: str
    settings: Settings
    figures: Mapping[str, float]
    when: float

    @property
    def seeds(self) -> tuple[Value, ...]:
        """Which of several equal runs it is."""
        return tuple(self.settings.get(name) for name in SEEDS)


class Figure(NamedTuple):
    """A figure of several runs.

    Attributes:
        mean: over the runs that have it.
        std: the standard deviation of a sample (divided by n - 1); None for a single run.
        runs: how many have it.
    """

    mean: float
    std: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """The figure of one value or more."""
        if not all(abs(value) < LARGEST for value in values):
            return cls(math.nan if len(values) > 1 else values[0], None, len(values))
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        """For people."""
        return f"{self.mean:.4f}" if self.std is None else f"{self.mean:.4f} ± {self.std:.4f}"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds at most.

    Args:
        settings: in which groups differ; all of them, by name.
        runs: one per seed.
    """

    settings: Settings
    runs: tuple[Run, ...]

    @property
    def figures(self) -> dict[str, Figure]:
        """Mean and spread of every figure that one of the runs has."""
        names = dict.fromkeys(name for run in self.runs for name in run.figures)
        return {name: Figure.of([run.figures[name] for run in self.runs if name in run.figures]) for name in names}


@dataclass(frozen=True)
class Results:
    """Groups of runs, and what is not in them.

    Args:
        groups: sorted by their settings.
        shown: the fewest settings that tell the groups apart.
        implied: settings that differ too, but only together with those.
        missing: runs without figures.
        repeated: runs that are left out, each with the later one of the same settings and seeds.
    """

    groups: tuple[Group, ...]
    shown: tuple[str, ...]
    implied: tuple[str, ...]
    missing: tuple[Missing, ...] = ()
    repeated: tuple[tuple[str, str], ...] = ()
    figures: tuple[str, ...] = field(init=False)
    """The names of all figures."""

    def __post_init__(self) -> None:
        names = dict.fromkeys(name for group in self.groups for name in group.figures)
        object.__setattr__(self, "figures", tuple(names))

    def table(self) -> str:
        """For people."""
        lines = self._rows() if self.groups else []
        if self.implied:
            lines += ["", f"These differ together with the settings above: {visible(', '.join(self.implied))}."]
        if self.repeated:
            lines += ["", "Left out, since a later run has the same settings and seeds:"]
            lines += indented([f"{run}: see {later}" for run, later in self.repeated])
        if self.missing:
            lines += ["", f"Without figures ({len(self.missing)}):"]
            lines += indented([f"{run}: {why}" for run, why in self.missing])
        return "\n".join(lines).strip("\n")

    def _rows(self) -> list[str]:
        rows = [[*self.shown, "seeds", *self.figures, "runs"]]
        for group in self.groups:
            figures = group.figures
            several = [f"+{len(group.runs) - 1}"] if len(group.runs) > 1 else []
            rows.append(
                [
                    *(_shown(group.settings[name]) for name in self.shown),
                    str(len(group.runs)),
                    *(str(figures[name]) if name in figures else "-" for name in self.figures),
                    " ".join([group.runs[0].name, *several]),
                ]
            )
        return aligned(rows, left=(*range(len(self.shown)), len(rows[0]) - 1))

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {
            "groups": [
                {
                    "settings": dict(group.settings),
                    "runs": [
                        {
                            "run": run.name,
                            "seeds": dict(zip(SEEDS, run.seeds, strict=True)),
                            "figures": {name: _finite(value) for name, value in run.figures.items()},
                        }
                        for run in group.runs
                    ],
                    "figures": {
                        name: {"mean": _finite(figure.mean), "std": figure.std, "runs": figure.runs}
                        for name, figure in group.figures.items()
                    },
                }
                for group in self.groups
            ],
            "missing": [missing._asdict() for missing in self.missing],
            "repeated": dict(self.repeated),
        }

    def rows(self) -> list[list[str]]:
        """A head and a row per group: all settings that differ, then mean, deviation and number of each figure."""
        differing = (*self.shown, *self.implied)
        head = [*differing, "seeds", *(f"{name}{part}" for name in self.figures for part in ("", " std", " runs"))]
        rows = [[*head, "runs"]]
        for group in self.groups:
            found = [group.figures.get(name) for name in self.figures]
            cells = [("", "", "0") if one is None else (one.mean, one.std, one.runs) for one in found]
            rows.append(
                [
                    *(_shown(group.settings[name]) for name in differing),
                    str(len(group.runs)),
                    *("" if cell is None else str(cell) for three in cells for cell in three),
                    " ".join(run.name for run in group.runs),
                ]
            )
        return rows


def gather(patterns: Sequence[str] = (), parent: Path = RUNS) -> Results:
    """The results of the runs whose names match.

    Args:
        patterns: names, with ``*`` and ``?`` as in a shell; none is all runs.
        parent: the folder of run folders.

    Raises:
        MapexError: there is no such run.
    """
    runs: list[Run] = []
    missing: list[Missing] = []
    for folder in _folders(patterns, parent):
        found = _read(folder)
        if isinstance(found, Run):
            runs.append(found)
        else:
            missing.append(found)
    differing = _differing([run.settings for run in runs])
    groups: dict[tuple[str, ...], dict[tuple[Value, ...], Run]] = {}
    repeated = []
    for run in sorted(runs, key=lambda run: run.when):
        equal = groups.setdefault(_key(run.settings, differing), {})
        if earlier := equal.pop(run.seeds, None):
            repeated.append((earlier.name, run.name))
        equal[run.seeds] = run
    shown = _fewest(differing, [next(iter(equal.values())).settings for equal in groups.values()])
    made = [
        Group(
            {name: next(iter(equal.values())).settings.get(name) for name in differing},
            tuple(sorted(equal.values(), key=lambda run: [_order(seed) for seed in run.seeds])),
        )
        for equal in groups.values()
    ]
    made.sort(key=lambda group: [_order(group.settings[name]) for name in shown])
    implied = tuple(name for name in differing if name not in shown)
    return Results(tuple(made), shown, implied, tuple(missing), tuple(repeated))


def _folders(patterns: Sequence[str], parent: Path) -> list[Path]:
    """The run folders that match, by name."""
    known = sorted(path for path in (parent.iterdir() if parent.is_dir() else ()) if _is_run(path))
    for pattern in patterns:
        if not any(fnmatchcase(path.name, pattern) for path in known):
            names = visible(", ".join(path.name for path in known)) or "none"
            raise MapexError(f"No run below {parent}/ is called {pattern!r}. Available: {names}.")
    if not known:
        raise MapexError(
            f"There is no run below {parent}/. mapex fit makes one; call mapex results in the same folder."
        )
    return [path for path in known if not patterns or any(fnmatchcase(path.name, pattern) for pattern in patterns)]


def _is_run(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in (SETTINGS, *FIGURES, BEST, LAST))


def _read(folder: Path) -> Run | Missing:
    """A run, or why it has no figures."""
    present = [folder / name for name in FIGURES if (folder / name).is_file()]
    if not present:
        trained = any((folder / name).is_file() for name in (BEST, LAST))
        why = "neither tested nor validated" if trained else "no checkpoint yet"
        return Missing(folder.name, f"{why}{_progress(folder)}")
    try:
        figures = {name: value for path in present for name, value in _figures(path).items()}
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        return Missing(folder.name, f"its figures cannot be read ({one_line(error)}); test it again")
    try:
        settings = flat(read_settings(folder))
    except FileNotFoundError:
        return Missing(folder.name, f"no {SETTINGS}, so its settings are not known")
    except MapexError as error:
        return Missing(folder.name, f"its {SETTINGS} cannot be read ({one_line(error.__cause__ or error)})")
    its = {name: _plain(value) for name, value in settings.items() if not among(name, IDLE)}
    return Run(folder.name, its, figures, max(path.stat().st_mtime for path in present))


def _progress(folder: Path) -> str:
    """How far a run has come, by its settings and the end of its log; nothing where they do not tell."""
    try:
        limit = read_settings(folder)["trainer"]["max_epochs"]
        if not (folder / METRICS).is_file():
            return ""
        with (folder / METRICS).open("rb") as file:
            at = file.readline(LONGEST).decode().strip().split(",").index("epoch")
            file.seek(max(file.tell(), file.seek(0, os.SEEK_END) - TAIL))
            cells = [line.split(b",")[at:] for line in reversed(file.read().splitlines())]
        epoch = next(int(float(first)) for first, *_ in filter(None, cells) if first)
    except (OSError, ValueError, OverflowError, LookupError, TypeError, StopIteration, MapexError):
        return ""
    return f", and came as far as epoch {epoch + 1}{f' of {limit}' if limit else ''}"


def _figures(path: Path) -> dict[str, float]:
    """The numbers of a file of figures."""
    read = json.loads(read_text(path))
    if not isinstance(read, dict):
        raise ValueError(f"{path.name} holds no figures")
    return {name: float(value) for name, value in read.items() if type(value) in (int, float)}


def _plain(value: Any) -> Value:
    """A setting as it is compared and shown: a list as one text, and of a class of ours its name alone."""
    if isinstance(value, list):
        return ",".join(map(_shown, value))
    if isinstance(value, str) and value.startswith(f"{PACKAGE}."):
        return value.rpartition(".")[2]
    if value is None or isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) < LARGEST):
        plain: Value = value
        return plain
    return f"{value:#x}"[:80] if isinstance(value, int) else str(value)  # such as a date, or what is no number


def _differing(runs: Sequence[Settings]) -> list[str]:
    """The settings that are not the same in all runs, the telling ones first, without seeds."""
    names = dict.fromkeys(name for settings in runs for name in settings if name not in SEEDS)
    found = [name for name in names if len({_shown(settings.get(name)) for settings in runs}) > 1]
    return sorted(found, key=_rank)


def _rank(name: str) -> int:
    return next((rank for rank, first in enumerate(FIRST) if name == first or _member(name, first)), len(FIRST))


def _member(name: str, of: str) -> bool:
    """Whether it is an entry of a list of classes."""
    return name.startswith(f"{of}.") and name.removeprefix(f"{of}.").isdecimal()


def _fewest(names: Sequence[str], groups: Sequence[Settings]) -> tuple[str, ...]:
    """Those names, in order, each of which tells groups apart that the ones before it do not."""
    chosen: list[str] = []
    parts = 1
    for name in names:
        divided = len({_key(settings, [*chosen, name]) for settings in groups})
        if divided > parts:
            chosen.append(name)
            parts = divided
    return tuple(chosen)


def _key(settings: Settings, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(_shown(settings.get(name)) for name in names)


def _shown(value: Value) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _order(value: Value) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, _shown(value))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
