"""Every command and every line of Python in the README runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mapex_lightning.__main__ import main
from tests.workshop import SMALL, TILES

README = (Path(__file__).parents[1] / "README.md").read_text()
MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text()


def lines() -> list[str]:
    """The commands, in order, without their comments."""
    return [line.split("  #")[0].strip() for line in re.findall(r"^mapex .*$", README, re.MULTILINE)]


def small(line: str) -> list[str]:
    """The words of a command, on tiny synthetic tiles."""
    words = shlex.split(line)[1:]
    if words[0] in ("prune", "info") and "--config" not in words:
        return words
    sensors = "[s2]" if "eurosat.yaml" in words else "[s1, s2]"
    weights = ["--data.weights", "null", "--data.draws", "null"] if "real.yaml" in words else []
    return [*words, "--data.sets", TILES, "--data.modalities", sensors, *weights, *SMALL]


def test_the_commands_run_in_the_order_in_which_they_stand(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(lines()) >= 10
    monkeypatch.chdir(tmp_path_factory.mktemp("readme"))
    for line in lines():
        assert main(small(line)) == 0, line
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), found)
    shapes = {name: tuple(getattr(found[name], "shape", ())) for name in ("vectors", "grid")}
    assert shapes == {"vectors": (1, 128), "grid": (1, 128, 8, 8)}


def test_the_make_targets_it_names_exist() -> None:
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:.*##", MAKEFILE, re.MULTILINE), target


def test_the_files_it_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
