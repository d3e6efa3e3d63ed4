"""Run folders of an attacker: ``mapex results`` makes a table of them, or says in a sentence why one is not in it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mapex_lightning.__main__ import main
from tests import attacks
from tests.attacks import Place
from tests.test_malicious_configs import LAUGHS

ESCAPE = "\\u001b]0;owned\\u0007"
"""What renames the window of a terminal, in the words of JSON and YAML."""

HEALTHY = "model: {class_path: FineTune, init_args: {encoder: nano}}\ntrainer: {max_epochs: 3}\nseed_everything: 1\n"


def settings(text: str) -> Callable[[Path], object]:
    return lambda run: (run / "config.yaml").write_text(text)


def figures(text: str) -> Callable[[Path], object]:
    return lambda run: (run / "test.json").write_text(text)


def elsewhere(name: str, target: str) -> Callable[[Path], object]:
    def link(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)

    return link


def waiting(name: str) -> Callable[[Path], object]:
    def pipe(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return pipe


def long(name: str) -> Callable[[Path], object]:
    def grow(run: Path) -> None:
        with (run / name).open("ab") as file:
            file.truncate(2**40)  # a hole

    return grow


def log_alone(run: Path) -> Path:
    """A run that was not tested; the folder of its log."""
    (run / "test.json").unlink()
    (run / "csv").mkdir()
    return run / "csv"


ATTACKS: dict[str, Callable[[Path], object]] = {
    "a tag": settings("run: !!python/object/apply:os.system ['touch proof']"),
    "a tag with an escape": settings("run: !<tag:%1b%5d0;owned%07> 1"),
    "a truth that is none": settings("a: !!bool foo"),
    "a time that is none": settings("a: !!timestamp x"),
    "a number that is none": settings("a: !!int ''"),
    "a word many times": settings(f"a: &a {'x' * 100_000}\nrun: [{','.join(['*a'] * 1_000)}]"),
    "a billion laughs": settings(f"a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n{LAUGHS}run: *i"),
    "a list in itself": settings("data: &a [*a]"),
    "settings without an end": settings("run: " + "[" * 100_000),
    "settings of words": settings("just words"),
    "settings that are no text": lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe"),
    "an escape in a value": settings(HEALTHY + f'data: {{size: "{ESCAPE}"}}'),
    "an escape in a name": settings(HEALTHY + f'"{ESCAPE}": 1'),
    "half a pair in a value": settings(HEALTHY + 'data: {size: "\\ud800"}'),
    "a line of its own": settings(HEALTHY + 'data: {size: "1\\nmapex: all is well"}'),
    "a number without an end": settings(HEALTHY + f"data: {{size: 0x{'f' * 9_000}}}"),
    "no number": settings(HEALTHY + "data: {size: .nan, epochs: -.inf}"),
    "a date": settings(HEALTHY + "data: {size: 2001-01-01, more: !!binary aGk=, set: !!set {a, b}}"),
    "names that are none": settings(HEALTHY + "null: 1\n[1, 2]: 3\n2.5: {1: 2}"),
    "settings that lead to all there is": elsewhere("config.yaml", "/dev/zero"),
    "settings that are waited for": waiting("config.yaml"),
    "settings of a terabyte": long("config.yaml"),
    "figures in themselves": figures("[" * 100_000),
    "figures that are words": figures('{"test/accuracy": "=1+1", "other": [1], "true": true}'),
    "an escape in a figure's name": figures(f'{{"{ESCAPE}": 1.0, "\\ud800": 2.0}}'),
    "a figure without an end": figures(f'{{"test/accuracy": {"9" * 400}}}'),
    "a figure of more digits": figures(f'{{"test/accuracy": {"9" * 9_000}}}'),
    "a figure beyond all numbers": figures('{"test/accuracy": 1e308, "b": Infinity, "c": NaN, "d": -1e999}'),
    "figures that lead to secrets": elsewhere("test.json", "../../secret"),
    "figures that lead to all there is": elsewhere("test.json", "/dev/zero"),
    "figures that are waited for": waiting("test.json"),
    "figures of a terabyte": long("test.json"),
    "a log that is waited for": lambda run: waiting("metrics.csv")(log_alone(run)),
    "a log of a terabyte": lambda run: long("metrics.csv")(log_alone(run)),
    "a log without lines": lambda run: (log_alone(run) / "metrics.csv").write_bytes(b"epoch\n" + b"9" * 9_000),
    "a name with an escape": lambda run: run.rename(run.with_name("x\x1b]0;owned\x07\nmapex: all is well")),
    "a folder that leads elsewhere": lambda run: (run.with_name("z")).symlink_to("/proc/self"),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with attacks.planted(tmp_path, monkeypatch) as place:
        (tmp_path / "secret").write_text("a secret")
        for name in ("good", "other", "stranger"):
            run = tmp_path / "runs" / name
            run.mkdir(parents=True)
            settings(HEALTHY.replace("3", str(len(name))))(run)
            figures('{"test/accuracy": 0.5, "b": Infinity, "c": 1.0}')(run)
            (run / "last.ckpt").touch()
        yield place


@pytest.mark.parametrize("attack", ATTACKS)
def test_results_of_a_stranger_are_figures_or_a_sentence(
    attack: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    ATTACKS[attack](place.path / "runs/stranger")
    for words in ([], ["--json"], ["--csv", "table.csv"], ["good"]):
        assert main(["results", *words]) == 0
        said = capsys.readouterr()
        (said.out + said.err).encode()
        assert "\x1b" not in said.out + said.err
        assert "\nmapex: " not in said.out + said.err
        assert "a secret" not in said.out + said.err
        assert len(said.out) < 100_000
        if words == ["--json"]:
            groups = json.loads(said.out)["groups"]
            assert {"good", "other"} <= {run["run"] for group in groups for run in group["runs"]}
    with (place.path / "table.csv").open(newline="") as file:
        assert len({len(row) for row in csv.reader(file)}) == 1
    place.nothing_happened()


def test_a_run_that_is_not_there_is_refused_in_one_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.path / "runs/stranger").rename(place.path / "runs/x\x1b[2J\ny")
    assert main(["results", "nobody\x1b[2J"]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "\x1b" in said) == (1, False)
