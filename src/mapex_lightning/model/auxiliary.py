"""The auxiliary losses: what routing is trained by.

Axes: T tokens, E experts, M modalities. Entropies are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mapex_lightning.model.router import Assignment
from mapex_lightning.model.specialisation import entropy


@dataclass(frozen=True)
class Auxiliary:
    """Weights of the auxiliary losses, which are averaged over the mixtures.

    Args:
        mutual: minus the mutual information of modality and expert under a uniform prior over modalities
            (Mod-Squad, arXiv 2212.08066): experts divide the sensors up among themselves.
        balance: how far the experts' use is from equal shares, log E minus its entropy, under the same prior: no
            expert stays without a sensor. It is 0 for sensors that have divided all experts up, and so asks for
            nothing that `mutual` does not want too.
        cap: how far each modality's entropy exceeds log `effective`: no sensor spreads over all experts. It must stay
            weaker than `mutual`: with more cap than mutual information all sensors flee into the same expert. Off,
            because it leaves experts without a sensor, and `balance` ends at E / M experts per sensor by itself.
        effective: experts that a modality may use in effect before `cap` costs anything.
        z: mean squared log-sum-exp of the logits (ST-MoE, arXiv 2202.08906): logits stay small.
        pooled: the load-balance loss of Switch (arXiv 2101.03961). It pushes every expert to 1/E of all tokens and so
            works against specialisation; here for ablation.
        within: the same loss among the tokens of each modality, mean over modalities: every sensor is pushed to use
            every expert; here for ablation.
    """

    mutual: float = 0.3
    balance: float = 0.2
    cap: float = 0.0
    effective: float = 2.0
    z: float = 1e-3
    pooled: float = 0.0
    within: float = 0.0


def usage(assignment: Assignment, modalities: int) -> Tensor:
    """Mean router probabilities of the tokens of each modality: (M, E); zeros for a modality without tokens."""
    members = assignment.members(modalities).to(assignment.logits.dtype)
    return (members @ assignment.logits.softmax(-1)) / members.sum(1, keepdim=True).clamp(min=1)


def auxiliary_losses(assignments: Mapping[int, Assignment], modalities: int) -> dict[str, Tensor]:
    """The unweighted auxiliary losses by the names of `Auxiliary`, `effective` excepted, for one batch.

    Args:
        assignments: of each mixture; those of a whole batch, or the mutual information has nothing to compare.
        modalities: M.

    Returns:
        Scalars: ``mutual`` (minus the mutual information), ``balance``, ``entropy`` (M,) (of each modality, mean over
        mixtures; NaN where absent), ``z``, ``pooled`` and ``within``.
    """
    here = [assignment for assignment in assignments.values() if len(assignment.modality)]
    if not here:
        return {}
    # Sums over all tokens of a batch overflow in float16, and in bfloat16 they keep three digits.
    with torch.autocast(here[0].logits.device.type, enabled=False):
        found = [_of_one(assignment, modalities) for assignment in here]
    return {name: torch.stack([losses[name] for losses in found]).mean(0) for name in found[0]}


def _of_one(assignment: Assignment, modalities: int) -> dict[str, Tensor]:
    members = assignment.members(modalities).to(assignment.logits.dtype)
    probability, experts = assignment.logits.softmax(-1), assignment.logits.shape[1]
    by_modality = usage(assignment, modalities)
    here = (members.sum(1) > 0).to(members.dtype)
    each, sensors = entropy(by_modality), here.sum().clamp(min=1)
    used = entropy(by_modality.sum(0) / sensors)
    share = members.sum(0) / members.sum().clamp(min=1)  # (T,): of a token among all that are present
    chosen = F.one_hot(assignment.expert, experts).to(members.dtype).mean(1)
    chosen_by_modality = (members @ chosen) / members.sum(1, keepdim=True).clamp(min=1)
    return {
        "mutual": (each * here).sum() / sensors - used,
        "balance": math.log(experts) - used,
        "entropy": each.masked_fill(here == 0, torch.nan),
        "z": (share * assignment.logits.logsumexp(-1).square()).sum(),
        "pooled": experts * ((share @ chosen) * (share @ probability)).sum(),
        "within": experts * (chosen_by_modality * by_modality).sum() / sensors,
    }


def total(losses: Mapping[str, Tensor], weights: Auxiliary) -> Tensor | float:
    """The weighted sum that is added to the training loss."""
    if not losses:
        return 0.0
    limit = math.log(weights.effective)
    excess = F.relu(losses["entropy"].nan_to_num(0.0) - limit).sum() / losses["entropy"].isfinite().sum().clamp(min=1)
    return (
        weights.mutual * losses["mutual"]
        + weights.balance * losses["balance"]
        + weights.cap * excess
        + weights.z * losses["z"]
        + weights.pooled * losses["pooled"]
        + weights.within * losses["within"]
    )
