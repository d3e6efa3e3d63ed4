"""Which tokens the encoder may see in pre-training: a view of the sensors, then a share of its tokens.

Axes: B tiles, M modalities, N tokens, n visible tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mapex_lightning.model.tokens import Tokens

PASSES = 4
"""Into how many buckets the tiles of a batch are sorted at most."""


class Bucket(NamedTuple):
    """Tiles with about as many visible tokens, so that little padding is computed.

    Attributes:
        rows: (b,) the tiles.
        seen: (b, n) the visible tokens of each; entries past a tile's own number are padding.
        real: (b, n) bool, False for padding.
    """

    rows: Tensor
    seen: Tensor
    real: Tensor


def draw_view(present: Tensor, generator: torch.Generator) -> Tensor:
    """Chooses which of its sensors each tile is seen by.

    Half of the tiles are seen by one sensor alone, half by a random non-empty subset (CSMAE, arXiv 2401.07782; 4M): a
    pruned model sees few sensors, so it must learn from few.

    Args:
        present: (B, M) bool.
        generator: of randomness, on the device of `present`.

    Returns:
        (B, M) bool, a subset of `present`.
    """
    noise = torch.rand(present.shape, generator=generator, device=present.device).masked_fill(~present, 2.0)
    rank = noise.argsort(1).argsort(1)
    draw = torch.rand(2, len(present), generator=generator, device=present.device)
    size = (draw[0] * present.sum(1)).long() + 1
    size = torch.where(draw[1] < 0.5, 1, size)
    return present & (rank < size[:, None])


def draw_visible(tokens: Tokens, view: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Chooses the tokens that the encoder sees.

    Args:
        tokens: all tokens of the tiles.
        view: (B, M) bool, the sensors of each tile's view.
        ratio: share of the view's tokens that is visible; at least one token is.
        generator: of randomness, on the device of the tokens.

    Returns:
        (B, N) bool. The visible tokens are shared out over the view's sensors by a draw from a symmetric Dirichlet
        distribution with concentration 1 (MultiMAE, arXiv 2204.01678), as far as a sensor has as many.
    """
    candidates = tokens.present & view.gather(1, tokens.modality)
    device = tokens.values.device
    # Exponential variates divided by their sum are Dirichlet(1); a common factor does not change the order below.
    share = torch.empty(view.shape, device=device).exponential_(generator=generator)
    noise = torch.rand(candidates.shape, generator=generator, device=device)
    due = torch.full_like(noise, torch.inf)
    for modality in range(view.shape[1]):
        mine = candidates & (tokens.modality == modality)
        rank = noise.masked_fill(~mine, 2.0).argsort(1).argsort(1)
        # The r-th token of a sensor with share s is due at (r + 1/2) / s: the n first due are shared out as wanted.
        due = torch.where(mine, (rank + 0.5) / share[:, modality, None], due)
    wanted = (candidates.sum(1) * ratio).round().long().clamp(min=1)
    return candidates & (due.argsort(1).argsort(1) < wanted[:, None])


def buckets(visible: Tensor, most: int = PASSES) -> list[Bucket]:
    """Sorts tiles by their number of visible tokens into at most `most` buckets, each as long as its longest.

    Tiles of the same length share a bucket where there are few lengths, and then nothing is padded.

    Args:
        visible: (B, N) bool.
        most: the number of buckets.

    Returns:
        Buckets that hold every tile with a visible token exactly once.
    """
    length = visible.sum(1).tolist()  # the one time in a step that the host waits for the device
    distinct = sorted({n for n in length if n})
    order = (~visible).byte().argsort(dim=1, stable=True)
    found, size = [], max(1, -(-len(distinct) // most))
    for start in range(0, len(distinct), size):
        group = distinct[start : start + size]
        rows = torch.tensor([row for row, n in enumerate(length) if n in group], device=visible.device)
        seen = order[rows, : group[-1]]
        found.append(Bucket(rows, seen, visible[rows].gather(1, seen)))
    return found


def see(tokens: Tokens, bucket: Bucket) -> Tokens:
    """The tokens of a bucket (b, n); padding is absent."""
    taken = tokens.rows(bucket.rows).take(bucket.seen)
    return taken._replace(present=taken.present & bucket.real)
