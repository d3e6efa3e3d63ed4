"""What the code must never do: load half of a checkpoint, run what a file says, or reach for the network unasked."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "mapex_lightning"

NEVER_FALSE = {"strict", "strict_loading", "weights_only"}
UNPICKLERS = {"pickle.load", "pickle.loads", "torch.jit.load", "joblib.load"}
NETWORK = {
    "aiohttp", "boto3", "fsspec", "ftplib", "http", "httpx", "huggingface_hub",
    "requests", "smtplib", "socket", "urllib.request", "urllib3",
}  # fmt: skip


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def lenient(tree: ast.AST) -> Iterator[int]:
    """Lines where something of `NEVER_FALSE` is made False, or load_state_dict gets its strictness by position."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg=name, value=value) if name in NEVER_FALSE and is_false(value):
                yield value.lineno
            case ast.Assign(targets=[ast.Name(id=name) | ast.Attribute(attr=name)], value=value) if (
                name in NEVER_FALSE and is_false(value)
            ):
                yield node.lineno
            case ast.AnnAssign(target=ast.Name(id=name) | ast.Attribute(attr=name), value=value) if (
                name in NEVER_FALSE and is_false(value)
            ):
                yield node.lineno
            case ast.arguments():
                names = [argument.arg for argument in (*node.posonlyargs, *node.args)]
                names = names[len(names) - len(node.defaults) :] + [argument.arg for argument in node.kwonlyargs]
                for name, default in zip(names, (*node.defaults, *node.kw_defaults), strict=True):
                    if default is not None and name in NEVER_FALSE and is_false(default):
                        yield default.lineno
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value in NEVER_FALSE and is_false(value):
                        yield value.lineno
            case ast.Call(func=ast.Attribute(attr="load_state_dict"), args=[_, _, *_]):
                yield node.lineno


def calls(tree: ast.AST, functions: set[str]) -> Iterator[ast.Call]:
    """The calls of functions given by their dotted names, by whatever name a file imports them."""
    origin: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            origin |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            origin |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            if f"{origin.get(first, first)}{dot}{rest}" in functions:
                yield node


def unsafe_loads(tree: ast.AST) -> Iterator[int]:
    """Lines with a torch.load that does not say ``weights_only=True`` itself, or with a plain unpickling."""
    for call in calls(tree, {"torch.load"}):
        said = {keyword.arg: keyword.value for keyword in call.keywords}.get("weights_only")
        if not (isinstance(said, ast.Constant) and said.value is True):
            yield call.lineno
    yield from (call.lineno for call in calls(tree, UNPICKLERS))


def checkpoint_plugins(tree: ast.AST) -> Iterator[int]:
    """Lines that name one of Lightning's own ways to write checkpoints."""
    for node in ast.walk(tree):
        match node:
            case ast.alias(name=name) | ast.Name(id=name) | ast.Attribute(attr=name) if (
                name.endswith("CheckpointIO") and name != "WholeCheckpointIO"
            ) or name == "_atomic_save":
                yield node.lineno


def network_imports(tree: ast.AST) -> Iterator[int]:
    """Lines that import a network library when the module is imported; inside a function it is asked for."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            source = f"{'.' * node.level}{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                if any(f"{source}{alias.name}.".startswith(f"{library}.") for library in NETWORK):
                    yield node.lineno
        yield from network_imports(node)


def lines(check: Callable[[ast.AST], Iterator[int]]) -> list[str]:
    """Where in the package a check finds something."""
    return [
        f"{path.relative_to(SOURCES)}:{line}"
        for path in sorted(SOURCES.rglob("*.py"))
        for line in check(ast.parse(path.read_text(encoding="utf-8")))
    ]


def test_nothing_is_loaded_leniently() -> None:
    assert lines(lenient) == []


def test_nothing_is_unpickled() -> None:
    assert lines(unsafe_loads) == []


def test_only_checkpoint_calls_torch_load() -> None:
    callers = lines(lambda tree: (call.lineno for call in calls(tree, {"torch.load"})))
    assert {caller.partition(":")[0] for caller in callers} == {"checkpoint.py"}


def test_only_checkpoint_calls_torch_save() -> None:
    writers = {"torch.save", "torch.serialization.save", "torch.distributed.checkpoint.save"}
    callers = lines(lambda tree: (call.lineno for call in calls(tree, writers)))
    assert {caller.partition(":")[0] for caller in callers} == {"checkpoint.py"}


def keeping_trainers(tree: ast.AST) -> Iterator[int]:
    """Lines that make a Trainer without saying that it writes no checkpoints."""
    for call in calls(tree, {"lightning.pytorch.Trainer", "lightning.Trainer"}):
        said = {keyword.arg: keyword.value for keyword in call.keywords}
        if not is_false(said.get("enable_checkpointing")):
            yield call.lineno


def test_a_run_has_one_door_for_its_checkpoints() -> None:
    (trainer,) = lines(keeping_trainers)
    assert trainer.startswith("cli/__init__.py:")  # whose plugin is the one of train/checkpointing.py
    assert {found.partition(":")[0] for found in lines(checkpoint_plugins)} == {"train/checkpointing.py"}


def test_importing_the_package_imports_no_network_library() -> None:
    assert lines(network_imports) == []


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (lenient, "model.load_state_dict(weights, strict=False)"),
        (lenient, "model.load_state_dict(weights, False)"),
        (lenient, "class Module:\n    strict_loading = False"),
        (lenient, "self.strict_loading = False"),
        (lenient, "strict: bool = False"),
        (lenient, "def load(path, strict=False): ..."),
        (lenient, "def load(path, *, other, strict=False): ..."),
        (lenient, "options = {'weights_only': False}"),
        (unsafe_loads, "import torch\ntorch.load(path)"),
        (unsafe_loads, "import torch\ntorch.load(path, weights_only=flag)"),
        (unsafe_loads, "import torch as t\nt.load(path)"),
        (unsafe_loads, "from torch import load as read\nread(path)"),
        (unsafe_loads, "import pickle\npickle.loads(text)"),
        (checkpoint_plugins, "from lightning.fabric.plugins import CheckpointIO"),
        (checkpoint_plugins, "plugins.AsyncCheckpointIO()"),
        (network_imports, "import requests"),
        (network_imports, "from urllib import request"),
        (network_imports, "try:\n    import huggingface_hub\nexcept ImportError: ..."),
        (network_imports, "class Hub:\n    import http.client"),
    ],
)
def test_the_checks_catch_what_is_planted(check: Callable[[ast.AST], Iterator[int]], source: str) -> None:
    assert len(list(check(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (lenient, "model.load_state_dict(weights, strict=True)"),
        (lenient, "def load(path, strict=True, quick=False): ..."),
        (unsafe_loads, "import torch\ntorch.load(path, weights_only=True)"),
        (unsafe_loads, "import json\njson.load(file)"),
        (checkpoint_plugins, "from mapex_lightning.train.checkpointing import WholeCheckpointIO"),
        (network_imports, "def fetch():\n    import requests"),
        (network_imports, "from urllib.parse import urlsplit"),
        (network_imports, "from .http import page"),
    ],
)
def test_the_checks_let_the_rest_pass(check: Callable[[ast.AST], Iterator[int]], source: str) -> None:
    assert list(check(ast.parse(source))) == []
