"""The door answers at once and refuses in sentences."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
from torch.utils.data import DataLoader, Dataset

from mapex_lightning import __version__
from mapex_lightning.__main__ import COMMANDS, main
from mapex_lightning.errors import STOPPED

LIGHT = """
import sys
from mapex_lightning.__main__ import main
code = main({words!r})
heavy = {{"torch", "lightning", "timm", "rasterio", "jsonargparse"}} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["fitt"], *([name, "--help"] for name in COMMANDS)])
def test_help_version_and_typos_import_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT.format(words=words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == (2 if words == ["fitt"] else 0), done.stderr


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mapex {__version__}\n"


def test_a_typo_gets_the_nearest_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prun"]) == 2
    assert "Did you mean 'prune'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_people(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: mapex {command}")
    assert max(map(len, out.splitlines())) <= 120


def test_what_is_stopped_by_hand_says_so_and_no_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(words: Sequence[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mapex_lightning.commands.tiles.run", stopped)
    assert main(["tiles"]) == STOPPED
    assert capsys.readouterr().err == "mapex: stopped\n"


class Fatal(Dataset[int]):
    """Ends the process that reads it, as a system does that is short of memory."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return at


def test_a_reading_process_that_was_killed_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mapex_lightning.commands.tiles.run", lambda words: list(DataLoader(Fatal(), num_workers=1)))
    assert main(["tiles"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mapex: A process that reads data was ended from outside (DataLoader worker")
    assert "fewer of them" in said
    assert "Traceback" not in said


class Stuck(Dataset[int]):
    """Never reads anything, as where a network file system has gone."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: int) -> int:
        time.sleep(2)
        return at


def test_reading_that_hangs_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: Sequence[str]) -> None:
        list(DataLoader(Stuck(), num_workers=1, timeout=0.2))

    monkeypatch.setattr("mapex_lightning.commands.tiles.run", run)
    assert main(["tiles"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mapex: No process that reads data has brought a batch in time (DataLoader timed out after")
    assert "data.timeout" in said
    assert "Traceback" not in said


STACKS = """
import os, signal, sys, time, types
from mapex_lightning.__main__ import main
def run(words):
    child = os.fork()
    time.sleep(0.2)
    os.kill(child or os.getpid(), signal.SIGUSR2)
    time.sleep(0.2)
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print("goes on", flush=True)
sys.modules["mapex_lightning.commands.tiles"] = types.SimpleNamespace(run=run)
sys.exit(main(["tiles"]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="the platform lacks the signal")
def test_sigusr2_shows_the_stacks_of_a_process_and_of_those_it_has_forked_and_nothing_else_happens() -> None:
    done = subprocess.run([sys.executable, "-c", STACKS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "goes on\n"
    assert done.stderr.count("most recent call first") == 2
    assert done.stderr.count("in run\n") == 2


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(words: Sequence[str]) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("mapex_lightning.commands.tiles.run", faulty)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["tiles"])
