"""The commands of docs/slurm.md are accepted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mapex_lightning.__main__ import main
from tests.slurm.cluster import Cluster
from tests.test_results import sweep

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")


def lines(start: str) -> list[str]:
    """The lines of code that begin so."""
    return [
        line
        for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
        for line in block.splitlines()
        if re.match(start, line)
    ]


def test_slurm_accepts_every_job_of_the_page(slurm: Cluster) -> None:
    found = lines(r"(\w+=\S+ |\w+=\".*?\" )*sbatch ")
    assert len(found) == 6
    for line in found:
        words = shlex.split(line)
        at = words.index("sbatch")
        more = dict(word.split("=", 1) for word in words[:at])
        done = slurm.call("sbatch", "--test-only", *words[at + 1 :], cwd=ROOT, more=more)
        assert "to start at" in done.stderr, line


def test_the_tables_of_the_page_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep(Path("runs"))
    for line in lines("mapex "):
        assert main(shlex.split(line)[1:]) == 0
    assert Path("sweep.csv").is_file()
