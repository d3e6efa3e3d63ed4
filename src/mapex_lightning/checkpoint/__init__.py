"""Checkpoints: an encoder with its description, in a file that carries its checksum and is read strictly."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast

import torch
from torch import Tensor

from mapex_lightning import __version__
from mapex_lightning.checkpoint.checksum import ChecksumWriter, damaged, verify
from mapex_lightning.checkpoint.pickled import check_pickle
from mapex_lightning.checkpoint.safetensors import SUFFIX, read_safetensors, save_safetensors
from mapex_lightning.checkpoint.validation import (
    check_archive,
    check_description,
    check_run,
    check_tensors,
    check_weights,
    printable,
)
from mapex_lightning.errors import MapexError
from mapex_lightning.files import local, write_whole
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.shapes import shapes

if TYPE_CHECKING:
    from mapex_lightning.model.decoder import Decoder
    from mapex_lightning.model.encoder import Encoder

FORMAT = 3
"""The number of the layout below. An older number is carried over by a function of `MIGRATIONS`."""

KEY = "mapex"
ENCODER = "encoder."
"""Prefix of the encoder's weights among all weights."""

Kind = Literal["pretrain", "prune", "finetune"]
Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself.

    Args:
        kind: what made it last.
        encoder: the encoder, with bands, units, statistics and experts per block.
        lineage: what was done to get here, oldest first, a line each.
        head: for a fine-tuned model, its task, its classes and how it pools.
        decoder: for a pre-training run, the shape of its decoder.
    """

    kind: Kind
    encoder: EncoderConfig
    lineage: tuple[str, ...]
    head: Mapping[str, Any] | None = None
    decoder: Mapping[str, int] | None = None

    def plain(self) -> dict[str, Any]:
        """Plain types, as stored under the key ``mapex``."""
        return {
            "format": FORMAT,
            "version": __version__,
            "kind": self.kind,
            "encoder": self.encoder.describe(),
            "lineage": list(self.lineage),
            "head": None if self.head is None else dict(self.head),
            "decoder": None if self.decoder is None else dict(self.decoder),
        }

    def followed_by(self, step: str) -> tuple[str, ...]:
        """The lineage with one more line."""
        return (*self.lineage, step)


def read(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of ours into memory; only tensors and plain types can be in it.

    Args:
        path: a local file; one that ends in ``.safetensors`` is read as such.

    Raises:
        MapexError: it is missing, a URL, truncated, not a checkpoint of ours, or of an unknown format.
    """
    path = local(path)
    if not path.is_file():
        raise MapexError(f"Wanted a checkpoint; found {'a folder' if path.is_dir() else 'no file'} at {path}.")
    found = _open(path, str(path))
    check_weights(found["state_dict"], path)
    number = found[KEY].get("format")
    while type(number) is int and number in MIGRATIONS:
        try:
            MIGRATIONS[number](found)
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise MapexError(f"{path} has checkpoint format {number}, but not what belongs into one.") from error
        number = found[KEY]["format"]
    if number != FORMAT:
        raise MapexError(
            f"{path} has checkpoint format {number}; this version ({__version__}) reads 1 to {FORMAT}. "
            "Update mapex-lightning, or write the file anew with a version that matches."
        )
    _check(found, path, str(path))
    return found


def _check(found: Mapping[str, Any], path: Path, name: str) -> None:
    """Makes sure that a checkpoint of today's format is what it says, which needs no layer and no memory.

    Args:
        found: what the file holds.
        path: the file.
        name: what errors about weights call it.

    Raises:
        MapexError: it is not.
    """
    check_description(found[KEY], path)
    check_run(found, path)
    encoder = weights(found, ENCODER)
    check_shapes(shapes(EncoderConfig.of(found[KEY]["encoder"])), encoder, name)
    if strange := sorted(key for key, value in encoder.items() if not value.is_floating_point()):
        raise MapexError(
            f"{name} does not fit its own description: weights such as {printable(strange[0])} are no "
            "fractions. The file was altered; write it anew."
        )


