"""What the code must never do: load half of a checkpoint, run what a file says, or reach for the network unasked."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from mapex_lightning.checkpoint import save
from tests.builders import config_of, encoder_of
from tests.workshop import SMALL, TILES

SOURCES = Path(__file__).parents[1] / "src" / "mapex_lightning"

NEVER_FALSE = {"strict", "strict_loading", "weights_only"}
UNPICKLERS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open",
    "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pandas.read_pickle",
    "torch.jit.load", "torch.package.PackageImporter", "torch.export.load", "torch.serialization.load",
}  # fmt: skip
RUNNERS = {
    "eval", "exec", "compile", "__import__", "runpy.run_path", "runpy.run_module",
    "os.system", "os.popen", "os.execv", "os.execve", "os.execvp", "os.spawnv", "os.posix_spawn",
    "pty.spawn", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip
UNPACKERS = {"extractall", "extract", "unpack_archive"}
"""Methods that write what an archive says; torchgeo, which calls them, is held inside its folder by its own room."""
PROCESSES = {"errors.py", "train/liveness.py", "train/preemption.py"}
"""Files that may import what starts processes: the last runs commands of Slurm, the others name a type."""
REREADERS = {"export/graphs.py"}
"""Files that may read a graph of torch.export: only one that has just been written, to compare it with the model."""
YAML_READERS = {"plain_yaml.py"}
"""Files that may call yaml.load, with a loader that makes plain types."""
IMPORTERS = {"__main__.py", "data/extras.py"}
"""Files that import by name: a command of ours, an optional package."""
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


def runs_something(tree: ast.AST) -> Iterator[int]:
    """Lines that run a text as code or as a command, load YAML with its tags, or go through a shell."""
    yield from (call.lineno for call in calls(tree, RUNNERS))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "shell" and not is_false(node.value):
            yield node.value.lineno


def arrays_of_objects(tree: ast.AST) -> Iterator[int]:
    """Lines with an np.load that does not say ``allow_pickle=False`` itself, or with ``allow_pickle=True``."""
    for call in calls(tree, {"numpy.load"}):
        if "allow_pickle" not in [keyword.arg for keyword in call.keywords]:
            yield call.lineno
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="allow_pickle" | "object_codec", value=value) if not is_false(value):
                yield value.lineno


def lightnings_loading(tree: ast.AST) -> Iterator[int]:
    """Lines that call Lightning's way of loading, or torch's that fetches."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            fetches = ".hub." in ast.unparse(node.func)
            if fetches or node.func.attr in ("load_from_checkpoint", "load_state_dict_from_url"):
                yield node.lineno


def unpacking(tree: ast.AST) -> Iterator[int]:
    """Lines that unpack an archive to disk."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in UNPACKERS:
            yield node.lineno


def starts_processes(tree: ast.AST) -> Iterator[int]:
    """Lines that import the module that starts processes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any(name.partition(".")[0] in ("subprocess", "pexpect", "pty") for name in names):
                yield node.lineno


def imports_by_name(tree: ast.AST) -> Iterator[int]:
    """Lines that import a module whose name is not written there."""
    for call in calls(tree, {"importlib.import_module"}):
        if not (call.args and isinstance(call.args[0], ast.Constant)):
            yield call.lineno


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


@cache
def parsed(path: Path) -> ast.AST:
    """A file, parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def lines(check: Callable[[ast.AST], Iterator[int]]) -> list[str]:
    """Where in the package a check finds something."""
    return [
        f"{path.relative_to(SOURCES)}:{line}" for path in sorted(SOURCES.rglob("*.py")) for line in check(parsed(path))
    ]


def test_nothing_is_loaded_leniently() -> None:
    assert lines(lenient) == []


def test_nothing_is_unpickled() -> None:
    assert [line for line in lines(unsafe_loads) if line.partition(":")[0] not in REREADERS] == []


def test_only_checkpoint_calls_torch_load() -> None:
    callers = lines(lambda tree: (call.lineno for call in calls(tree, {"torch.load"})))
    assert {caller.partition(":")[0] for caller in callers} == {"checkpoint/__init__.py"}


@pytest.mark.parametrize("check", [runs_something, arrays_of_objects, lightnings_loading, unpacking])
def test_nothing_in_the_package_does_what_a_file_says(check: Callable[[ast.AST], Iterator[int]]) -> None:
    assert [line for line in lines(check) if line.partition(":")[0] not in YAML_READERS] == []


@pytest.mark.parametrize(("check", "rooms"), [(starts_processes, PROCESSES), (imports_by_name, IMPORTERS)])
def test_processes_and_imports_by_name_have_their_rooms(
    check: Callable[[ast.AST], Iterator[int]], rooms: set[str]
) -> None:
    assert {line.partition(":")[0] for line in lines(check)} <= rooms


OFFLINE = """
import pkgutil, socket, sys
from importlib import import_module

tried = []

def unwanted(*what, **_):
    tried.append(what)
    raise OSError("the network is out of bounds")

def connect(self, address, really=socket.socket.connect):
    return really(self, address) if self.family == socket.AF_UNIX else unwanted(address)

socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = unwanted

import mapex_lightning
from mapex_lightning.__main__ import main

