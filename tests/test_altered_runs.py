"""Runs whose checkpoint or folder was altered: they go on or are refused in a sentence, and nothing is lost."""

from __future__ import annotations

import csv
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import read, save
from mapex_lightning.modality import modalities
from tests import attacks
from tests.attacks import Place, saved
from tests.builders import config_of, encoder_of
from tests.workshop import SMALL, TILES

PRETRAIN = ["--config", "pretrain.yaml", "--data.sets", TILES, *SMALL, "--trainer.max_epochs", "2"]
PRETRAIN += ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--model.encoder", "tiny.ckpt"]

WAYS = {
    "info": ["info", "FILE"],
    "prune": ["prune", "--ckpt", "FILE", "--keep", "s1", "--out", "pruned.ckpt"],
    "fit --ckpt": ["fit", *PRETRAIN, "--ckpt", "FILE", "--run", "other"],
    "fit --run": ["fit", "--run", "mine"],
}
"""What is done with the checkpoint."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 10**9, 10**30, 0.5, -1.0, float("nan"), float("inf")),
    *("", "evil.Touch", "9" * 40, [], [1], {}, {"evil": 1}, [{}], [[]]),
    *(torch.zeros(3), torch.tensor(7), torch.tensor(float("nan")), torch.zeros(0), torch.zeros(2, 2, dtype=torch.bool)),
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, of a tiny encoder, that can go on."""
    folder = tmp_path_factory.mktemp("healthy")
    save(encoder_of(config_of((2, 0), modalities(["s1", "s2", "rgb", "dem"]))), folder / "tiny.ckpt")
    with chdir(folder):
        assert main(["fit", *PRETRAIN, "--trainer.max_epochs", "1", "--run", "mine"]) == 0
    settings = folder / "runs/mine/config.yaml"
    settings.write_text(settings.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    return folder


@pytest.fixture
def place(tmp_path: Path, healthy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with attacks.planted(tmp_path, monkeypatch) as place:
        shutil.copytree(healthy, tmp_path, dirs_exist_ok=True)
        yield place


def places(value: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested tables and lists, by the keys that lead to it."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


def mutated(content: dict[str, Any], seed: int) -> tuple[dict[str, Any], str]:
    """A checkpoint with one part replaced, removed, doubled or added to, and what was done."""
    draw = random.Random(seed)
    altered = deepcopy(content)
    parts = ["mapex", "loops", "callbacks", "optimizer_states", "lr_schedulers", "TileData", "state_dict", ""]
    part = draw.choice(parts)
    found = list(places(altered[part], (part,))) if part else [(name,) for name in altered]
    *way, last = draw.choice(found)
    inside: Any = altered
    for key in way:
        inside = inside[key]
    match draw.choice(["replace", "replace", "replace", "remove", "add", "swap"]):
        case "replace":
            value = draw.choice(VALUES)
            inside[last], did = value, f"became {value!r}"
        case "remove":
            del inside[last]
            did = "was removed"
        case "add":
            more: Any = inside[last]
            if isinstance(more, dict):
                more[draw.choice([1, "evil", "step", "state"])] = draw.choice(VALUES)
            elif isinstance(more, list):
                more.append(draw.choice(VALUES))
            did = "was added to"
        case _:
            *other, end = draw.choice(found)
            value = altered
            for key in (*other, end):
                value = value[key]
            inside[last], did = deepcopy(value), f"became what stands under {(*other, end)}"
    return altered, f"{(*way, last)} {did}"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def attempt(way: str, content: dict[str, Any], place: Place, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and what was said; a refusal is one sentence and leaves everything as it was."""
    file = place.path / ("runs/mine/last.ckpt" if way == "fit --run" else "evil.ckpt")
    saved(content, file)
    before = contents(place.path)
    code = main([str(file) if word == "FILE" else word for word in WAYS[way]])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if code:
        assert (code, said.count("\n"), said[:7]) == (2, 1, "mapex: ")
        assert contents(place.path) == before
    place.nothing_happened()
    return code, said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 200))])
def test_an_altered_checkpoint_is_used_or_refused_in_a_sentence(
    seed: int, way: str, healthy: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    content, did = mutated(read(healthy / "runs/mine/last.ckpt"), seed)
    print(did)
    attempt(way, content, place, capsys)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_checkpoint_unaltered_is_used(
    way: str, healthy: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attempt(way, read(healthy / "runs/mine/last.ckpt"), place, capsys) == (0, "")


def linked(path: Path) -> None:
    """In place of a file, a link to one that is precious."""
    path.unlink(missing_ok=True)
    path.symlink_to(Path.cwd() / "precious")


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def without_log(run: Path) -> None:
    for folder in ("csv", "tensorboard"):
        shutil.rmtree(run / folder)
    (run / "routing.csv").unlink()


def events(run: Path) -> Path:
    return next((run / "tensorboard").glob("events.out.tfevents.*"))


ALTERATIONS: dict[str, Callable[[Path], object]] = {
    "settings that are no YAML": lambda run: (run / "config.yaml").write_text("trainer: [unclosed"),
    "settings that are a list": lambda run: (run / "config.yaml").write_text("[1, 2]"),
    "settings that are empty": lambda run: (run / "config.yaml").write_text(""),
    "settings of numbers": lambda run: (run / "config.yaml").write_text("1: 2"),
    "settings that are no text": lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"),
    "settings of another model": lambda run: (run / "config.yaml").write_text("model: {class_path: evil.Touch}"),
    "settings that are a folder": lambda run: as_folder(run / "config.yaml"),
    "settings with a tag": lambda run: (run / "config.yaml").write_text("run: !!python/name:evil.touch"),
    "a lock that is a folder": lambda run: as_folder(run / ".lock"),
    "a lock that leads elsewhere": lambda run: linked(run / ".lock"),
    "a checkpoint that is a folder": lambda run: as_folder(run / "last.ckpt"),
    "metrics that are no text": lambda run: (run / "csv/metrics.csv").write_bytes(b"\xff\xfe,\x00\n" * 20),
    "metrics of another shape": lambda run: (run / "csv/metrics.csv").write_text("a,b\n1,2,3\n"),
    "metrics that name a figure twice": lambda run: (run / "csv/metrics.csv").write_text("a,a\n1,2\n"),
    "metrics that are a folder": lambda run: as_folder(run / "csv/metrics.csv"),
    "metrics that lead elsewhere": lambda run: linked(run / "csv/metrics.csv"),
    "metrics in a file": lambda run: as_file(run / "csv"),
    "routing that is a folder": lambda run: as_folder(run / "routing.csv"),
    "routing that leads elsewhere": lambda run: linked(run / "routing.csv"),
    "curves that are a folder": lambda run: as_folder(events(run)),
    "curves that lead elsewhere": lambda run: linked(events(run)),
    "curves in a file": lambda run: as_file(run / "tensorboard"),
}

FAST = ("settings that are no YAML", "a lock that leads elsewhere", "metrics that are no text", "curves in a file")


@pytest.mark.parametrize(
    "alteration", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ALTERATIONS]
)
def test_an_altered_run_does_not_go_on_and_loses_nothing(
    alteration: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.path / "precious").write_text("precious")
    ALTERATIONS[alteration](place.path / "runs/mine")
    before = contents(place.path)
    code, said = main(WAYS["fit --run"]), capsys.readouterr().err
    assert (code, said.count("\n"), said[:7]) == (2, 1, "mapex: ")
    assert contents(place.path) == before
    place.nothing_happened()


SHORTENED: dict[str, Callable[[Path], object]] = {
    "no log": without_log,
    "an empty log": lambda run: [file.write_bytes(b"") for file in (run / "csv/metrics.csv", events(run))],
    "half a line": lambda run: os.truncate(run / "csv/metrics.csv", (run / "csv/metrics.csv").stat().st_size - 3),
    "a lock that is no text": lambda run: (run / ".lock").write_bytes(b"\xff\xfe\x00"),
    "noise for curves": lambda run: events(run).write_bytes(b"\xff" * 1000),
}
"""What a crash of the machine can leave."""


@pytest.mark.slow
@pytest.mark.parametrize("loss", SHORTENED)
def test_a_run_goes_on_whatever_a_crash_has_left_of_its_log(loss: str, place: Place) -> None:
    SHORTENED[loss](place.path / "runs/mine")
    assert main(WAYS["fit --run"]) == 0
    with (place.path / "runs/mine/csv/metrics.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert rows
    assert all(len(row) == len(head) for row in rows)