def _open(path: Path, name: str) -> dict[str, Any]:
    """What a file holds, of whatever format, once its checksum has been verified.

    Args:
        path: the file.
        name: what errors call it.

    Raises:
        MapexError: see `read`.
    """
    try:
        if path.suffix == SUFFIX:
            verified, found = True, read_safetensors(path, KEY, name)
        else:
            verified = verify(path, name)
            check_archive(path)
            check_pickle(path, name)
            with _tensors_only(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of TorchScript, which is refused
                found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            check_tensors(found, path)
    except MapexError:
        raise
    except pickle.UnpicklingError as error:
        raise MapexError(
            f"{name} is refused: it is not a checkpoint of plain weights, and loading anything else could run code."
        ) from error
    except Exception as error:  # a damaged file without a checksum makes torch raise anything
        raise MapexError(f"{name} cannot be read as a checkpoint; it is damaged, cut off or another format.") from error
    if not isinstance(found, dict) or not isinstance(found.get(KEY), dict) or "state_dict" not in found:
        raise MapexError(f"{name} is no checkpoint of mapex: it lacks the description that `mapex fit` writes.")
    if found[KEY].get("format") == FORMAT and not verified:
        raise damaged(name, "it has lost the checksum at its end, or a Trainer without WholeCheckpointIO wrote it")
    return found


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Takes from torch's list of what may be loaded what libraries, torch's own distributed one too, have added."""
    added = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(added)


def _from_format_2(found: dict[str, Any]) -> None:
    """Format 2 had no checksum."""
    found[KEY]["format"] = 3


def _from_format_1(found: dict[str, Any]) -> None:
    """Format 1 had no routes, no low-rank experts, one way to pool, and a census without the router's probabilities."""
    found[KEY]["encoder"] |= {"routes": [], "low_rank": 0}
    if found[KEY]["head"] is not None:
        found[KEY]["head"]["pool"] = "mean"
    for name, value in found["state_dict"].items():
        if name.endswith(".census"):
            found["state_dict"][name] = torch.cat([value, torch.zeros_like(value[:1])])
    found[KEY]["format"] = 2


MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], None]] = {1: _from_format_1, 2: _from_format_2}
"""How a checkpoint of an older format becomes one of the next, in place."""


def describe(checkpoint: Mapping[str, Any]) -> Description:
    """The description inside a checkpoint that `read` has returned."""
    plain = checkpoint[KEY]
    return Description(
        kind=plain["kind"],
        encoder=EncoderConfig.of(plain["encoder"]),
        lineage=tuple(plain["lineage"]),
        head=plain["head"],
        decoder=plain["decoder"],
    )


