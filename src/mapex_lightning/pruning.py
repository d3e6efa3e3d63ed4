"""Pruning: which experts the kept sensors need, and the smaller checkpoint that holds just those.

Axes: M modalities, E experts. Everything here is a pure function of descriptions and tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mapex_lightning.checkpoint import ENCODER, KEY, Description, Kind, describe, weights
from mapex_lightning.errors import MapexError
from mapex_lightning.model.config import Allowed, EncoderConfig
from mapex_lightning.model.mixture import CENSUS

COVERAGE = 0.99
"""Share of a modality's mass that its experts must carry, unless said otherwise."""

Census = Mapping[int, Tensor]
"""Per mixture block, (3, M, E + 1): see `mapex_lightning.model.mixture.CENSUS`."""


@dataclass(frozen=True)
class Report:
    """What pruning kept and what it cost.

    Args:
        keep: the kept modalities.
        experts: per mixture block, the kept experts by their old numbers.
        before: experts per mixture block before.
        retained: per kept modality and mixture block, the share of its mass that stays.
        parameters: of the encoder, before and after.
        bytes: of the encoder's weights, before and after.
        exact: whether the pruned model's output is that of the full one for every input (the model was sealed).
    """

    keep: tuple[str, ...]
    experts: Mapping[int, tuple[int, ...]]
    before: Mapping[int, int]
    retained: Mapping[str, Mapping[int, float]]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    exact: bool

    def plain(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "keep": list(self.keep),
            "experts_kept": {str(block): list(kept) for block, kept in self.experts.items()},
            "experts_before": {str(block): count for block, count in self.before.items()},
            "retained_mass": {
                name: {
                    "mean": sum(blocks.values()) / max(1, len(blocks)),
                    "minimum": min(blocks.values(), default=1.0),
                    "blocks": {str(block): value for block, value in blocks.items()},
                }
                for name, blocks in self.retained.items()
            },
            "parameters": {"before": self.parameters[0], "after": self.parameters[1]},
            "bytes": {"before": self.bytes[0], "after": self.bytes[1]},
            "exact": self.exact,
        }

    def table(self) -> str:
        """The same for people."""
        lines = [f"kept {', '.join(self.keep)}" + ("; sealed: output unchanged for every input" if self.exact else "")]
        for block, kept in self.experts.items():
            lines.append(f"  block {block:2d}: experts {', '.join(map(str, kept))} of {self.before[block]}")
        for name, blocks in self.retained.items():
            mean = sum(blocks.values()) / max(1, len(blocks))
            lines.append(f"  {name}: retained mass {mean:.4f} mean, {min(blocks.values(), default=1.0):.4f} minimum")
        for what, (before, after) in (("parameters", self.parameters), ("bytes", self.bytes)):
            lines.append(f"  {what}: {before:,} -> {after:,} ({after / before - 1:+.1%})")
        return "\n".join(lines)


def mass(census: Tensor) -> Tensor:
    """Each modality's mass per expert, (M, E + 1): sum of gate x |output|, the contribution to the result (REAP)."""
    return census[CENSUS.index("contribution")].double()


def cover(scores: Tensor, coverage: float) -> tuple[int, ...]:
    """The smallest set of experts that carries `coverage` of the mass; ties go to the lower number.

    Args:
        scores: (E + 1,), the last for experts that are already gone and cannot be kept.
        coverage: between 0 and 1. The sets of two coverages are nested.

    Returns:
        At least one expert, ascending.
    """
    order = scores[:-1].argsort(descending=True, stable=True)
    reached = scores[order].cumsum(0) >= coverage * scores.sum() * (1 - 1e-12)
    # Experts that carry nothing never help to reach the coverage.
    count = int(reached.nonzero()[0, 0]) + 1 if bool(reached.any()) else max(1, int((scores[:-1] > 0).sum()))
    return tuple(sorted(order[:count].tolist()))


def sets(config: EncoderConfig, census: Census, coverage: float) -> Allowed:
    """The experts that each modality needs at a coverage, per block: what sealing stores.

    In a sealed model these are found among the allowed experts.

    Raises:
        MapexError: the census has not seen a modality.
    """
    if not 0 < coverage <= 1:
        raise MapexError(f"Coverage is a share above 0 and up to 1; found {coverage}.")
    found: list[tuple[tuple[int, ...], ...]] = []
    for block, count in enumerate(config.experts):
        if not count:
            found.append(())
            continue
        scores = mass(census[block])
        for modality, row in zip(config.names, scores, strict=True):
            if float(row.sum()) <= 0:
                raise MapexError(
                    f"The census of block {block} has seen no token of {modality}, so nobody knows which experts it "
                    "needs. Refresh it on tiles that have it: mapex prune --ckpt FILE --keep ... --config TILES.yaml."
                )
        found.append(tuple(cover(row, coverage) for row in scores))
    return tuple(found)


def choose(config: EncoderConfig, census: Census, keep: Sequence[str], coverage: float | None) -> Allowed:
    """The experts of each kept modality, per block.

    Args:
        config: the encoder.
        census: its census.
        keep: names of modalities.
        coverage: None for the sealed sets where there are some (then pruning is exact), else `COVERAGE`.

    Returns:
        Per block and kept modality, in the encoder's order.

    Raises:
        MapexError: nothing is kept, a name is unknown, or the census has not seen a kept modality.
    """
    if not keep:
        raise MapexError(f"Nothing would be left: keep one or more of {', '.join(config.names)}.")
    for name in keep:
        config.modality(name)
    kept = [index for index, name in enumerate(config.names) if name in keep]
    if config.sealed and coverage is None:
        whole = config.allowed
        return tuple(tuple(rows[m] for m in kept) if rows else () for rows in whole)
    narrowed = replace(config, modalities=tuple(config.modalities[m] for m in kept), allowed=())
    return sets(
        narrowed, {block: c[:, kept] for block, c in census.items()}, COVERAGE if coverage is None else coverage
    )


