"""Figures of specialisation: what routing is judged by.

Axes: M modalities, E experts. Entropies are in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(probability: Tensor) -> Tensor:
    """Entropy over the last axis."""
    # Where the probability is 0 the slope is infinite, and infinity times nothing is NaN: an expert that is not
    # allowed, or a modality that is absent, must cost nothing and teach nothing.
    each: Tensor = torch.special.entr(probability.masked_fill(probability == 0, 1.0))
    return each.sum(-1)


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
