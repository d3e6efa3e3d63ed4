"""What a checkpoint would put into a run is laid beside what the run has there, before any of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mapex_lightning.checkpoint import check_fits, describe
from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.train.base import MapexModule
from mapex_lightning.train.last import Last, Sharing
from mapex_lightning.train.optim import configure

NEEDED = (
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "loops",
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
)
"""What Lightning reads of the checkpoint of a run, beside weights."""

PLACE = ("epoch", "batches", "together")
"""See `mapex_lightning.data.loader.EpochLoader.state_dict`."""

RATES = ("lr", "weight_decay", "betas", "eps")
"""What AdamW needs of each of its groups."""

LARGEST = 2**53
"""The largest count that is believed."""


def check_resumable(checkpoint: Mapping[str, Any], source: str, trainer: pl.Trainer, module: MapexModule) -> None:
    """Makes sure that a run can take over from a checkpoint: progress, callbacks, optimiser, schedule and scaler.

    Lightning checks nothing of them, and what does not fit would end the run anywhere later, with a traceback.

    Args:
        checkpoint: as `mapex_lightning.checkpoint.read` returns it.
        source: where it comes from.
        trainer: of the run, which has not begun.
        module: that is to be trained.

    Raises:
        MapexError: something is missing, or is nothing that could stand there.
    """
    if replace(describe(checkpoint).encoder, allowed=()) != replace(module.encoder.config, allowed=()):
        raise MapexError(f"{source} holds another encoder than the config describes; go on with its own config.")
    check_fits(module, checkpoint["state_dict"], source)
    look = _Look(source)
    for name in NEEDED:
        look.that(name in checkpoint, name)
    loops = checkpoint["loops"]
    look.that(isinstance(loops.get("fit_loop"), dict), "loops.fit_loop")
    look.alike(loops["fit_loop"], trainer.fit_loop.state_dict(), "loops.fit_loop")
    _check_loaders(look, loops["fit_loop"]["state_dict"])
    _check_place(look, checkpoint.get(TileData.__qualname__, {}), TileData.__qualname__)
    _check_callbacks(look, checkpoint["callbacks"], trainer)
    _check_optimiser(look, checkpoint, module)
    plugin = trainer.precision_plugin
    if (name := type(plugin).__qualname__) in checkpoint:
        look.alike(checkpoint[name], plugin.state_dict(), name)


def _check_loaders(look: _Look, state: Mapping[str, Any]) -> None:
    """Of the loaders of training; there is one."""
    places = state.get("combined_loader", [{}])
    look.that(isinstance(places, list) and len(places) == 1, "loops.fit_loop.state_dict.combined_loader")
    _check_place(look, places[0], "loops.fit_loop.state_dict.combined_loader")


def _check_place(look: _Look, state: object, name: str) -> None:
    """Where in an epoch training stands; nothing where it stands nowhere."""
    look.that(isinstance(state, dict), name)
    assert isinstance(state, dict)
    look.that(not state or set(PLACE[:2]) <= set(state) <= set(PLACE), name)
    look.that(all(_counts(value) for value in state.values()), name)


def _check_callbacks(look: _Look, states: Mapping[str, Any], trainer: pl.Trainer) -> None:
    for key, state in states.items():
        look.that(isinstance(key, str) and isinstance(state, dict), "callbacks")
    for callback in vars(trainer)["callbacks"]:
        name = f"callbacks.{type(callback).__name__}"
        found = states.get(callback.state_key)
        if found is None:
            continue
        if isinstance(callback, Last):
            sharing, log = found.get("sharing"), found.get("log")
            look.that(isinstance(sharing, dict) and set(sharing) == set(Sharing._fields), f"{name}.sharing")
            look.that(all(_counts(value) and value > 0 for value in sharing.values()), f"{name}.sharing")
            look.that(isinstance(log, dict), f"{name}.log")
            look.that(all(isinstance(file, str) and _counts(value) for file, value in log.items()), f"{name}.log")
        else:
            look.alike(found, callback.state_dict(), name)


def _check_optimiser(look: _Look, checkpoint: Mapping[str, Any], module: MapexModule) -> None:
    """Of the one optimiser and its schedule: as those of a run that has not begun."""
    fresh, schedule = configure(module, module.optimiser, module.encoder.config.depth, steps=1)
    look.that(len(checkpoint["optimizer_states"]) == 1, "optimizer_states")
    look.that(len(checkpoint["lr_schedulers"]) == 1, "lr_schedulers")
    (found,), (rates,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    look.that(isinstance(found, dict) and isinstance(rates, dict), "optimizer_states")
    own = fresh.state_dict()
    name = "optimizer_states.param_groups"
    groups = found.get("param_groups")
    look.that(isinstance(groups, list) and len(groups) == len(own["param_groups"]), name)
    for group, its in zip(groups, own["param_groups"], strict=True):
        look.that(isinstance(group, dict) and group.get("params") == its["params"], f"{name}.params")
        for key, value in its.items():
            if key in RATES or (key in group and isinstance(value, float)):
                look.that(key in group, f"{name}.{key}")
                look.alike(group[key], value, f"{name}.{key}")
            elif key == "fused":
                look.that(group.get(key) in (None, False, True), f"{name}.{key}")
            elif key in group:  # what chooses between ways to compute
                look.that(type(group[key]) is type(value) and group[key] == value, f"{name}.{key}")
    weights = list(chain.from_iterable(group["params"] for group in fresh.param_groups))
    _check_moments(look, found.get("state"), weights)
    _check_schedule(look, rates, schedule)


def _check_moments(look: _Look, states: object, weights: list[Tensor]) -> None:
    name = "optimizer_states.state"
    look.that(isinstance(states, dict), name)
    assert isinstance(states, dict)
    for number, state in states.items():
        look.that(type(number) is int and 0 <= number < len(weights) and isinstance(state, dict), name)
        if not state:
            continue
        look.that(set(state) == {"step", "exp_avg", "exp_avg_sq"}, name)
        for key, value in state.items():
            shape = torch.Size() if key == "step" else weights[number].shape
            look.that(isinstance(value, Tensor) and value.shape == shape and value.is_floating_point(), f"{name}.{key}")


def _check_schedule(look: _Look, found: dict[str, Any], schedule: Any) -> None:
    own = schedule.state_dict()
    for key, value in found.items():
        # Every entry becomes an attribute of the schedule, so that one could take the place of a method.
        look.that(isinstance(key, str) and (key in own or not hasattr(schedule, key)), "lr_schedulers")
        if key in own:
            look.alike(value, own[key], f"lr_schedulers.{key}")
    for key in ("last_epoch", "base_lrs", "lr_lambdas", "_step_count"):
        look.that(key in found, f"lr_schedulers.{key}")


class _Look:
    """Compares what a checkpoint holds with what is there.

    Args:
        source: the checkpoint, for messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def that(self, true: bool, place: str) -> None:
        """Refuses the checkpoint unless something is true of a part of it."""
        if not true:
            raise MapexError(
                f"{self.source} cannot be gone on from: what stands under {place} is nothing that a run of this config "
                "could have written. The file was altered, or is of another config or version; begin another run, "
                "such as from its encoder alone."
            )

    def alike(self, found: object, own: object, place: str) -> None:
        """Refuses the checkpoint unless a value has the type of the run's own, and a table at least its entries.

        Where the run has None or an empty table there is nothing to compare with.
        """
        if isinstance(own, dict):
            self.that(isinstance(found, dict), place)
            assert isinstance(found, dict)
            for key, value in own.items():
                self.that(key in found, f"{place}.{key}")
                self.alike(found[key], value, f"{place}.{key}")
        elif isinstance(own, list | tuple):
            self.that(isinstance(found, list | tuple) and len(found) == len(own), place)
            assert isinstance(found, list | tuple)
            for one, its in zip(found, own, strict=True):
                self.alike(one, its, place)
        elif isinstance(own, Tensor):
            self.that(isinstance(found, Tensor) and found.shape == own.shape, place)
        elif isinstance(own, float):
            self.that(type(found) in (int, float), place)
        elif type(own) is int:
            self.that(_counts(found), place)
        elif own is not None:
            self.that(type(found) is type(own), place)


def _counts(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST
