"""What routing is trained by and judged by: auxiliary losses and figures of specialisation.

Axes: T tokens, E experts, M modalities. Entropies are in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mapex_lightning.model.mixture import Assignment


@dataclass(frozen=True)
class Auxiliary:
    """Weights of the auxiliary losses, which are averaged over the mixtures.

    Args:
        mutual: minus the mutual information of modality and expert under a uniform prior over modalities
            (Mod-Squad, arXiv 2212.08066): experts divide the sensors up among themselves.
        cap: how far each modality's entropy exceeds log `effective`: no sensor spreads over all experts. It must stay
            the weaker of the two: with more cap than mutual information all sensors flee into the same expert.
        effective: experts that a modality may use in effect before `cap` costs anything.
        z: mean squared log-sum-exp of the logits (ST-MoE, arXiv 2202.08906): logits stay small.
        pooled: the load-balance loss of Switch (arXiv 2101.03961). It pushes every expert to 1/E of all tokens and so
            works against specialisation; here for ablation.
    """

    mutual: float = 0.3
    cap: float = 0.1
    effective: float = 2.0
    z: float = 1e-3
    pooled: float = 0.0


def entropy(probability: Tensor) -> Tensor:
    """Entropy over the last axis."""
    # Where the probability is 0 the slope is infinite, and infinity times nothing is NaN: an expert that is not
    # allowed, or a modality that is absent, must cost nothing and teach nothing.
    each: Tensor = torch.special.entr(probability.masked_fill(probability == 0, 1.0))
    return each.sum(-1)


def usage(assignment: Assignment, modalities: int) -> Tensor:
    """Mean router probabilities of the tokens of each modality: (M, E); zeros for a modality without tokens."""
    member = F.one_hot(assignment.modality, modalities).to(assignment.logits.dtype)
    return (member.T @ assignment.logits.softmax(-1)) / member.sum(0)[:, None].clamp(min=1)


def auxiliary_losses(assignments: Mapping[int, Assignment], modalities: int) -> dict[str, Tensor]:
    """The unweighted auxiliary losses by the names of `Auxiliary`, `effective` excepted, for one batch.

    Args:
        assignments: of each mixture; those of a whole batch, or the mutual information has nothing to compare.
        modalities: M.

    Returns:
        Scalars: ``mutual`` (minus the mutual information), ``entropy`` (M,) (of each modality, mean over mixtures; NaN
        where absent), ``z`` and ``pooled``.
    """
    found = [_of_one(assignment, modalities) for assignment in assignments.values() if len(assignment.modality)]
    return {name: torch.stack([losses[name] for losses in found]).mean(0) for name in found[0]} if found else {}


def _of_one(assignment: Assignment, modalities: int) -> dict[str, Tensor]:
    probability = usage(assignment, modalities)
    here = torch.bincount(assignment.modality, minlength=modalities) > 0
    each = entropy(probability)
    prior = probability.sum(0) / here.sum()
    experts = probability.shape[1]
    share = F.one_hot(assignment.expert, experts).to(prior.dtype).mean((0, 1))
    return {
        "mutual": each[here].mean() - entropy(prior),
        "entropy": torch.where(here, each, torch.nan),
        "z": assignment.logits.logsumexp(-1).square().mean(),
        "pooled": experts * (share * assignment.logits.softmax(-1).mean(0)).sum(),
    }


def total(losses: Mapping[str, Tensor], weights: Auxiliary) -> Tensor | float:
    """The weighted sum that is added to the training loss."""
    if not losses:
        return 0.0
    limit = torch.tensor(weights.effective).log().item()
    excess = F.relu(losses["entropy"].nan_to_num(0.0) - limit).sum() / losses["entropy"].isfinite().sum().clamp(min=1)
    return (
        weights.mutual * losses["mutual"]
        + weights.cap * excess
        + weights.z * losses["z"]
        + weights.pooled * losses["pooled"]
    )


def specialisation(counts: Tensor) -> dict[str, Tensor]:
    """How far experts belong to modalities, from how often each modality used each expert.

    Args:
        counts: (M, E), such as the first row of a census without its last column. Modalities without tokens do not
            count.

    Returns:
        ``nmi``: mutual information of modality and expert under a uniform prior, over the entropy of the modality, so
        that 1 means that the expert tells the sensor and 0 that it says nothing; NaN for fewer than two modalities.
        ``effective``: (M,) exp of the entropy of each modality's experts; NaN without tokens. ``dead``: the number
        of experts that no modality used.
    """
    counts = counts.double()
    here = counts.sum(1) > 0
    probability = counts / counts.sum(1, keepdim=True).clamp(min=torch.finfo(counts.dtype).tiny)
    each = entropy(probability)
    many = here.sum()
    mutual = entropy(probability[here].sum(0) / many) - each[here].mean()
    nmi = mutual / many.double().log() if many > 1 else counts.new_tensor(torch.nan)
    return {
        "nmi": nmi.clamp(0, 1),
        "effective": torch.where(here, each.exp(), torch.nan),
        "dead": (counts.sum(0) == 0).sum(),
    }
