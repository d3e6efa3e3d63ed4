"""The door answers at once and refuses in sentences."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mapex_lightning import __version__
from mapex_lightning.__main__ import COMMANDS, main

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
