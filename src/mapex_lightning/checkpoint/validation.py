"""Validation: what a stranger's checkpoint says of itself is checked before anything is made of it."""

from __future__ import annotations

import re
import sys
import types
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from mapex_lightning.data.tileset import Task
from mapex_lightning.errors import MapexError
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.tokens import Pool

MOST_ENTRIES = 100_000
"""Words and numbers in a description. A large model has some thousands; a list that holds itself has no end."""

LONGEST = 2_000
"""Letters of a word in a description."""

LARGEST = 1_000_000
"""The largest number of experts, dimensions, heads and their like that is believed; see also `checkpoint.built`."""

DEEPEST = 1_000
"""Blocks."""

PICKLED = 32_000_000
"""Bytes of a file beside its tensors. A tensor takes some 200 of them, and a large model with its optimiser ten
thousands of tensors; what they become in memory may be a hundred times as much."""

OFTEN = 10
"""Times that a file's tensors may stand in it, as weights do that are tied or kept by a callback too."""

DESCRIPTION: Mapping[str, Any] = {
    "version": str,
    "kind": Literal["pretrain", "prune", "finetune"],
    "encoder": EncoderConfig,
    "lineage": tuple[str, ...],
    "head": Mapping[str, Any] | None,
    "decoder": Mapping[str, int] | None,
}
"""The types of what stands under the key ``mapex``."""

RUN: Mapping[str, tuple[type, ...]] = {
    "epoch": (int,),
    "global_step": (int,),
    "pytorch-lightning_version": (str,),
    "loops": (dict,),
    "callbacks": (dict,),
    "optimizer_states": (list,),
    "lr_schedulers": (list,),
}
"""The types of what Lightning adds to the checkpoint of a run."""

VERSION = r"[2-9]\.\d{1,4}(\.\d{1,4}(\.?(a|b|rc|post|dev)\d{1,8})?)?"
"""Of Lightning; from an older one it would migrate the checkpoint."""

FOREIGN = ("hyper_parameters", "hparams_name", "hparams_type", "datamodule_", "_instantiator", "_class_path")
"""How entries begin that Lightning writes for modules that keep their arguments, and from which it makes objects."""

HEAD: Mapping[str, Any] = {"task": Task, "classes": tuple[str, ...], "pool": Pool}
DECODER: Mapping[str, Any] = {"width": int, "depth": int, "heads": int}


