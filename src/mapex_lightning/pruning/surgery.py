"""What is cut: the weights and the description of an encoder, for some of its sensors and experts.

Axes: M modalities, R rows of a router, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.pruning.choice import Census, Kept, mass

Merges = Mapping[int, Mapping[int, int]]
"""Per block: the expert that stays into which one that goes is merged."""


@dataclass(frozen=True)
class Cut:
    """What stays of an encoder.

    Args:
        config: the whole encoder.
        keep: the names of the modalities that stay, in the encoder's order.
        experts: the experts that stay, per mixture block.
        merges: see `Merges`; empty where tokens fall back to the next expert.
    """

    config: EncoderConfig
    keep: tuple[str, ...]
    experts: Kept
    merges: Merges

    def rows(self, block: int) -> list[int]:
        """The rows of a block's router that stay: those that lead to an expert that stays, or into one."""
        led = (*self.experts[block], *self.merges.get(block, {}))
        return [row for row, expert in enumerate(self.config.routes_of(block)) if expert in led]

    def smaller(self) -> EncoderConfig:
        """The description of what stays."""
        config, at = self.config, [self.config.names.index(name) for name in self.keep]
        routes = {block: self._routes(block) for block in config.mixtures}
        plain = all(led == tuple(range(len(self.experts[block]))) for block, led in routes.items())
        allowed = tuple(
            tuple(self._renumbered(block, rows[m]) for m in at) if rows else ()
            for block, rows in enumerate(config.allowed)
        )
        return replace(
            config,
            modalities=tuple(map(config.modality, self.keep)),
            experts=tuple(len(self.experts[b]) if count else 0 for b, count in enumerate(config.experts)),
            allowed=allowed,
            routes=() if plain else tuple(routes.get(block, ()) for block in range(config.depth)),
        )

    def _routes(self, block: int) -> tuple[int, ...]:
        new = {expert: index for index, expert in enumerate(self.experts[block])}
        old, merged = self.config.routes_of(block), self.merges.get(block, {})
        return tuple(new[merged.get(old[row], old[row])] for row in self.rows(block))

    def _renumbered(self, block: int, rows: Sequence[int]) -> tuple[int, ...]:
        new = {row: index for index, row in enumerate(self.rows(block))}
        return tuple(new[row] for row in rows if row in new)

    def weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that stay, in memory of their own."""
        kept = ((name, self._part(name, value)) for name, value in state.items())
        return {name: part for name, part in kept if part is not None}

    def _part(self, name: str, value: Tensor) -> Tensor | None:
        """What stays of one weight of the encoder, or None."""
        # index_select and not brackets: on the meta device, where sizes are tried, those load all of sympy.
        kept = torch.tensor([self.config.names.index(n) for n in self.keep])
        parts = name.split(".")
        if parts[0] == "patchify":
            if parts[1] == "modality":
                return value.index_select(0, kept)
            return value.clone() if parts[2] in self.keep else None
        if "low_rank" in parts:
            return value.clone() if parts[-1].startswith("pattern") else value[kept]
        if "mixture" not in parts:
            return value.clone()
        block = int(parts[1])
        rows, experts = torch.tensor(self.rows(block)), torch.tensor(self.experts[block])
        match parts[3:]:
            case ["router", "weight" | "bias"]:
                return (value.index_select(0, kept) if self.config.router == "free" else value).index_select(1, rows)
            case ["router", "vectors"]:
                return value.index_select(0, kept)
            case ["router", "vector_weight"]:
                return value.index_select(0, rows)
            case ["experts", _]:
                return value.index_select(0, experts)
            case ["census"]:
                gone = torch.ones(value.shape[-1], dtype=torch.bool).index_fill(0, experts, False)
                mine = value[:, kept]
                return torch.cat([mine[..., experts], mine[..., gone].sum(-1, keepdim=True)], dim=-1)
            case _:  # the shared expert serves every modality
                return value.clone()


def nearest(config: EncoderConfig, state: Mapping[str, Tensor], experts: Kept) -> Merges:
    """For every expert that goes, the one that stays whose router row is most similar (cosine).

    Args:
        config: the whole encoder.
        state: its weights.
        experts: those that stay.
    """
    found: dict[int, dict[int, int]] = {}
    for block, kept in experts.items():
        router = f"blocks.{block}.mixture.router."
        rows = state[router + "weight"].transpose(0, 1).flatten(1).double()
        if config.router in ("conditioned", "grouped"):
            rows = torch.cat([rows, state[router + "vector_weight"].double()], dim=1)
        routes = torch.tensor(config.routes_of(block))
        every = torch.stack([rows[routes == e].mean(0) for e in range(config.experts[block])])
        alike = F.cosine_similarity(every[:, None], every[None, list(kept)], dim=-1)
        found[block] = {e: kept[int(alike[e].argmax())] for e in range(len(every)) if e not in kept}
    return {block: merges for block, merges in found.items() if merges}


def merge(state: Mapping[str, Tensor], census: Census, at: Sequence[int], merges: Merges) -> dict[str, Tensor]:
    """The weights with every expert that goes averaged into the one that stays, by the mass of the kept sensors.

    Where an expert that goes carries no mass, the one that stays is left as it is, bit by bit.

    Args:
        state: the whole encoder's weights.
        census: its census.
        at: the indexes of the kept sensors.
        merges: see `Merges`.
    """
    merged = dict(state)
    for block, pairs in merges.items():
        amount = mass(census[block])[list(at)]
        share = (amount / amount.sum(1, keepdim=True).clamp(min=torch.finfo(amount.dtype).tiny)).sum(0)
        for name in [n for n in state if n.startswith(f"blocks.{block}.mixture.experts.")]:
            value = merged[name].clone()
            for kept in set(pairs.values()):
                group = [kept, *(gone for gone, into in pairs.items() if into == kept)]
                weight = share[group]
                if bool((weight[1:] > 0).any()):
                    mean = torch.tensordot(weight / weight.sum(), merged[name][group].double(), dims=1)
                    value[kept] = mean.to(value.dtype)
            merged[name] = value
    return merged