def prune(
    checkpoint: Mapping[str, Any], keep: Sequence[str], coverage: float | None = None
) -> tuple[dict[str, Any], Report]:
    """The checkpoint of the encoder for just the kept modalities.

    Cuts experts, router rows, patch embeddings and modality vectors; drops decoder and optimiser; keeps a head.

    Args:
        checkpoint: as `mapex_lightning.checkpoint.read` returns it.
        keep: names of modalities.
        coverage: see `choose`.

    Returns:
        A checkpoint that stands alone, and what was done.

    Raises:
        MapexError: see `choose`.
    """
    description = describe(checkpoint)
    config, state = description.encoder, weights(checkpoint, ENCODER)
    census = {block: state[f"blocks.{block}.mixture.census"] for block in config.mixtures}
    needed = choose(config, census, keep, coverage)
    names = tuple(name for name in config.names if name in keep)
    union = {block: tuple(sorted({e for row in needed[block] for e in row})) for block in config.mixtures}
    smaller = _smaller(config, names, needed, union)
    sliced = {
        name: cut.contiguous().clone()
        for name, value in state.items()
        if (cut := _cut(name, value, config, names, union)) is not None
    }
    step = f"prune --keep {','.join(names)}" + ("" if coverage is None else f" --coverage {coverage:g}")
    kind: Kind = "finetune" if description.head else "prune"
    pruned = Description(kind, smaller, description.followed_by(step), description.head)
    head = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("head.")}
    report = Report(
        keep=names,
        experts=union,
        before={block: config.experts[block] for block in config.mixtures},
        retained=_retained(config, census, names, needed),
        parameters=(count_parameters(state), count_parameters(sliced)),
        bytes=(count_bytes(state), count_bytes(sliced)),
        exact=config.sealed and coverage is None,
    )
    all_weights = {**{ENCODER + name: value for name, value in sliced.items()}, **head}
    return {"state_dict": all_weights, KEY: pruned.plain()}, report


def _smaller(
    config: EncoderConfig, names: tuple[str, ...], needed: Allowed, union: Mapping[int, tuple[int, ...]]
) -> EncoderConfig:
    experts = tuple(len(union[b]) if count else 0 for b, count in enumerate(config.experts))
    allowed: Allowed = ()
    if config.sealed:
        # All that a sensor was allowed and that is still there: another kept sensor may need it at this coverage.
        kept = [config.names.index(name) for name in names]
        allowed = tuple(
            tuple(tuple(union[b].index(e) for e in config.allowed[b][m] if e in union[b]) for m in kept) if rows else ()
            for b, rows in enumerate(needed)
        )
    return replace(config, modalities=tuple(map(config.modality, names)), experts=experts, allowed=allowed)


def _cut(
    name: str, value: Tensor, config: EncoderConfig, names: tuple[str, ...], union: Mapping[int, tuple[int, ...]]
) -> Tensor | None:
    """What stays of one weight of the encoder, or None."""
    kept = torch.tensor([config.names.index(n) for n in names])
    parts = name.split(".")
    if parts[0] == "patchify":
        if parts[1] == "modality":
            return value[kept]
        return value if parts[2] in names else None
    if "mixture" not in parts:
        return value
    experts = torch.tensor(union[int(parts[1])])
    match parts[3:]:
        case ["router", "weight" | "bias"]:
            return (value[kept] if config.router == "free" else value)[:, experts]
        case ["router", "vectors"]:
            return value[kept]
        case ["router", "vector_weight"] | ["experts", _]:
            return value[experts]
        case ["census"]:
            gone = torch.ones(value.shape[-1], dtype=torch.bool).index_fill(0, experts, False)
            rows = value[:, kept]
            return torch.cat([rows[:, :, experts], rows[:, :, gone].sum(-1, keepdim=True)], dim=-1)
        case _:  # the shared expert serves every modality
            return value


def _retained(
    config: EncoderConfig, census: Census, names: tuple[str, ...], needed: Allowed
) -> dict[str, dict[int, float]]:
    """Share of each kept modality's mass that its tokens find again; experts of the other kept ones count too."""
    retained: dict[str, dict[int, float]] = {}
    for name in names:
        retained[name] = {}
        for block in config.mixtures:
            row = mass(census[block])[config.names.index(name)]
            union = sorted({e for experts in needed[block] for e in experts})
            retained[name][block] = float(row[union].sum() / row.sum()) if float(row.sum()) else 1.0
    return retained


def is_parameter(name: str) -> bool:
    """Whether a weight of the encoder is trained; the census is not."""
    return not name.endswith("census")


def count_parameters(state: Mapping[str, Tensor]) -> int:
    """Trained numbers among the encoder's weights."""
    return sum(value.numel() for name, value in state.items() if is_parameter(name))


def count_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of the encoder's weights, the census among them."""
    return sum(value.numel() * value.element_size() for value in state.values())
