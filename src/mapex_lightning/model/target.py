"""What a decoder has to predict of each patch, and how wrong it was.

Axes: B tiles, N patches, C bands, p patch side, P numbers per patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from mapex_lightning.modality import Modality
from mapex_lightning.model.patchify import patches, standardise

EPSILON = 1e-6


class Target(NamedTuple):
    """The pixels of one modality as a decoder sees them.

    Attributes:
        values: (B, N, P) float, zeros where invalid.
        valid: (B, N, P) bool.
        mean: (B, N, 1), what was subtracted from each patch.
        scale: (B, N, 1), what each patch was divided by.
    """

    values: Tensor
    valid: Tensor
    mean: Tensor
    scale: Tensor


def cell_side(modality: Modality, patch: int) -> int:
    """Side of what is averaged into one target: 1, or half a patch (a whole one if odd) for sensors with speckle."""
    if not modality.speckle:
        return 1
    return patch if patch % 2 else patch // 2


def target_size(modality: Modality, patch: int) -> int:
    """P, the numbers to predict per patch."""
    return len(modality.bands) * (patch // cell_side(modality, patch)) ** 2


def make_target(image: Tensor, modality: Modality, patch: int) -> Target:
    """Standardised patches; normalised per patch (MAE, arXiv 2111.06377) unless the sensor has speckle.

    Under speckle, normalising per patch would make the noise itself the target; there, cells of half a patch are
    averaged and the absolute level stays.

    Args:
        image: (B, C, H, W) in physical units, NaN where invalid.
        modality: what the image is.
        patch: p.
    """
    cell = cell_side(modality, patch)
    pixels = standardise(image, modality)
    finite = reduce(pixels.isfinite().to(pixels), "b c (h s) (w t) -> b c h w", "mean", s=cell, t=cell)
    level = reduce(pixels.nan_to_num(0.0, 0.0, 0.0), "b c (h s) (w t) -> b c h w", "mean", s=cell, t=cell)
    values = patches(level / finite.clamp(min=EPSILON), patch // cell)
    valid = patches(finite, patch // cell) > 0
    if modality.speckle:
        mean, scale = torch.zeros_like(values[..., :1]), torch.ones_like(values[..., :1])
    else:
        count = valid.sum(-1, keepdim=True).clamp(min=1)
        mean = values.sum(-1, keepdim=True) / count
        variance = ((values - mean).square() * valid).sum(-1, keepdim=True) / count
        scale = (variance + EPSILON).sqrt()
    return Target(torch.where(valid, (values - mean) / scale, 0.0), valid, mean, scale)


def assemble(values: Tensor, target: Target, modality: Modality, patch: int, rows: int) -> Tensor:
    """The inverse of `make_target` for predictions (B, N, P): pixels (B, C, H, W) in the modality's unit."""
    cell = cell_side(modality, patch)
    side = patch // cell
    pixels = rearrange(
        values * target.scale + target.mean, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=side, q=side
    )
    pixels = repeat(pixels, "b c h w -> b c (h s) (w t)", s=cell, t=cell)
    mean, std = (rearrange(pixels.new_tensor(v), "c -> c 1 1") for v in (modality.mean, modality.std))
    return pixels * std + mean


class Error(NamedTuple):
    """Squared error over the numbers that count, kept as sum and number so that batches and ranks add up.

    Attributes:
        total: a scalar; zero, still attached to the prediction, where nothing counts.
        number: a scalar, how many there were.
    """

    total: Tensor
    number: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean squared error; zero where nothing counts."""
        return self.total / self.number.clamp(min=1)


def masked_error(prediction: Tensor, target: Target, hidden: Tensor) -> Error:
    """Squared error over the valid numbers of hidden patches.

    Args:
        prediction: (B, N, P).
        target: of the same shape.
        hidden: (B, N) bool, the patches that count.
    """
    counts = target.valid & hidden[..., None]
    return Error((prediction - target.values).masked_fill(~counts, 0.0).square().sum(), counts.sum().to(prediction))


def mean_over_modalities(errors: Mapping[str, Error]) -> Tensor:
    """Equal weight per modality: the mean over the modalities of which anything was hidden."""
    means = torch.stack([error.mean for error in errors.values()])
    here = torch.stack([error.number > 0 for error in errors.values()]).to(means.dtype)
    return (means * here).sum() / here.sum().clamp(min=1)
