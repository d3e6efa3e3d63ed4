"""Compiling: which parts of a model torch.compile gets, in place, so that no weight changes its name."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mapex_lightning.errors import MapexError
from mapex_lightning.model.block import Block
from mapex_lightning.model.decoder import CrossBlock

VARIANTS = 64
"""Graphs that a part may have: with and without gradients, mask, autocast, and for one tile and several."""


def parts_of(model: nn.Module) -> Iterator[nn.Module]:
    """The largest parts that are one graph whatever the data: no size and no branch in them depends on it.

    Those are the dense blocks and the decoder's blocks as a whole, and of a block with a mixture attention, router and
    low-rank experts. Its experts are left as they are: how many tokens each gets is known only when they are there, so
    the graph would break at every mixture, and compile again for other numbers.
    """
    for module in model.modules():
        if isinstance(module, Block) and module.mixture is not None:
            yield from (module.attention, module.mixture.router)
            if module.low_rank is not None:
                yield module.low_rank
        elif isinstance(module, Block | CrossBlock):
            yield module


def check_compiler(device: str) -> None:
    """Finds out before the first step whether there is what torch.compile works with.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        MapexError: it is missing, or torch is too old to give every part graphs of its own.
    """
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        raise MapexError(
            f"--compile true needs torch 2.14 or newer, and this is {torch.__version__}. Update torch, or leave "
            "--compile out."
        )
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(wanted) is None:
        raise MapexError(
            f"--compile true needs a C++ compiler, and {wanted} is not on the path. Install one (Debian, Ubuntu: apt "
            "install g++), name yours in the environment variable CXX, or leave --compile out."
        )
    if device == "cuda" and find_spec("triton") is None:
        raise MapexError(
            "--compile true on a GPU needs the Python package triton, which torch brings along on Linux. Install it, "
            "or leave --compile out."
        )


def compile_in_place(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles the parts of a model when they are first called; state_dict stays as it is.

    Lengths are symbols, because every bucket of a batch has its own. A part that cannot be one graph is an error rather
    than a slow run.

    Args:
        model: a module with an encoder.
        backend: of torch.compile.
    """
    for part in parts_of(model):
        part.compile(backend=backend, fullgraph=True, dynamic=True, isolate_recompiles=True, recompile_limit=VARIANTS)