def check_archive(path: Path) -> None:
    """Makes sure that a file does not become larger when it is read: torch compresses nothing.

    Raises:
        MapexError: it holds compressed parts, more beside its tensors than there can be, or two parts of a name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise MapexError(f"{path} cannot be read as a checkpoint; it is damaged, cut off or another format.") from error
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise MapexError(f"{path} is refused: parts of it are compressed, as no checkpoint of ours is. Write it anew.")
    if len({part.filename.lower() for part in parts}) < len(parts):  # torch does not tell them apart
        raise MapexError(f"{path} is refused: it has several parts of one name. Write it anew.")
    if max((part.file_size for part in parts if part.filename.endswith(".pkl")), default=0) > PICKLED:
        raise MapexError(f"{path} is refused: it has more than {PICKLED:,} bytes beside its tensors. Write it anew.")


def check_tensors(found: object, path: Path) -> None:
    """Makes sure that tensors, wherever they are in a file, are about as large as the file.

    A tensor can be one byte seen a trillion times, which takes memory when somebody copies it.

    Raises:
        MapexError: one does not lie in memory, or all of them claim to be far more than the file holds.
    """
    if _size(found, path, {}) > OFTEN * path.stat().st_size:
        raise _altered(path, "its tensors claim to be more than the file holds")


def _size(value: object, path: Path, known: dict[int, int]) -> int:
    """Bytes of all tensors in tables and lists, as often as they stand there; `known` are those of tables and lists."""
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
            raise _altered(path, "it holds what is no plain tensor")
        return value.numel() * value.element_size()
    if not isinstance(value, Mapping | list | tuple | set):
        return 0
    if id(value) not in known:
        known[id(value)] = 0  # until it is known: a list may hold itself
        inside = value.values() if isinstance(value, Mapping) else value
        known[id(value)] = sum(_size(one, path, known) for one in inside)
    return known[id(value)]


def check_weights(state: object, path: Path) -> None:
    """Makes sure that weights are plain tensors, and all of them in the file.

    Raises:
        MapexError: one is not, or they claim to be more than the file holds.
    """
    if not isinstance(state, dict):
        raise _altered(path, "its weights are no table of tensors")
    size = 0
    for name, value in state.items():
        if not isinstance(name, str) or type(value) not in (Tensor, torch.nn.Parameter):
            raise _altered(path, f"{printable(name)} is no weight")
        size += value.numel() * value.element_size()
    if size > path.stat().st_size:
        raise _altered(path, "its weights claim to be more than the file holds")


def check_run(found: Mapping[str, Any], path: Path) -> None:
    """Makes sure that what is beside weights and description is what Lightning writes for a run of ours.

    Raises:
        MapexError: an entry is none that mapex writes, or none of its kind.
    """
    for name, value in found.items():
        if not isinstance(name, str) or name.startswith(FOREIGN):
            raise MapexError(
                f"{path} is refused: it holds {printable(name)}, which mapex never writes and from which other "
                "programs make objects. Write it anew with mapex."
            )
        if name in RUN and not isinstance(value, RUN[name]):
            raise _altered(path, f"what stands under {name} is nothing that could stand there")
    version = found.get("pytorch-lightning_version", "2.0")
    if not re.fullmatch(VERSION, version):
        raise _altered(path, f"it names the version {printable(version)} of Lightning")


def check_description(plain: object, path: Path) -> None:
    """Makes sure that a description has the types that it should have, and no number that nobody could mean.

    Args:
        plain: what stands where a description of today's format should.
        path: its file, for messages.

    Raises:
        MapexError: an entry is missing or none of its kind.
    """
    checker = _Checker(path)
    known = checker.fields(plain, DESCRIPTION, "its description")
    if known["head"] is not None:
        checker.only(known["head"], HEAD, "head")
    if known["decoder"] is not None:
        checker.only(known["decoder"], DECODER, "decoder")
    depths = len(known["encoder"].get("experts", ())), (known["decoder"] or {}).get("depth", 0)
    if max(depths) > DEEPEST:
        raise _altered(path, f"it claims {max(depths):,} blocks")


class _Checker:
    """Goes through a description once.

    Args:
        path: the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, MOST_ENTRIES

    def fields(self, value: object, hints: Mapping[str, Any], place: str) -> dict[str, Any]:
        """A table, which it gives back, with these fields."""
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise self.refusal(place)
        for name, hint in hints.items():
            if name not in value:
                raise _altered(self.path, f"{place} lacks {name}")
            self.at(value[name], hint, f"{place}.{name}")
        return value

    def only(self, value: object, hints: Mapping[str, Any], place: str) -> None:
        """A table with these fields and no others."""
        for name in self.fields(value, hints, place):
            if name not in hints:
                raise _altered(self.path, f"{place} has an entry {printable(name)}, of which nothing is known")

    def at(self, value: object, hint: Any, place: str) -> None:
        """One value of a type."""
        self.left -= 1
        if self.left < 0:
            raise _altered(self.path, f"{place} has no end")
        if not self.fits(value, hint, place):
            raise self.refusal(place)

    def fits(self, value: object, hint: Any, place: str) -> bool:
        """Whether a value is of a type; looks into tables and lists."""
        origin, parts = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            (other,) = (part for part in parts if part is not type(None))
            return value is None or self.fits(value, other, place)
        if origin is Literal:
            return isinstance(value, str) and value in parts
        if origin is tuple:
            if not isinstance(value, list | tuple):
                return False
            self._each(value, parts[0], place)
            return True
        if is_dataclass(hint):
            hints, given = get_type_hints(hint), value if isinstance(value, dict) else {}
            self.fields(value, {name: hints[name] for name in hints if name in given}, place)  # it says what is missing
            return True
        if origin is not None:
            return isinstance(value, dict)
        return self._plain(value, hint)

    def _each(self, values: Sequence[object], hint: Any, place: str) -> None:
        for value in values:
            self.at(value, hint, place)

    def _plain(self, value: Any, hint: Any) -> bool:
        if hint is str:
            return isinstance(value, str) and len(value) <= LONGEST and value.isprintable()
        if hint is int:
            return type(value) is int and 0 <= value <= LARGEST
        if hint is float:
            return type(value) in (int, float) and abs(value) <= sys.float_info.max
        return type(value) is hint

    def refusal(self, place: str) -> MapexError:
        """The sentence for a value that is none of its type."""
        return _altered(self.path, f"what stands under {place} is nothing that could stand there")


def printable(name: object) -> str:
    """A name of a stranger, fit for a terminal."""
    return (name if isinstance(name, str) and name.isprintable() else ascii(name))[:80]


def _altered(path: Path, what: str) -> MapexError:
    return MapexError(f"{path} does not fit its own description: {what}. The file was altered; write it anew.")
