"""How `mapex fit` starts: in which run folder, from which checkpoint, and whether a run of that name goes on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mapex_lightning.checkpoint import read
from mapex_lightning.cli.words import CONFIG
from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.lock import locked
from mapex_lightning.runs import LAST, RUNS, check_name, new_run
from mapex_lightning.settings import IDLE, SETTINGS, among, flat, read_settings
from mapex_lightning.train.last import Sharing
from mapex_lightning.train.log import cut

RUN_FOLDER = "MAPEX_RUN_FOLDER"
"""Environment variable by which the processes of one run agree on its folder."""

FREE = (
    *(*IDLE, "ckpt", "compile"),
    *(f"data.{name}" for name in ("predict", "scene", "reading", "overlap")),
    *(f"trainer.{name}" for name in ("accelerator", "strategy", "devices", "num_nodes", "plugins", "callbacks")),
    *(f"trainer.{name}" for name in ("logger", "log_every_n_steps", "profiler", "default_root_dir", "max_time")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")),
    *(f"trainer.{name}" for name in ("num_sanity_val_steps", "detect_anomaly", "deterministic", "benchmark")),
)
"""Settings in which a run that goes on may differ from how it began; the processes are looked at by `check_processes`.
"""

TOGETHER = ("data.batch_size", "trainer.accumulate_grad_batches")
"""Settings that may differ if the number of processes does."""

SLURM_WAITS = 300
"""Seconds for which a job that Slurm has put back into the queue waits for the end of its earlier self.

A file server may keep the lock of a node that is lost for as long as its lease lasts, some minutes at most by default.
"""


class Start(NamedTuple):
    """What `mapex fit` begins with.

    Args:
        folder: of the run.
        last: the checkpoint in it from which the run goes on; None where it begins.
        seen: what tells that checkpoint from a later one.
        step: how many steps the run has taken.
        place: where in an epoch it stands; see `mapex_lightning.data.module.TileData.state_dict`.
        noted: what `mapex_lightning.train.last.Last` has noted in it.
        complete: whether there is nothing left to do.
    """

    folder: Path
    last: Path | None = None
    seen: tuple[int, ...] = ()
    step: int = 0
    place: Mapping[str, int] = MappingProxyType({})
    noted: Mapping[str, Any] = MappingProxyType({})
    complete: bool = False


def with_settings(words: list[str]) -> list[str]:
    """The words, with the settings of the run that they name where they name no config.

    Raises:
        MapexError: there is no such run.
    """
    given = {word.split("=")[0] for word in words}
    if given & {"--help", *CONFIG} or "--run" not in given:
        return words
    at = next(number for number, word in enumerate(words) if word.split("=")[0] == "--run")
    name = words[at].partition("=")[2] or next(iter(words[at + 1 :]), "")
    check_name(name)
    path = RUNS / name / SETTINGS
    if not path.is_file():
        raise MapexError(
            f"There is no run {name!r} to go on with: {path} does not exist. Begin it with a config, such as: "
            f"mapex fit --config pretrain.yaml --run {name}."
        )
    read_settings(path.parent)
    return ["--config", str(path), *words]


def start_of(given: Mapping[str, Any], name: str) -> Start:
    """Decides about the run folder.

    Args:
        given: all settings, as `mapex_lightning.settings.flat` gives them.
        name: of the run where no ``--run`` is given.

    Raises:
        MapexError: a run of this name was started with other settings, or its checkpoint cannot be read.
    """
    if not given["run"]:
        return Start(Path(os.environ.setdefault(RUN_FOLDER, str(new_run(name)))))
    check_name(given["run"])
    folder = RUNS / given["run"]
    last = folder / LAST
    if not last.is_file():
        if last.is_symlink() or last.exists():
            raise MapexError(f"{last} is no file, so the run {folder.name} cannot go on. Move it elsewhere.")
        return Start(folder)
    seen = _seen(last)
    checkpoint = read(last)
    if "loops" not in checkpoint:
        raise MapexError(
            f"{last} holds weights only, so the run {folder.name} cannot go on. Begin another run from it: "
            f"--ckpt {last} --run NAME."
        )
    if (folder / SETTINGS).is_file():
        check_same(folder, given)
    none: Mapping[str, Any] = {}
    try:
        noted = next((state for state in checkpoint["callbacks"].values() if "sharing" in state), none)
        place, complete = place_of(checkpoint), is_complete(checkpoint, given)
        return Start(folder, last, seen, checkpoint["global_step"], place, noted, complete)
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise MapexError(
            f"{last} does not say how far the run is, as one that mapex fit wrote does. The file was altered; begin "
            "another run."
        ) from error


def place_of(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Where in an epoch the run of a checkpoint stands."""
    place = checkpoint.get(TileData.__qualname__, {})
    return dict(place) if isinstance(place, dict) else {}  # what is none is refused by `check_resumable`


