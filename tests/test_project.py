"""What the files around the code promise: they fit each other, and fit any machine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mapex_lightning import __version__

ROOT = Path(__file__).parents[1]
PYPROJECT_TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYPROJECT: dict[str, Any] = tomllib.loads(PYPROJECT_TEXT)

# One letter of each word stands in brackets, so that this file is not its own finding.
MACHINE = re.compile(
    r"""
      (?<![\w.$}~-])/(?:wor[k]|roo[t]|far[m]|opt/wheel[s]|hom[e]/\w|User[s]/\w|bash_job[s])/?
    | [A-Z]:\\+User[s]
    | fil[e]:///\w
    | pyp[i]\.org | pythonhoste[d] | tes[t]\.pypi | anacond[a]\.org | registr[y]\.npmjs | de[b]\.debian
    | downloa[d]\.pytorch | inde[x]-url | fin[d]-links
    """,
    re.VERBOSE,
)


def project_files() -> list[Path]:
    """What git tracks, and what it would track at the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def requirements() -> list[str]:
    """Every requirement of pyproject.toml, as written: to build, to run and of every extra."""
    project = PYPROJECT["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    return [*PYPROJECT["build-system"]["requires"], *project["dependencies"], *extras]


def pins() -> dict[str, Version]:
    """The versions of constraints.txt by package name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {
        canonicalize_name(name): Version(version)
        for name, version in (line.split("==") for line in lines if not line.startswith("#"))
    }


def test_no_file_knows_a_machine_or_an_index() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in project_files()
        for match in MACHINE.finditer(path.read_bytes().decode("utf-8", errors="ignore"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "planted",
    ["see /wor" + "k/notes", "/roo" + "t/.cache", "root: /hom" + "e/me/tiles", "https://pyp" + "i.org/simple"],
)
def test_the_search_for_machines_finds_what_is_planted(planted: str) -> None:
    assert MACHINE.search(planted)


@pytest.mark.parametrize("harmless", ["our work/life", "the $HOME folder", "data/eurosat", "~/tiles", "at home/abroad"])
def test_the_search_for_machines_lets_the_rest_pass(harmless: str) -> None:
    assert not MACHINE.search(harmless)


@pytest.mark.parametrize("requirement", sorted(set(requirements())))
def test_every_dependency_has_its_reason_beside_it(requirement: str) -> None:
    lines = [line for line in PYPROJECT_TEXT.splitlines() if f'"{requirement}"' in line]
    assert lines
    assert all(re.search(r'["\]],?\s+# \S', line) for line in lines)


@pytest.mark.parametrize("requirement", sorted(set(requirements()) - set(PYPROJECT["build-system"]["requires"])))
def test_the_constraints_pin_every_dependency_within_its_bounds(requirement: str) -> None:
    wanted = Requirement(requirement)
    if wanted.name == PYPROJECT["project"]["name"]:
        return  # our own extras, whose members are requirements themselves
    assert wanted.specifier.contains(pins()[canonicalize_name(wanted.name)])


def test_the_constraints_are_plain_releases_of_no_platform() -> None:
    assert all(version.local is None and not version.is_prerelease for version in pins().values())
    assert not [name for name in pins() if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]


def test_the_changelog_has_the_version_of_the_package() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