for module in pkgutil.walk_packages(mapex_lightning.__path__, "mapex_lightning."):
    if module.name != "mapex_lightning.__main__":
        import_module(module.name)
assert not tried, tried
for words in {commands!r}:
    assert main(words) == 0, words
    assert not tried, (words, tried)
"""


def offline(commands: list[list[str]], folder: Path) -> None:
    """Imports every module and runs commands in a process that has no network."""
    source = OFFLINE.format(commands=commands)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=900, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_every_module_and_looking_at_a_checkpoint_asks_nobody(tmp_path: Path) -> None:
    save(encoder_of(config_of()), tmp_path / "model.ckpt")
    offline([["--help"], ["fit", "--help"], ["info", "model.ckpt"]], tmp_path)


@pytest.mark.slow
def test_no_command_asks_anybody(tmp_path: Path) -> None:
    tiles = ["--data.sets", TILES, *SMALL]
    pretrained, tuned = ["--config", "pretrain.yaml", *tiles], ["--config", "synthetic.yaml", *tiles]
    pruned = ["--ckpt", "runs/pretrain/pruned.ckpt"]
    offline(
        [
            ["fit", *pretrained],
            ["validate", *pretrained],
            ["prune", "--ckpt", "last.ckpt", "--keep", "s1", "--coverage", "0.9"],
            ["info", "pruned.ckpt", *pretrained],
            ["fit", *tuned, *pruned, "--data.modalities", "[s1]"],
            ["test", *tuned, "--data.modalities", "[s1]"],
            ["predict", *tuned, "--data.modalities", "[s1]"],
            ["pack", *pretrained, "--out", "packed"],
        ],
        tmp_path,
    )


def test_every_promise_names_tests_that_exist() -> None:
    root = Path(__file__).parents[1]
    promised = (root / "SECURITY.md").read_text(encoding="utf-8").partition("## Not promised")[0]
    for promise in promised.split("\n**")[1:]:
        named = re.findall(r"^- `(tests/[\w/]+\.py)::(\w+)`$", promise, re.MULTILINE)
        assert named, promise
        for file, test in named:
            assert f"def {test}(" in (root / file).read_text(encoding="utf-8"), test


def test_only_checkpoint_calls_torch_save() -> None:
    writers = {"torch.save", "torch.serialization.save", "torch.distributed.checkpoint.save"}
    callers = lines(lambda tree: (call.lineno for call in calls(tree, writers)))
    assert {caller.partition(":")[0] for caller in callers} == {"checkpoint/__init__.py"}


def keeping_trainers(tree: ast.AST) -> Iterator[int]:
    """Lines that make a Trainer without saying that it writes no checkpoints."""
    for call in calls(tree, {"lightning.pytorch.Trainer", "lightning.Trainer"}):
        said = {keyword.arg: keyword.value for keyword in call.keywords}
        if not is_false(said.get("enable_checkpointing")):
            yield call.lineno


def test_a_run_has_one_door_for_its_checkpoints() -> None:
    (trainer,) = lines(keeping_trainers)
    assert trainer.startswith("cli/building.py:")  # whose plugin is the one of train/checkpoint_io.py
    assert {found.partition(":")[0] for found in lines(checkpoint_plugins)} == {"train/checkpoint_io.py"}


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
        (unsafe_loads, "from pickle import Unpickler\nUnpickler(file)"),
        (unsafe_loads, "import torch\ntorch.jit.load(path)"),
        (runs_something, "eval(text)"),
        (runs_something, "import os\nos.system(text)"),
        (runs_something, "from os import popen as ask\nask(text)"),
        (runs_something, "import yaml\nyaml.load(text, Loader=yaml.Loader)"),
        (runs_something, "run(words, shell=True)"),
        (runs_something, "run(words, shell=flag)"),
        (arrays_of_objects, "import numpy as np\nnp.load(path)"),
        (arrays_of_objects, "import numpy as np\nnp.load(path, allow_pickle=flag)"),
        (arrays_of_objects, "from numpy import load\nload(path)"),
        (lightnings_loading, "Pretrain.load_from_checkpoint(path)"),
        (lightnings_loading, "import torch\ntorch.hub.load(repository)"),
        (unpacking, "archive.extractall(folder)"),
        (unpacking, "shutil.unpack_archive(path)"),
        (starts_processes, "import subprocess"),
        (starts_processes, "def f():\n    from subprocess import run"),
        (imports_by_name, "from importlib import import_module\nimport_module(name)"),
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
        (runs_something, "encoder.eval()"),
        (runs_something, "import re\nre.compile(text)"),
        (runs_something, "import yaml\nyaml.safe_load(text)"),
        (arrays_of_objects, "import numpy as np\nnp.load(path, allow_pickle=False)"),
        (lightnings_loading, "module.load_state_dict(found, strict=True)"),
        (imports_by_name, "from importlib import import_module\nimport_module('json')"),
        (checkpoint_plugins, "from mapex_lightning.train.checkpoint_io import WholeCheckpointIO"),
        (network_imports, "def fetch():\n    import requests"),
        (network_imports, "from urllib.parse import urlsplit"),
        (network_imports, "from .http import page"),
    ],
)
def test_the_checks_let_the_rest_pass(check: Callable[[ast.AST], Iterator[int]], source: str) -> None:
    assert list(check(ast.parse(source))) == []
