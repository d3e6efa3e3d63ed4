"""What a checkpoint is: its description, its sizes, and what its census says.

Axes: M modalities, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mapex_lightning.checkpoint import ENCODER, KEY, Description, describe, read, weights
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.mixture import CENSUS
from mapex_lightning.model.specialisation import specialisation
from mapex_lightning.pruning import Kept, Policy, census_of, choose, count_bytes, count_parameters, is_parameter
from mapex_lightning.pruning.surgery import Cut
from mapex_lightning.text import aligned, indented, megabytes

Figures = Mapping[str, Tensor]
"""See `mapex_lightning.model.specialisation.specialisation`."""

USAGE = {"hard": "tokens", "soft": "probability"}
"""The two ways to say who uses which expert: by the experts that were chosen, and by mean router probabilities."""

LIGHTNING = "pytorch-lightning_version"
"""The key under which Lightning notes its version."""

TRAINING = {"epoch": "epoch", "step": "global_step"}
"""Lightning's keys for where a run was when it wrote the file; its epochs count from 0."""

DASH = "\u2013"
"""Where there is nothing to say."""

NOTES = (
    "NMI: normalised mutual information of sensor and expert; 1: the expert tells the sensor, 0: it says nothing.",
    "Hard: by the experts that tokens chose; soft: by mean router probabilities. Dead: chosen by no token.",
)
"""How to read the table of experts."""

KINDS = {"pretrain": "pre-trained", "prune": "pruned", "finetune": "fine-tuned"}

PARTS = (
    ("mixture.experts", "experts"),
    ("mixture.shared", "shared experts"),
    ("mixture.router", "routers"),
    ("dense", "dense feed-forwards"),
    ("low_rank", "low-rank experts"),
    ("attention", "attention"),
    ("patchify", "patch embeddings"),
    ("low_rank", "low-rank experts"),
    ("norm", "norms"),
    ("", "others"),
)
"""The parts of an encoder by what their weights' names contain; the first that fits."""


class Alone(NamedTuple):
    """What pruning to one sensor would leave.

    Attributes:
        experts: those that stay, per mixture block.
        parameters: of the encoder.
    """

    experts: Kept
    parameters: int


