"""What ``mapex doctor`` does with a config: looks at its data, builds its model, and takes a step of training."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError

from mapex_lightning.cli.building import MapexCLI, build
from mapex_lightning.cli.sentences import sentence_of
from mapex_lightning.data.examination import Finding, check_sums, examine
from mapex_lightning.data.module import TileData
from mapex_lightning.data.statistics import Statistics, measure
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.runs import find_checkpoint
from mapex_lightning.text import amount
from mapex_lightning.train.base import MapexModule
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.rehearsal import Rehearsal, before, rehearse

ROOM = 0.9
"""Share of the free memory that an estimate may take: it leaves out what operations need for a moment."""


MEMINFO = Path("/proc/meminfo")
CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))
"""Where Linux says how much memory is left, on the machine and in the container."""


class Patient(MapexCLI):
    """Data of a config, and the model where it can be built.

    Attributes:
        problem: why the model cannot be built; None where it can.
    """

    problem: MapexError | None = None

    def before_instantiate_classes(self) -> None:
        """Puts the checkpoint in, if one is given; there is no run folder."""
        if self.config.ckpt:
            try:
                self._start_from(find_checkpoint(self.config.ckpt))
            except MapexError as error:
                self.problem = error

    def instantiate_classes(self) -> None:
        """Builds the data alone first: it can be examined where the model cannot be built.

        Raises:
            MapexError: the settings of the data cannot be used.
        """
        data = self.data_alone()
        try:
            if self.problem is None:
                super().instantiate_classes()
                return
        except (MapexError, ArgumentError, ValueError) as error:
            self.problem = sentence_of(error)
            if self.problem is None:
                raise
        self.datamodule = data

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """A Trainer for nothing, whatever the config says of devices; the step has one of its own."""
        plain = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None}
        return super().instantiate_trainer(**plain, plugins=None, **kwargs)

    def normalised(self) -> list[Modality]:
        """The sensors of the data, with the statistics by which the model normalises them where it can be built."""
        if self.problem is not None:
            return list(self.datamodule.modalities)
        assert isinstance(self.model, MapexModule)
        own = {modality.name: modality for modality in self.model.encoder.config.modalities}
        return [
            replace(its, mean=own[its.name].mean, std=own[its.name].std)
            if its.name in own and own[its.name].bands == its.bands
            else its
            for its in self.datamodule.modalities
        ]

    @property
    def fine_tunes(self) -> bool:
        """Whether the model of the config learns from labels."""
        return bool(self.config.model.class_path.endswith(FineTune.__name__))

    @property
    def device(self) -> torch.device:
        """Where the Trainer of the config would train, as far as memory is looked at."""
        cuda = self.config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")

    def settings(self) -> dict[str, Any]:
        """What the Trainer of the config and that of the step have in common."""
        return {name: self.config.trainer[name] for name in ("accelerator", "precision")}


def admit(words: Sequence[str]) -> Patient:
    """Reads a config.

    Raises:
        MapexError: a setting is unknown or cannot be used.
    """
    patient = build("doctor", words, kind=Patient)
    assert isinstance(patient, Patient)
    return patient


def findings(patient: Patient, *, sums: bool) -> Iterator[Finding]:
    """All findings, one after the other as they are made.

    Args:
        patient: the config.
        sums: whether to verify checksums.
    """
    data = patient.datamodule
    try:
        labelled = data.labelled
    except MapexError:
        labelled = True  # said where the set is looked at
    sensors = patient.normalised()
    yield from examine(data.sets, sensors, data.extent, labelled=labelled, wanted=patient.fine_tunes)
    for sentence in patient.disagreements() if patient.problem is None else ():
        remedy = "A model keeps the statistics of its checkpoint: read the data as those that it was trained on."
        yield Finding("look", "values", f"{sentence[0].upper()}{sentence[1:]}", remedy)
    if sums:
        yield from check_sums(data.sets)
    yield from _model(patient)


def _model(patient: Patient) -> Iterator[Finding]:
    """Whether the model can be built and trained, and the memory that it takes."""
    if patient.problem is not None:
        remedy = "Memory and a training step could not be looked at."
        yield Finding("wrong", "model", f"The model cannot be built: {patient.problem}", remedy)
        return
    assert isinstance(patient.model, MapexModule)
    standing, device = before(patient.model), patient.device
    left = free(device)
    if left is not None and device.type == "cpu":
        left += standing.parameters  # they are there already
    if left is not None and standing.of(0) > left:
        yield Finding(
            "wrong",
            "memory",
            f"Weights, gradients and optimiser alone take {amount(standing.of(0))}, and {amount(left)} are free on "
            f"{device.type}, so no step was taken.",
            "Take a smaller encoder, or a device with more memory.",
        )
        return
    try:
        found = rehearse(patient.model, patient.datamodule, **patient.settings())
    except MapexError as error:
        yield Finding("wrong", "step", f"A step of training is not possible. {error}", "Mend this first.")
        return
    name, batch = type(patient.model).__name__, patient.datamodule.batch_size
    if found.finite:
        yield Finding(
            "ok",
            "step",
            f"{name} takes a step on {found.tiles} tiles: loss {found.loss:.4g}, norm of the gradient "
            f"{found.gradient:.3g}.",
        )
    else:
        yield Finding(
            "wrong",
            "step",
            f"{name} takes a step on {found.tiles} tiles, and its loss is {found.loss:g}, the norm of its gradient "
            f"{found.gradient:g}.",
            "Look at values, mean and std of the modalities; try --trainer.precision 32-true.",
        )
    yield memory(found, batch, left)


def memory(found: Rehearsal, batch: int, left: int | None) -> Finding:
    """What the memory of training comes to.

    Args:
        found: the step.
        batch: tiles of a batch of the config, per device.
        left: bytes that are free on the device; None where that cannot be told.
    """
    need = found.memory.of(batch)
    parts = found.memory
    told = (
        f"About {amount(need)} for training with batches of {batch} (an estimate from a step on {found.tiles}: weights "
        f"{amount(parts.parameters)}, gradients {amount(parts.gradients)}, optimiser {amount(parts.optimiser)}, kept "
        f"for the backward pass {amount(parts.fixed)} and {amount(parts.per_tile)} a tile)"
    )
    if left is None:
        return Finding("ok", "memory", f"{told}.")
    if need <= ROOM * left:
        return Finding("ok", "memory", f"{told}; {amount(left)} are free on {found.device.type}.")
    fits = found.memory.most_tiles(int(ROOM * left))
    remedy = (
        f"Lower data.batch_size to {fits} or less and raise trainer.accumulate_grad_batches, or take a smaller encoder."
        if fits
        else "Take a smaller encoder, or train on a larger device."
    )
    return Finding("look", "memory", f"{told}; only {amount(left)} are free on {found.device.type}.", remedy)


def free(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not MEMINFO.is_file():
        return None
    available = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text())
    limits = [file.read_text().strip() for file in CGROUP if file.is_file()]
    rooms = [int(available[1]) * 1024] if available else []
    if len(limits) == len(CGROUP) and limits[0].isdecimal():
        rooms.append(int(limits[0]) - int(limits[1]))
    return min(rooms, default=None)


def statistics_of(data: TileData) -> tuple[list[tuple[Modality, Statistics]], list[str]]:
    """Statistics of all training tiles, of all sets together, in one pass over each.

    Returns:
        Per modality that has tiles, its statistics; and a sentence per tile that cannot be read.

    Raises:
        MapexError: a set is not there.
    """
    found = {modality.name: Statistics(modality.bands) for modality in data.modalities}
    unread: list[str] = []
    for source in data.sets:
        offered = [modality for modality in data.modalities if source.offers(modality)]
        keys = source.keys("train", offered) if offered else []
        its = measure(source, keys, offered, data.workers, _progress(len(keys)))
        for name, statistics in its.statistics.items():
            found[name].merge(statistics)
        unread += its.unread
    return [(modality, found[modality.name]) for modality in data.modalities if any(found[modality.name].count)], unread


def _progress(total: int) -> Callable[[int], object] | None:
    """A line that counts tiles, for people who wait."""
    if not sys.stderr.isatty():
        return None
    return lambda done: print(
        f"{done:,} of {total:,} tiles", end="\r" if done < total else "\n", file=sys.stderr, flush=True
    )
