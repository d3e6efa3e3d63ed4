"""Run folders: where a run keeps what it makes, and how a later command finds it again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mapex_lightning.errors import MapexError
from mapex_lightning.files import local

RUNS = Path("runs")
"""The folder, below the current one, that holds a folder per run."""

UNASKED = "hpc_ckpt_"
"""What the names of checkpoints begin with that Lightning looks for under Slurm, whoever wrote them."""

BEST, LAST, PRUNED = "best.ckpt", "last.ckpt", "pruned.ckpt"
"""The checkpoints in a run folder; its settings are `mapex_lightning.settings.SETTINGS`."""

EVALUATIONS = ("test", "validate")
"""Commands whose figures a run folder keeps: ``test.json`` of its own model, ``test-NAME.json`` of any other."""

SHOWN = 8
"""How many checkpoints are named where one is not found; a folder may hold hundreds of runs."""

METRICS = "csv/metrics.csv"
"""The figures that a run logs, in its folder."""


def runs_of(name: str, parent: Path = RUNS) -> list[Path]:
    """The folders of the runs of that name, ``name``, ``name-2``, ..., the newest first."""
    pattern = re.compile(rf"{re.escape(name)}(-(\d+))?")
    numbered = [
        (int(found[2] or 1), folder)
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if folder.is_dir() and (found := pattern.fullmatch(folder.name))
    ]
    return [folder for _, folder in sorted(numbered, reverse=True)]


def new_run(name: str, parent: Path = RUNS) -> Path:
    """The folder for a new run of that name; it does not exist yet.

    Raises:
        MapexError: the name is not a plain word.
    """
    check_name(name)
    earlier = runs_of(name, parent)
    if not earlier:
        return parent / name
    newest = re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", earlier[0].name)
    assert newest is not None
    return parent / f"{name}-{int(newest[1] or 1) + 1}"


def check_name(name: str) -> None:
    """Makes sure that a run's name leads to a folder below that of all runs.

    Raises:
        MapexError: it is not a plain word.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise MapexError(f"A run's name is letters, digits, '-', '_' and '.'; found {name!r}.")


def check_nothing_planted(folder: Path) -> None:
    """Makes sure that a run folder holds nothing that Lightning would load unasked: under Slurm it takes what it finds.

    Raises:
        MapexError: it does.
    """
    for file in sorted(folder.glob(f"{UNASKED}*")):
        raise MapexError(f"{file} is none of mapex, and Lightning would go on from it unasked. Move it elsewhere.")


def find_checkpoint(wanted: str | Path, parent: Path = RUNS) -> Path:
    """A checkpoint by path, or by a bare file name in the newest run that has it.

    Args:
        wanted: such as ``runs/pretrain/last.ckpt``, or ``last.ckpt``.
        parent: the folder of run folders.

    Raises:
        MapexError: there is no such file, and the sentence lists the newest checkpoints; or it is a URL.
    """
    path = local(wanted)
    if path.exists():
        return path
    if path.name == str(wanted):
        found = _newest_first(parent.glob(f"*/{path.name}"))
        if found:
            return found[0]
    newest = _newest_first(parent.glob("*/*.ckpt"))
    known = ", ".join(str(file) for file in newest[:SHOWN]) or f"none below {parent}/"
    more = f" and {len(newest) - SHOWN} older ones" if len(newest) > SHOWN else ""
    raise MapexError(
        f"There is no checkpoint {wanted}. Available: {known}{more}. Give a path with --ckpt, or "
        "make one: mapex fit with a config such as pretrain.yaml writes last.ckpt, and mapex prune writes pruned.ckpt."
    )


def _newest_first(files: Iterable[Path]) -> list[Path]:
    """Those that are there: a link may lead to nothing."""
    return sorted((file for file in files if file.is_file()), key=lambda file: file.stat().st_mtime, reverse=True)


def model_of(folder: Path) -> Path | None:
    """The checkpoint by which a run is judged: its best, else its last; None where it has neither."""
    return next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)


def own_checkpoint(name: str, parent: Path = RUNS, *, exactly: bool = False) -> Path:
    """The model of the newest run of that name that has one.

    Args:
        name: of the run.
        parent: the folder of run folders.
        exactly: do not take ``name-2`` for a newer run of that name.

    Raises:
        MapexError: there is none; evaluating random weights is never what one wants.
    """
    for folder in [parent / name] if exactly else runs_of(name, parent):
        if model := model_of(folder):
            return model
    raise MapexError(
        f"There is no trained model of the run {name!r} below {parent}/, and random weights are not evaluated. "
        "Give one with --ckpt PATH, or run mapex fit with this config first."
    )
