"""AdamW: its parameter groups, its learning-rate schedule and which gradients it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

UNDECAYED = ("vectors", "modality", "bias")
"""Last words of the names of weights that are not decayed, besides those of one axis."""


@dataclass(frozen=True)
class Optimiser:
    """AdamW with linear warm-up and a cosine to zero.

    Args:
        lr: peak learning rate.
        weight_decay: of matrices; biases, norms, modality and router vectors have none.
        warmup: share of all steps in which the learning rate rises.
        beta2: second-moment decay of Adam; the first is 0.9.
        layer_decay: factor on the learning rate per block below the head (BEiT, arXiv 2106.08254); 1 for none.
    """

    lr: float = 8e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    beta2: float = 0.95
    layer_decay: float = 1.0


def depth_of(name: str, blocks: int) -> int:
    """How deep a weight of a module with an ``encoder`` lies: 0 for embeddings, i + 1 for block i, then the rest."""
    parts = name.split(".")
    if parts[0] != "encoder":
        return blocks + 1
    if parts[1] == "patchify":
        return 0
    return int(parts[2]) + 1 if parts[1] == "blocks" else blocks + 1


def decays(name: str, weight: Tensor) -> bool:
    """Whether weight decay applies."""
    return weight.ndim > 1 and not name.rsplit(".", 1)[-1].endswith(UNDECAYED)


def groups(weights: Iterable[tuple[str, Tensor]], config: Optimiser, blocks: int) -> list[dict[str, object]]:
    """Parameter groups by depth and decay; weights that are not trained are left out.

    Args:
        weights: names and parameters of a module with an ``encoder``.
        config: the optimiser.
        blocks: the encoder's depth.
    """
    found: dict[tuple[int, bool], list[Tensor]] = {}
    for name, weight in weights:
        if weight.requires_grad:
            depth = depth_of(name, blocks) if config.layer_decay != 1 else blocks + 1
            found.setdefault((depth, decays(name, weight)), []).append(weight)
    return [
        {
            "params": members,
            "lr": config.lr * config.layer_decay ** (blocks + 1 - depth),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (depth, decayed), members in sorted(found.items(), reverse=True)
    ]


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: a line up over the warm-up, then a cosine down to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))


def configure(
    module: nn.Module, config: Optimiser, blocks: int, steps: int, fused: bool = True
) -> tuple[AdamW, LambdaLR]:
    """The optimiser and schedule of a module for a run of `steps` optimiser steps.

    Args:
        module: with an ``encoder`` of that many `blocks`.
        config: the settings.
        blocks: the encoder's depth.
        steps: of the whole run.
        fused: one pass over the weights instead of one per operation, ten times as fast on a CPU, too. The Trainer
            cannot clip the gradients of a fused optimiser where float16 has them scaled.
    """
    fused = fused and all(weight.device.type in ("cuda", "cpu") for weight in module.parameters())
    optimiser = AdamW(
        groups(module.named_parameters(), config, blocks), lr=config.lr, betas=(0.9, config.beta2), fused=fused
    )
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule(step, steps, config.warmup))


def clip(optimiser: Optimizer, limit: float | None, by_value: bool = False) -> Tensor:
    """Clips gradients, and lets the optimiser skip a step in which some are not finite.

    Their norm, which clipping computes anyway, is finite only if all of them are. A fused optimiser is told on the
    device, by the flag that a gradient scaler would give it, and leaves weights and moments as they are: the host does
    not wait. Any other one finds no gradients, for which the host has to know. With DDP and FSDP2 gradients are those
    of all ranks, so that all of them come to the same.

    Args:
        optimiser: its gradients are clipped.
        limit: of their norm; None or 0 clips nothing.
        by_value: clips each by itself instead.

    Returns:
        () float32 on the device: 1 where the step is skipped, else 0.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"] if weight.grad is not None]
    if limit and not by_value:
        norm = clip_grad_norm_(weights, limit)
    else:
        norm = get_total_norm([weight.grad for weight in weights])
        if limit:
            clip_grad_value_(weights, limit)
    whole = getattr(norm, "full_tensor", None)  # with FSDP2 each rank has its share of it
    skipped = (~(norm if whole is None else whole()).isfinite()).float()
    if all(group.get("fused") for group in optimiser.param_groups):
        vars(optimiser)["found_inf"] = skipped
    elif bool(skipped):
        optimiser.zero_grad(set_to_none=True)
    return skipped