def check_same(folder: Path, given: Mapping[str, Any]) -> None:
    """Makes sure that a run goes on as it began.

    Raises:
        MapexError: a setting that matters differs.
    """
    before = flat(read_settings(folder))
    free = {*FREE, *TOGETHER} | ({"model.encoder"} if before.get("ckpt") else set())
    differing = [
        name for name in sorted({*before, *given}) if before.get(name) != given.get(name) and not among(name, free)
    ]
    if differing:
        name = differing[0]
        others = ", ".join(differing[1:6])
        more = f" {others} {'differ' if differing[2:] else 'differs'} too." if others else ""
        raise MapexError(
            f"The run {folder.name} was started with {name} {_shown(before.get(name))}, and now it is "
            f"{_shown(given.get(name))}.{more} Go on as it was started (mapex fit --run {folder.name} takes its own "
            f"settings), or begin another run from it: --run NAME --ckpt {folder / LAST}."
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def is_complete(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a run has taken all of its steps or epochs, or was ended early by its figures."""
    steps, epochs = settings["trainer.max_steps"], settings["trainer.max_epochs"]
    done: Any = checkpoint
    for name in ("loops", "fit_loop", "epoch_progress", "current", "processed"):
        if not isinstance(done, Mapping):  # a tensor would be asked for its elements
            raise TypeError(name)
        done = done[name]
    if any(state.get("stopped_epoch") for state in checkpoint["callbacks"].values()):  # EarlyStopping
        least = settings["trainer.min_steps"] or 0, settings["trainer.min_epochs"] or 0
        return bool(checkpoint["global_step"] >= least[0] and done >= least[1])
    return (steps not in (None, -1) and checkpoint["global_step"] >= steps) or (
        epochs not in (None, -1) and done >= epochs
    )


def check_processes(start: Start, given: Mapping[str, Any], world: int) -> str | None:
    """Makes sure that a run that goes on takes the same steps, on as many processes or on others.

    Args:
        start: of the run.
        given: all settings.
        world: the number of processes.

    Returns:
        A line for the user where the number has changed.

    Raises:
        MapexError: a step would be of more or fewer tiles, so that neither data nor learning rate would go on.
    """
    if not start.noted:
        return None
    was, now = start.noted["sharing"], Sharing(world, *(given[name] for name in TOGETHER))._asdict()
    if was == now:
        return None
    step, wanted = math.prod(now.values()), math.prod(was.values())
    if world == was["world"] or step != wanted:
        raise MapexError(
            f"The run {start.folder.name} takes {wanted} tiles per step ({_counts(was)}), and now it would be {step} "
            f"({_counts(now)}). Go on with as many processes, or on others with a data.batch_size or "
            "trainer.accumulate_grad_batches that makes as many tiles per step."
        )
    together = now["world"] * now["batch_size"]
    if start.place.get("batches") and together != was["world"] * was["batch_size"]:
        raise MapexError(
            f"The run {start.folder.name} stands in the middle of an epoch, in which {was['world'] * was['batch_size']}"
            f" tiles were taken together; now it would be {together} (data.batch_size on all processes). Go on with as "
            "many."
        )
    return (
        f"{_counts(now)} instead of {_counts(was)}: the same tiles per step, whose noise is drawn per process, so that "
        "losses will not be equal to the bit to those of a run without the change"
    )


def _counts(sharing: Mapping[str, int]) -> str:
    world, size, times = sharing.values()
    return f"{world} process{'es' * (world > 1)} x {size} tiles{f' x {times} batches' * (times > 1)}"


@contextmanager
def begun(start: Start) -> Iterator[None]:
    """Holds the run folder for this process, and cuts the log to where the checkpoint was written.

    Raises:
        MapexError: another process works on the run, or has worked on it since `start_of` looked.
    """
    with locked(start.folder, SLURM_WAITS if "SLURM_RESTART_COUNT" in os.environ else 0):
        last = start.folder / LAST
        if (_seen(last) if last.is_file() else ()) != start.seen:
            raise MapexError(f"Another process has worked on the run {start.folder.name} meanwhile; start again.")
        if start.last is None or start.noted:
            cut(start.folder, start.noted.get("log", {}))
        yield


def _seen(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