def weights(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The weights whose names start with `prefix`, with the prefix taken off."""
    return {
        name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)
    }


def load_weights(module: torch.nn.Module, found: Mapping[str, Tensor], source: str) -> None:
    """Loads weights strictly.

    Raises:
        MapexError: names or shapes differ; the sentence names the first few.
    """
    check_fits(module, found, source)
    module.load_state_dict(dict(found), strict=True)


def check_fits(module: torch.nn.Module, found: Mapping[str, Tensor], source: str) -> None:
    """Makes sure that weights have the names and shapes of a module's own.

    Raises:
        MapexError: see `load_weights`.
    """
    check_shapes({name: tuple(value.shape) for name, value in module.state_dict().items()}, found, source)


def check_shapes(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], source: str) -> None:
    """Makes sure that weights have these names and shapes.

    Raises:
        MapexError: see `load_weights`.
    """
    given = {name: tuple(value.shape) for name, value in found.items()}
    differ = sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name))
    if differ:
        raise MapexError(
            f"{source} does not fit its own description: {len(differ)} weights are missing, surplus or of another "
            f"shape, such as {', '.join(map(printable, differ[:3]))}. The file was altered; write it anew."
        )


def built(build: Callable[[], Module], found: Mapping[str, Tensor], source: str) -> Module:
    """A module that a checkpoint describes, with its weights.

    It is built without memory first: a description may claim any size, but only one whose weights are there gets it.

    Raises:
        MapexError: see `load_weights`.
    """
    check_buildable(build, found, source)
    module = build()
    load_weights(module, found, source)
    return module


def check_buildable(build: Callable[[], torch.nn.Module], found: Mapping[str, Tensor], source: str) -> None:
    """Makes sure that weights are those of a module, without making one.

    Raises:
        MapexError: see `load_weights`.
    """
    try:
        with torch.device("meta"):
            claimed = build()
    except (RuntimeError, ArithmeticError, LookupError, AssertionError) as error:  # torch has no tensor of that size
        raise MapexError(f"{source} describes a model that cannot be. The file was altered; write it anew.") from error
    check_fits(claimed, found, source)


def grow(encoder: Encoder, found: Mapping[str, Tensor], source: str) -> None:
    """Loads the weights of an encoder without low-rank experts into one that has fresh ones; strictly.

    Raises:
        MapexError: see `load_weights`.
    """
    fresh = {name: value for name, value in encoder.state_dict().items() if ".low_rank." in name}
    assert not fresh.keys() & found.keys()
    load_weights(encoder, {**fresh, **found}, source)


def load(path: str | Path) -> Encoder:
    """The encoder of a checkpoint, in evaluation mode: pre-trained, pruned or fine-tuned alike.

    Args:
        path: a file that `mapex fit` or `mapex prune` wrote.

    Raises:
        MapexError: see `read`.
    """
    return encoder_of(read(path), str(path))


def encoder_of(checkpoint: Mapping[str, Any], source: str) -> Encoder:
    """The encoder of a checkpoint in memory, in evaluation mode.

    Args:
        checkpoint: as `read` returns it.
        source: where it comes from, for errors.

    Raises:
        MapexError: see `load_weights`.
    """
    from mapex_lightning.model.encoder import Encoder  # timm takes seconds to import, and pruning needs no layer

    config = describe(checkpoint).encoder
    return built(lambda: Encoder(config), weights(checkpoint, ENCODER), source).eval()


def load_decoder(path: str | Path) -> Decoder | None:
    """The decoder of a pre-training checkpoint, in evaluation mode; None where there is none, as after pruning.

    Args:
        path: a file that `mapex fit` or `mapex prune` wrote.

    Raises:
        MapexError: see `read`.
    """
    from mapex_lightning.model.decoder import Decoder, DecoderConfig

    checkpoint = read(path)
    description = describe(checkpoint)
    if description.decoder is None:
        return None
    config, shape = description.encoder, DecoderConfig(**description.decoder)
    return built(lambda: Decoder(config, shape), weights(checkpoint, "decoder."), str(path)).eval()


def save(encoder: Encoder, path: str | Path, made_by: str = "python") -> None:
    """Writes an encoder and its description; `load` gives it back.

    Args:
        encoder: any encoder.
        path: the file to write.
        made_by: the line of the lineage.
    """
    state = {ENCODER + name: value for name, value in encoder.state_dict().items()}
    description = Description("pretrain", encoder.config, (made_by,))
    write({"state_dict": state, KEY: description.plain()}, path)


def write(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Writes a checkpoint so that the file under `path` is always whole: the old one or the new one.

    The new one takes its place when it has been read back from the disk and verified.

    Args:
        checkpoint: tensors and plain types, with a description.
        path: the file to write.

    Raises:
        MapexError: the file cannot be written, or what was written cannot be read back; the old one is untouched.
    """
    content = dict(checkpoint)
    write_whole(path, partial(_fill, content), _room(content), partial(_read_back, str(path)))


def _fill(content: dict[str, Any], beside: Path) -> None:
    with beside.open("wb") as file:
        writer = ChecksumWriter(file)
        torch.save(content, cast("BinaryIO", writer))  # all that it asks for is write and flush
        writer.finish()


def _room(content: object) -> int:
    """The bytes that a checkpoint will need, or a little more."""
    stores = {store.data_ptr(): store.nbytes() for store in _stores(content)}
    return sum(stores.values()) + 1024 * len(stores) + 2**16


def _stores(value: object) -> Iterator[torch.UntypedStorage]:
    """The memory behind all tensors; of those that share some, it comes more than once."""
    if isinstance(value, Tensor):
        if value.layout == torch.strided:
            yield value.untyped_storage()
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _stores(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _stores(inner)


def _read_back(name: str, beside: Path) -> None:
    try:
        found = _open(beside, name)
        check_weights(found["state_dict"], beside)
        _check(found, beside, name)
    except MapexError as error:
        raise MapexError(f"What was to be saved would not load again, so the old file stays: {error}") from error


def write_safetensors(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Writes weights and description of a checkpoint as safetensors, whole or not at all; `read` gives them back.

    Optimiser, callbacks and all else that a run needs to go on are left out.

    Args:
        checkpoint: as `read` returns it.
        path: the file, which must end in ``.safetensors``.
    """
    assert Path(path).suffix == SUFFIX
    write_whole(path, lambda beside: save_safetensors(checkpoint["state_dict"], checkpoint[KEY], KEY, beside))
