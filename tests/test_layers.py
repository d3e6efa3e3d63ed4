"""The import rule: a room knows only the rooms below it, and each third-party library has its place."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "mapex_lightning"
SOURCES = Path(__file__).parents[1] / "src" / PACKAGE

LAYERS = (
    {"__init__"},
    {"errors"},
    {"precision", "text"},
    {"files", "lock", "plain_yaml", "signals"},
    {"heatmap", "modality", "settings"},
    {"page", "tiles"},
    {"model", "data"},
    {"checkpoint", "runs"},
    {"pruning", "analysis", "comparison", "results"},
    {"info"},
    {"report", "export"},
    {"train"},
    {"cli"},
    {"commands"},
    {"__main__"},
)
"""From the bottom up. A room imports itself and lower layers, never a neighbour: so model and data stay apart."""

HOMES = {
    "lightning": ("train", "data.module", "cli"),
    "pytorch_lightning": (),  # the old name of lightning; two copies of its classes do not know each other
    "timm": ("model",),
}
"""Who may import a library. A library that is not listed is free, but for the rooms of `DIET`."""

DIET = {
    "__init__": (),
    "errors": (),
    "modality": (),
    "model": ("torch", "einops", "timm"),
    "__main__": (),  # the door answers before anything heavy is loaded
}
"""All that a room may import beside the standard library and lower rooms."""

RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    """Every module by its dotted name inside the package: ``tiles``, ``data.module``, ``model`` for its __init__."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        yield ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts), path


def imports(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a file imports, inside functions too: late is still upward."""
    here = (PACKAGE, *path.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            source = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def broken_rule(module: str, name: str) -> str | None:
    """What is wrong with ``module`` importing ``name``, or None."""
    room = module.partition(".")[0]
    library, _, rest = name.partition(".")
    if library == PACKAGE:
        target = rest.partition(".")[0]
        target = target if target in RANK else "__init__"  # such as __version__
        if target != room and RANK[target] >= RANK[room]:
            return f"{room} is not above {target}"
    elif library not in sys.stdlib_module_names:
        homes = HOMES.get(library)
        if homes is not None and not any(f"{module}.".startswith(f"{home}.") for home in homes):
            return f"{library} belongs to {', '.join(homes) or 'nobody'}"
        if library not in DIET.get(room, (library,)):
            return f"{room} may import {', '.join(DIET[room]) or 'the standard library only'}"
    return None


def violations(package: Path) -> list[str]:
    """One sentence per broken rule."""
    found = []
    for module, path in modules(package):
        if module.partition(".")[0] not in RANK:
            found.append(f"{module}: not in LAYERS; give it its place")
            continue
        for line, name in imports(path, package):
            if rule := broken_rule(module, name):
                found.append(f"{module}:{line} imports {name}: {rule}")
    return found


def write(package: Path, module: str, text: str) -> None:
    path = package / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_no_module_breaks_the_import_rule() -> None:
    assert violations(SOURCES) == []


def test_the_table_names_only_rooms_that_exist() -> None:
    assert set(RANK) - {module.partition(".")[0] for module, _ in modules(SOURCES)} == set()


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("errors.py", "import mapex_lightning.tiles"),
        ("modality.py", "from mapex_lightning import tiles"),
        ("data/sets/folder.py", "from mapex_lightning.model.tokens import Tokens"),
        ("model/tokens.py", "from mapex_lightning.data.module import TilesModule"),
        ("model/tokens.py", "from ..train.base import MapexModule"),
        ("model/__init__.py", "from .. import pruning"),
        ("checkpoint/__init__.py", "from ..pruning import prune"),
        ("pruning.py", "def late():\n    from mapex_lightning import train"),
        ("train/base.py", "if TYPE_CHECKING:\n    import mapex_lightning.cli"),
        ("__init__.py", "from mapex_lightning.errors import MapexError"),
        ("model/encoder.py", "import lightning as L"),
        ("data/sets/folder.py", "from lightning.pytorch import LightningDataModule"),
        ("train/base.py", "import pytorch_lightning"),
        ("data/sets/folder.py", "from timm.data import create_transform"),
        ("model/encoder.py", "import xarray"),
        ("errors.py", "import numpy"),
        ("__main__.py", "import torch"),
        ("helpers.py", ""),
        ("helpers/more.py", ""),
    ],
)
def test_the_checker_catches_a_planted_import(tmp_path: Path, module: str, line: str) -> None:
    write(tmp_path, module, line)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("errors.py", "import difflib"),
        ("tiles.py", "import torch\nfrom mapex_lightning.modality import Modality"),
        ("model/tokens.py", "import torch.nn as nn\nfrom .patchify import Patchify"),
        ("model/encoder.py", "import timm\nfrom ..tiles import Tiles"),
        ("data/module.py", "import lightning\nfrom mapex_lightning.data.sets.folder import Folder"),
        ("train/base.py", "import lightning\nfrom mapex_lightning.pruning import prune"),
        ("checkpoint/__init__.py", "from mapex_lightning import __version__"),
        ("__main__.py", "from mapex_lightning.cli import main"),
    ],
)
def test_the_checker_lets_a_rightful_import_pass(tmp_path: Path, module: str, line: str) -> None:
    write(tmp_path, module, line)
    assert violations(tmp_path) == []


def test_the_line_in_contributing_is_this_table() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^errors <.*(?:\n +<.*)*", text, re.MULTILINE)
    told = tuple(set(re.findall(r"\w+", layer)) for layer in line.split("<"))
    assert told == LAYERS[1:]
