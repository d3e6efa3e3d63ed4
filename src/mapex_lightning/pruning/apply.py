"""Pruning: one checkpoint to a smaller one, for just the kept sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mapex_lightning.checkpoint import ENCODER, KEY, Description, Kind, describe, weights
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.pruning.choice import Census, Kept, Policy, allowed_experts, census_of, choose, mass
from mapex_lightning.pruning.report import Report
from mapex_lightning.pruning.surgery import Cut, merge, nearest


def prune(
    checkpoint: Mapping[str, Any], keep: Sequence[str], policy: Policy | None = None
) -> tuple[dict[str, Any], Report]:
    """The checkpoint of the encoder for just the kept modalities.

    Cuts experts, router rows, patch embeddings and modality vectors; drops decoder and optimiser; keeps a head.

    Args:
        checkpoint: as `mapex_lightning.checkpoint.read` returns it.
        keep: names of modalities.
        policy: which experts stay; by default `Policy.standard`.

    Returns:
        A checkpoint that stands alone, and what was done.

    Raises:
        MapexError: see `mapex_lightning.pruning.choose`.
    """
    description = describe(checkpoint)
    config, state = description.encoder, weights(checkpoint, ENCODER)
    policy = policy or Policy.standard(config)
    census = census_of(config, state, "The checkpoint")
    names = tuple(name for name in config.names if name in keep)
    shapes = {name: value.to("meta") for name, value in state.items() if is_parameter(name)}

    def cut_to(experts: Kept) -> Cut:
        merges = nearest(config, state, experts) if policy.fallback == "merged" else {}
        return Cut(config, names, experts, merges)

    experts = choose(config, census, keep, policy, lambda kept: count_parameters(cut_to(kept).weights(shapes)))
    cut = cut_to(experts)
    at = [config.names.index(name) for name in names]
    pruned = cut.weights(merge(state, census, at, cut.merges))
    report = Report(
        sensors=config.names,
        keep=names,
        policy=policy,
        experts=experts,
        before={block: config.experts[block] for block in config.mixtures},
        merges=cut.merges,
        shares=_shares(config, census),
        retained={name: _retained(config, census, experts, name) for name in names},
        parameters=(count_parameters(state), count_parameters(pruned)),
        bytes=(count_bytes(state), count_bytes(pruned)),
        exact=all(_has_all(config, block, at, kept) for block, kept in experts.items()),
    )
    step = " ".join(part for part in (f"prune --keep {','.join(names)}", policy.words()) if part)
    kind: Kind = "finetune" if description.head else "prune"
    described = Description(kind, cut.smaller(), description.followed_by(step), description.head)
    head = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("head.")}
    return {"state_dict": {**{ENCODER + n: v for n, v in pruned.items()}, **head}, KEY: described.plain()}, report


def _has_all(config: EncoderConfig, block: int, at: Sequence[int], kept: Sequence[int]) -> bool:
    return all(set(allowed_experts(config, block)[m]) <= set(kept) for m in at)


def _shares(config: EncoderConfig, census: Census) -> dict[str, dict[int, tuple[float, ...]]]:
    """Per modality and block, the share of its mass that each expert carries."""
    found: dict[str, dict[int, tuple[float, ...]]] = {name: {} for name in config.names}
    for block, counted in census.items():
        amount = mass(counted)
        share = amount / amount.sum(1, keepdim=True).clamp(min=torch.finfo(amount.dtype).tiny)
        for name, row in zip(config.names, share.tolist(), strict=True):
            found[name][block] = tuple(row)
    return found


def _retained(config: EncoderConfig, census: Census, experts: Kept, name: str) -> dict[int, float]:
    """Share of a kept modality's mass that its tokens find again; experts of the other kept ones count too."""
    found = {}
    for block, kept in experts.items():
        row = mass(census[block])[config.names.index(name)]
        found[block] = float(row[list(kept)].sum() / row.sum()) if float(row.sum()) else 1.0
    return found


def is_parameter(name: str) -> bool:
    """Whether a weight of the encoder is trained; the census is not."""
    return not name.endswith("census")


def count_parameters(state: Mapping[str, Tensor]) -> int:
    """Trained numbers among the encoder's weights."""
    return sum(value.numel() for name, value in state.items() if is_parameter(name))


def count_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of the encoder's weights, the census among them."""
    return sum(value.numel() * value.element_size() for value in state.values())