@dataclass(frozen=True)
class Info:
    """What there is to know about a checkpoint without running it.

    Args:
        source: where it lies.
        size: bytes of the file.
        description: what it says of itself.
        versions: of the format, of mapex and of Lightning, by which it was written.
        training: where the run that wrote it was; empty for a file that no run wrote.
        parameters: trained numbers of the encoder by part.
        others: trained numbers of what is no encoder: decoder, head.
        bytes: of the encoder's weights.
        usage: per mixture block whose census has seen tokens, hard and soft figures of its specialisation.
        alone: per sensor what pruning to it would leave; nothing for one that the census has not seen.
    """

    source: str
    size: int
    description: Description
    versions: Mapping[str, str]
    training: Mapping[str, int]
    parameters: Mapping[str, int]
    others: Mapping[str, int]
    bytes: int
    usage: Mapping[int, Mapping[str, Figures]]
    alone: Mapping[str, Alone]

    def plain(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        config = self.description.encoder
        described = config.describe()
        sensors, experts, allowed = (described.pop(key) for key in ("modalities", "experts", "allowed"))
        return {
            "checkpoint": self.source,
            "bytes": {"file": self.size, "encoder": self.bytes},
            "kind": self.description.kind,
            "versions": dict(self.versions),
            "training": dict(self.training),
            "lineage": list(self.description.lineage),
            "modalities": sensors,
            "encoder": {**described, "sealed": config.sealed},
            "blocks": [
                {
                    "block": block,
                    "experts": count,
                    "allowed": dict(zip(config.names, allowed[block], strict=True)) if allowed and count else None,
                    "needed": {name: list(a.experts[block]) for name, a in self.alone.items()} if count else {},
                    "usage": {how: _plain(figures) for how, figures in self.usage.get(block, {}).items()},
                    "dead": list(self.dead(block)),
                }
                for block, count in enumerate(experts)
            ],
            "parameters": {
                "encoder": sum(self.parameters.values()),
                **self.others,
                "parts": dict(self.parameters),
                "pruned to": {name: alone.parameters for name, alone in self.alone.items()},
            },
            "head": None if self.description.head is None else dict(self.description.head),
            "decoder": None if self.description.decoder is None else dict(self.description.decoder),
        }

    def heading(self) -> str:
        """What made the file, in a sentence."""
        kind = KINDS[self.description.kind]
        run = ", ".join(f"{what} {count}" for what, count in self.training.items())
        made = f"format {self.versions['format']}, written by {self.writers()}"
        return f"{kind} encoder{f' ({run})' if run else ''}, {made}"

    def writers(self) -> str:
        """What wrote the file."""
        return " and ".join(f"{name} {version}" for name, version in self.versions.items() if name != "format")

    def shape(self) -> str:
        """The encoder in a sentence."""
        config = self.description.encoder
        mixtures = (
            f"{len(config.mixtures)} of them mixtures ({config.router} router, top {config.top_k}"
            f"{', with a shared expert' if config.shared else ''}), {'sealed' if config.sealed else 'not sealed'}"
            if config.mixtures
            else "all of them dense"
        )
        return (
            f"{config.width} wide, {config.heads} heads, patches of {config.patch} x {config.patch} pixels, "
            f"{config.depth} blocks, {mixtures}"
            f"{f', low-rank experts of rank {config.low_rank}' if config.low_rank else ''}"
        )

    def table(self) -> str:
        """The same for people."""
        config = self.description.encoder
        lines = [f"{self.source}  ({megabytes(self.size)})", self.heading(), "", "lineage"]
        lines += [f"  {number}. {line}" for number, line in enumerate(self.description.lineage, 1)]
        for modality in config.modalities:
            lines += [
                "",
                heading_of(modality),
                *(line for rows in statistics(modality) for line in indented(aligned(rows))),
            ]
        lines += ["", f"encoder: {self.shape()}", "", *indented(aligned(self.sizes()))]
        if self.alone:
            lines += ["", *indented(aligned(self.prunings()))]
        if config.mixtures:
            lines += ["", f"experts of each block; of each sensor those that it needs ({self.rule()})"]
            rows = self.blocks()
            lines += indented(aligned(rows, left=(0, *range(len(rows[0]) - len(config.names) - 1, len(rows[0])))))
            lines += ["", *indented(NOTES)]
        return "\n".join(lines)

    def sizes(self) -> list[list[str]]:
        """A head and rows of part, trained numbers, share of the encoder."""
        total = sum(self.parameters.values())
        rows = [[part, f"{count:,}", f"{count / total:.1%}"] for part, count in self.parameters.items() if count]
        others = [[f"{what} (beside the encoder)", f"{count:,}", ""] for what, count in self.others.items()]
        return [["part", "parameters", "share"], *rows, ["encoder", f"{total:,}", "100.0%"], *others]

    def prunings(self) -> list[list[str]]:
        """A head and a row per sensor: the parameters that pruning to it would leave."""
        total = sum(self.parameters.values())
        rows = [[name, f"{a.parameters:,}", f"{a.parameters / total - 1:+.1%}"] for name, a in self.alone.items()]
        return [["pruned to", "parameters", "change"], *rows]

    def dead(self, block: int) -> tuple[int, ...]:
        """The experts that no sensor uses, of a mixture whose census has seen tokens."""
        if block not in self.usage:
            return ()
        return tuple((self.usage[block]["hard"]["share"].sum(0) == 0).nonzero()[:, 0].tolist())

    def rule(self) -> str:
        """By what the experts that a sensor needs are found."""
        policy = Policy.standard(self.description.encoder)
        return "sealed" if policy.rule == "sealed" else f"{policy.amount:.0%} of its mass"

    def blocks(self) -> list[list[str]]:
        """A head and a row per block: experts, specialisation, and the experts that each sensor needs."""
        names = self.description.encoder.names
        rows = [["block", "experts", *(f"NMI {how}" for how in USAGE), "dead", *names]]
        for block, count in enumerate(self.description.encoder.experts):
            usage = self.usage.get(block, {})
            nmi = [_figure(float(usage[how]["nmi"])) if how in usage else DASH if count else "" for how in USAGE]
            dead = _listed(self.dead(block)) or "none" if usage else DASH if count else ""
            sets = [self._needs(name, block) if count else "" for name in names]
            rows.append([str(block), str(count) if count else "dense", *nmi, dead, *sets])
        return rows

    def _needs(self, name: str, block: int) -> str:
        return _listed(self.alone[name].experts[block]) if name in self.alone else DASH


def inform(path: str | Path) -> Info:
    """Reads what a checkpoint is; of the weights only the census is looked at.

    Raises:
        MapexError: see `mapex_lightning.checkpoint.read`.
    """
    checkpoint = read(path)
    description, state = describe(checkpoint), weights(checkpoint, ENCODER)
    config = description.encoder
    census = census_of(config, state, str(path))
    versions = {"format": str(checkpoint[KEY]["format"]), "mapex": checkpoint[KEY]["version"]}
    if LIGHTNING in checkpoint:
        versions["Lightning"] = checkpoint[LIGHTNING]
    others = {part: count_parameters(weights(checkpoint, f"{part}.")) for part in ("decoder", "head")}
    return Info(
        source=str(path),
        size=Path(path).stat().st_size,
        description=description,
        versions=versions,
        training={word: checkpoint[key] for word, key in TRAINING.items() if key in checkpoint},
        parameters=_by_part(state),
        others={part: count for part, count in others.items() if count},
        bytes=count_bytes(state),
        usage={block: _usage(c) for block, c in census.items() if bool(c[0].any())},
        alone=_alone(config, census, state),
    )


def _usage(census: Tensor) -> dict[str, Figures]:
    """Hard and soft figures; the soft ones are missing in a file of format 1, which did not count them."""
    counted = {how: census[CENSUS.index(row), :, :-1] for how, row in USAGE.items()}
    return {how: specialisation(table) for how, table in counted.items() if bool(table.any())}


def _alone(config: EncoderConfig, census: Mapping[int, Tensor], state: Mapping[str, Tensor]) -> dict[str, Alone]:
    """What pruning to each sensor would leave; nothing for one that no tile had."""
    shapes = {name: value.to("meta") for name, value in state.items() if is_parameter(name)}
    found = {}
    for name in config.names:
        with suppress(MapexError):  # the census has not seen it
            experts = choose(config, census, (name,), Policy.standard(config), lambda kept: 0)
            found[name] = Alone(experts, count_parameters(Cut(config, (name,), experts, {}).weights(shapes)))
    return found


def _by_part(state: Mapping[str, Tensor]) -> dict[str, int]:
    counted = dict.fromkeys((part for _, part in PARTS), 0)
    for name, value in state.items():
        if is_parameter(name):
            counted[next(part for marker, part in PARTS if marker in name)] += value.numel()
    return {part: count for part, count in counted.items() if count}


def heading_of(modality: Modality) -> str:
    """A sensor in a line."""
    speckle = ", speckle" if modality.speckle else ""
    return f"{modality.name}: {modality.gsd:g} m per pixel, {modality.unit}{speckle}"


def statistics(modality: Modality, across: int = 12) -> list[list[list[str]]]:
    """Tables of bands, means and standard deviations, each of `across` bands at most."""
    runs = [slice(start, start + across) for start in range(0, len(modality.bands), across)]
    return [
        [
            ["band", *modality.bands[run]],
            ["mean", *(f"{value:g}" for value in modality.mean[run])],
            ["std", *(f"{value:g}" for value in modality.std[run])],
        ]
        for run in runs
    ]


def _figure(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else DASH


def _plain(figures: Figures) -> dict[str, Any]:
    return {name: _finite(value.tolist()) for name, value in figures.items()}


def _finite(value: Any) -> Any:
    """Numbers, in lists or not, with None for what JSON has no word for."""
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value if math.isfinite(value) else None


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
