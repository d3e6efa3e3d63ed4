"""Pickles of strangers are scanned before torch loads them: it would call a few things that take any memory.

torch's restricted unpickler runs no code, yet it calls ``bytearray`` with any number, and walks through a tensor that
is one byte seen a trillion times. What files of plain weights ask for is less, and only that passes here.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mapex_lightning.checkpoint.validation import printable
from mapex_lightning.errors import MapexError

TENSORS = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
"""Functions that make a tensor of the bytes in a file, and no more of them than there are."""

TABLES = {"collections OrderedDict", "__builtin__ set", "builtins set", "torch Size"}
"""Types that are called with a tuple, a list or nothing; given a tensor, they would walk through it."""

STORAGES = {
    *("torch BFloat16Storage", "torch BoolStorage", "torch ByteStorage", "torch CharStorage", "torch DoubleStorage"),
    *("torch FloatStorage", "torch HalfStorage", "torch IntStorage", "torch LongStorage", "torch ShortStorage"),
}
"""Words for the type of a tensor's bytes, which are not called."""

CALLED = TENSORS | TABLES


DEEPEST = 50
"""Tuples inside one another. Python hashes one by way of all that are inside, until its stack overflows."""


class _Kind(Enum):
    """What stands on the stack of the unpickler, beside tuples and the names of what can be called."""

    PLAIN = auto()
    BYTES = auto()
    """A tensor or a part of the file: something that should not be walked through."""
    ORDERED = auto()
    """An ``OrderedDict``: the tables of weights that torch makes have an attribute."""


class _Tuple(NamedTuple):
    """A tuple on the stack.

    Attributes:
        holds_bytes: whether one of its entries is of the kind `BYTES`.
        depth: tuples inside one another, this one included.
    """

    holds_bytes: bool
    depth: int


_PUSHED = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
    *("EMPTY_DICT", "EMPTY_LIST"),
}
_POPPED = {"APPEND": 1, "SETITEM": 2}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def check_pickle(path: Path, name: str) -> None:
    """Makes sure that torch makes nothing of a file but plain types and tensors that lie in it.

    Args:
        path: a zip archive whose parts are not compressed.
        name: what errors call it.

    Raises:
        MapexError: it asks for something else.
        RuntimeError: it is no archive of torch.
    """
    # torch's own reader: of an archive that is two at once, zipfile might see the other one.
    pickled = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    try:
        strange = _strange(pickled)
    except (ValueError, LookupError, TypeError) as error:  # what pickletools and a stack that is empty raise
        raise _refused(name, "it is damaged") from error
    if strange:
        raise _refused(name, f"it asks for {printable(strange)}")


def _strange(pickled: bytes) -> str | None:
    """What a pickle asks for and should not; None where it is plain."""
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        match opcode.name:
            case name if name in _PUSHED:
                stack.append(_Kind.PLAIN)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case name if name in _TUPLES:
                stack.append(_tuple([stack.pop() for _ in range(_TUPLES[name])]))
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE":
                parts, stack = stack, below.pop()
                stack.append(_tuple(parts))
            case "APPENDS" | "SETITEMS":
                stack = below.pop()
            case name if name in _POPPED:
                for _ in range(_POPPED[name]):
                    stack.pop()
            case "GLOBAL":
                if argument not in CALLED | STORAGES:
                    return str(argument)
                stack.append(argument)
            case "BINPERSID":
                stack[-1] = _Kind.BYTES
            case "REDUCE":
                given, called = stack.pop(), stack.pop()
                if not isinstance(given, _Tuple) or called not in CALLED:
                    return "a call of what is no function"
                if called in TABLES and given.holds_bytes:
                    return f"a walk through a tensor by {called}"
                ordered = called == "collections OrderedDict"
                stack.append(_Kind.BYTES if called in TENSORS else _Kind.ORDERED if ordered else _Kind.PLAIN)
            case "BUILD":
                state = stack.pop()
                if stack[-1] is not _Kind.ORDERED or state is not _Kind.PLAIN:
                    return "an object with a state of its own"
            case "PROTO" | "STOP":
                pass
            case other:
                return other
        if stack and isinstance(stack[-1], _Tuple) and stack[-1].depth > DEEPEST:
            return "tuples without an end"
    return None


def _tuple(parts: Sequence[Any]) -> _Tuple:
    return _Tuple(_Kind.BYTES in parts, 1 + max((part.depth for part in parts if isinstance(part, _Tuple)), default=0))


def _refused(name: str, why: str) -> MapexError:
    return MapexError(
        f"{name} is refused: it is not a checkpoint of plain weights ({why}), and loading anything else could run code."
    )
