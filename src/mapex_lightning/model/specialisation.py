"""Figures of specialisation: what routing is judged by.

Every figure is a pure function of a table (M, E) of how much each modality used each expert. There are two such tables,
and they can differ: the *hard* one counts the experts that were chosen, the *soft* one sums the router's probabilities.

Axes: T tokens, E experts, M modalities. Entropies are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mapex_lightning.model.router import Assignment
from mapex_lightning.precision import widest


def entropy(probability: Tensor) -> Tensor:
    """Entropy over the last axis."""
    # Where the probability is 0 the slope is infinite, and infinity times nothing is NaN: an expert that is not
    # allowed, or a modality that is absent, must cost nothing and teach nothing.
    each: Tensor = torch.special.entr(probability.masked_fill(probability == 0, 1.0))
    return each.sum(-1)


class Tally(NamedTuple):
    """Sums over the tokens that are present, so that batches add up.

    Attributes:
        hard: (M, E), how often each modality's tokens chose each expert.
        soft: (M, E), sum of the router's probabilities.
        entropy: (M,), sum of the entropies of each token's probabilities.
        tokens: (M,), how many there were.
    """

    hard: Tensor
    soft: Tensor
    entropy: Tensor
    tokens: Tensor

    @property
    def token_entropy(self) -> Tensor:
        """Mean entropy of a token's probabilities per modality: (M,); NaN without tokens.

        Near 0 each token is certain of its expert, whether or not the tokens of its modality agree.
        """
        return self.entropy / self.tokens


def tally(assignment: Assignment, modalities: int) -> Tally:
    """What one batch adds to the tables of a mixture, in the widest fractions that the device has.

    Args:
        assignment: of the mixture.
        modalities: M.
    """
    here = assignment.present
    wide = widest(here.device)
    member = F.one_hot(assignment.modality[here], modalities).to(wide)
    probability = assignment.logits[here].to(wide).softmax(-1)
    # A disallowed expert can fill up top-k; its gate is 0 and nobody used it.
    used = (assignment.weight[here] > 0).to(wide)
    chosen = torch.zeros_like(probability).scatter_add(1, assignment.expert[here], used)
    return Tally(member.T @ chosen, member.T @ probability, member.T @ entropy(probability), member.sum(0))


def added(tallies: Iterable[Tally]) -> Tally:
    """The tally of several batches."""
    return Tally(*(torch.stack(column).sum(0) for column in zip(*tallies, strict=True)))


def shares(table: Tensor) -> Tensor:
    """The distribution of experts of each modality: (M, E) to rows that sum to 1; zeros for one without tokens."""
    table = table.to(widest(table.device))
    return table / table.sum(1, keepdim=True).clamp(min=torch.finfo(table.dtype).tiny)


def mutual_information(table: Tensor) -> Tensor:
    """Normalised mutual information of modality and expert.

    Under a uniform prior over the modalities that have tokens, and over the entropy of that prior: 1 means that the
    expert tells the modality, 0 that it says nothing.

    Args:
        table: (M, E).

    Returns:
        A scalar between 0 and 1; NaN for fewer than two modalities.
    """
    probability = shares(table)[table.sum(1) > 0]
    many = len(probability)
    if many < 2:
        return probability.new_tensor(torch.nan)
    mutual = entropy(probability.mean(0)) - entropy(probability).mean()
    return (mutual / math.log(many)).clamp(0, 1)


def effective_experts(table: Tensor) -> Tensor:
    """Exponential of each modality's entropy: (M, E) to (M,), from 1 to E experts; NaN for one without tokens."""
    return torch.where(table.sum(1) > 0, entropy(shares(table)).exp(), torch.nan)


def distances(table: Tensor) -> Tensor:
    """Jensen-Shannon distance between the modalities' experts: (M, E) to (M, M).

    The square root of the divergence in bits (Endres and Schindelin 2003, doi:10.1109/TIT.2003.813506), which is a
    metric: 0 for the same distribution, 1 for no expert in common. NaN for a modality without tokens.
    """
    probability = shares(table)
    each = entropy(probability)
    middle = entropy((probability[:, None] + probability[None]) / 2)
    divergence = (middle - (each[:, None] + each[None]) / 2) / math.log(2)
    here = table.sum(1) > 0
    return torch.where(here[:, None] & here[None], divergence.clamp(0, 1).sqrt(), torch.nan)


def specialisation(table: Tensor) -> dict[str, Tensor]:
    """All figures of one table, such as the first row of a census without its last column.

    Args:
        table: (M, E). Modalities without tokens do not count.

    Returns:
        ``share`` (M, E), see `shares`; ``nmi``, see `mutual_information`; ``effective`` (M,), see `effective_experts`;
        ``distance`` (M, M), see `distances`; ``dead``, the number of experts that no modality used.
    """
    return {
        "share": shares(table),
        "nmi": mutual_information(table),
        "effective": effective_experts(table),
        "distance": distances(table),
        "dead": (table.sum(0) == 0).sum(),
    }
