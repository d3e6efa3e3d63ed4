"""Sentences for settings that cannot be used, in place of jsonargparse's own."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from dataclasses import fields

import lightning.pytorch as pl
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from mapex_lightning.data import sets
from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.model.auxiliary import Auxiliary
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.maps import Outputs
from mapex_lightning.train.optim import Optimiser
from mapex_lightning.train.pretrain import Pretrain

LIGHTNINGS = ("Early stopping conditioned on metric", "`val_check_interval`", "You selected an invalid", "You set `")
"""How errors of Lightning begin that are about a setting, and have no kind of their own."""

REFUSED = "Does not validate against any of the Union subtypes"
"""How the error begins that jsonargparse makes of a class that does not take its settings."""


def sentence_of(error: BaseException) -> MapexError | None:
    """The sentence for settings that cannot be used: ours, though jsonargparse has wrapped it, its own, or Lightning's.

    Returns:
        None for an error that is neither, which is a fault of the program.
    """
    if isinstance(error, MisconfigurationException) or str(error).lstrip().startswith(LIGHTNINGS):
        return _misfit(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MapexError):
        cause = cause.__cause__
    of_jsonargparse = isinstance(error, ArgumentError) or str(error).startswith(REFUSED)
    return _sentence(error) if cause is None and of_jsonargparse else cause


def _misfit(error: BaseException) -> MapexError:
    """The sentence for settings of the Trainer that Lightning cannot use."""
    message = re.sub(r"\s+", " ", str(error)).strip().rstrip(".")
    return MapexError(f"A setting of the Trainer cannot be used: {message}. See mapex COMMAND --help-all.")


def _sentence(error: BaseException) -> MapexError:
    """What jsonargparse says, in the shape of our own errors, with the nearest known name."""
    message = re.sub(r"\s+", " ", str(error)).split(" Given value type:")[0].strip()
    message = re.sub(r"Does not validate against any of the Union subtypes.*?Errors: - ", "", message)
    message = message.removesuffix(" - Expected a <class 'NoneType'>")
    if re.search(r"arguments are required: .*model$", message):
        return MapexError("The config has no model. Name one that has before it, such as --config pretrain.yaml.")
    early = re.search(r"MapexModule.*Given value: NestedArg\(key='([\w.]+)'", str(error), re.DOTALL)
    if early and (" denied by " in message or "Not a valid subclass of MapexModule" in message):
        return MapexError(
            f"--model.{early[1]} stands before the config that names the model. Give --config first, such as: "
            "mapex COMMAND --config segment.yaml --model.KEY VALUE."
        )
    if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
        return _denied(denied[1])
    if block := _strange_setting(message):
        return block
    if stray := re.search(r"[Uu]nrecognized arguments: (?:--)?([\w.]+)", message):
        return _unknown_word(stray[1], message)
    key = re.search(r"(?:[Uu]nrecognized arguments:|[Kk]ey) ['\"]?-{0,2}([\w.]+)['\"]?", message)
    name = re.search(r"(?:import path string:|class_path) ['\"]?([\w.]+)", message)
    kinds = {"model": ("model", ("Pretrain", "FineTune")), "data.sets": ("data set", sets.__all__)}
    if name and key and key[1] in kinds and "." not in name[1]:
        kind, its = kinds[key[1]]
        return unknown(kind, name[1], its)
    word, known = (name[1], _known_classes()) if name else (key[1] if key else "", _known_keys())
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    hint = f" Did you mean {near[0]}?" if near and near[0] != word else ""
    return MapexError(f"{message.rstrip('.')}.{hint} See mapex COMMAND --help-all for every setting.")


def _unknown_word(word: str, message: str) -> MapexError:
    """The sentence for a word of the command line that is no setting, as it is misspelt or has lost its dashes."""
    block = re.match(r'Parser key "([\w.]+)"', message)
    word = f"{block[1]}.{word}" if block else word
    near = difflib.get_close_matches(word, _known_keys(), n=1, cutoff=0.7)
    said = f"There is no setting {word}" if block else message.rstrip(".")
    hint = f" Did you mean --{near[0]}?" if near else ""
    return MapexError(f"{said}.{hint} See mapex COMMAND --help-all for every setting.")


def _denied(path: str) -> MapexError:
    """The sentence for a class that a config may not name, with the way to allow it where there is one."""
    first, *rest = path.split(".")
    package = ".".join(path.split(".")[:3]) if first == "lightning" and len(rest) > 2 else first
    hint = "" if first in {*sys.stdlib_module_names, "mapex_lightning"} else (
        f" If you trust the code of {package}, add --trust {package}."
    )  # fmt: skip
    return MapexError(
        f"A config names {path}, and that is not allowed: only models and data sets of mapex and some classes of "
        f"Lightning are.{hint}"
    )


def _strange_setting(message: str) -> MapexError | None:
    """The sentence for a setting that is none of the block that it stands in, such as a data set or a sensor."""
    found = re.findall(r"class_path '([\w.]+)': Option '([\w.]+)' is not accepted", message)
    if not found:
        return None
    path, setting = found[-1]
    module, _, name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    taken = inspect.signature(kind).parameters if isinstance(kind, type) else {}
    if not taken or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        return None
    place = "".join(f"{key}: " for key in re.findall(r'Parser key "([\w.]+)"', message))
    return MapexError(f"{place}{unknown('setting', setting, taken, where=f'of {name}')}")


def _known_classes() -> list[str]:
    return [Pretrain.__name__, FineTune.__name__, *sets.__all__]


def _known_keys() -> list[str]:
    keys = [f"trainer.{name}" for name in inspect.signature(pl.Trainer).parameters]
    keys += [f"data.{name}" for name in inspect.signature(TileData).parameters]
    for kind in (Pretrain, FineTune):
        keys += [
            f"{prefix}.{name}" for prefix in ("model", "model.init_args") for name in inspect.signature(kind).parameters
        ]
    keys += [f"model.optimiser.{field.name}" for field in fields(Optimiser)]
    keys += [f"model.auxiliary.{field.name}" for field in fields(Auxiliary)]
    return [*keys, *Outputs._fields, "ckpt", "run", "timeout", "config", "seed_everything"]
