"""The program that is exported: pixels of some sensors in, features or probabilities out.

Axes: B tiles, C bands, H and W pixels, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mapex_lightning.checkpoint import describe, encoder_of, load_weights, weights
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.heads import Classifier, Segmenter, head_of, probabilities
from mapex_lightning.pruning import Policy, prune
from mapex_lightning.tiles import Tiles


class Program(nn.Module):
    """An encoder, and maybe a head, as a function of plain tensors.

    Args:
        encoder: the encoder.
        head: what makes logits of it; without one the program gives features.
        task: kind of label of the head.
    """

    def __init__(self, encoder: Encoder, head: Classifier | Segmenter | None = None, task: str = "") -> None:
        super().__init__()
        self.encoder, self.head, self.task = encoder, head, task

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """Features (B, D), or probabilities (B, K) of a tile's classes or (B, K, H, W) of a pixel's.

        Args:
            images: by the name of each sensor (B, C, H, W) in physical units; pixels that are not finite are invalid,
                and a tile whose pixels of a sensor are all invalid has not got that sensor.
        """
        tiles = Tiles.of(**images)
        if self.head is None:
            return self.encoder.pooled(tiles).float()
        logits: Tensor = self.head(self.encoder, tiles)
        return probabilities(self.task, logits.float())


def program_of(checkpoint: Mapping[str, Any], source: str, features: bool = False) -> Program:
    """The program of a checkpoint, in evaluation mode: that of its head if it has one, else that of the encoder.

    Args:
        checkpoint: as `mapex_lightning.checkpoint.read` returns it.
        source: where it comes from, for errors.
        features: leave the head out.

    Raises:
        MapexError: the weights do not fit the description.
    """
    encoder, described = encoder_of(checkpoint, source), describe(checkpoint).head
    if described is None or features:
        return Program(encoder).eval()
    head = head_of(encoder.config, described)
    load_weights(head, weights(checkpoint, "head."), source)
    return Program(encoder, head, described["task"]).eval()


def chosen(checkpoint: Mapping[str, Any], keep: Sequence[str]) -> tuple[str, ...]:
    """The sensors to keep in the encoder's order; all, if none are named.

    Raises:
        MapexError: the encoder does not read one of them.
    """
    known = describe(checkpoint).encoder.names
    for name in keep:
        if name not in known:
            raise unknown("modality", name, known, where="in this encoder")
    return tuple(name for name in known if name in keep or not keep)


def reduced(checkpoint: Mapping[str, Any], keep: Sequence[str]) -> Mapping[str, Any]:
    """The checkpoint without what other sensors need, as far as no output can change: a sealed one is pruned."""
    config = describe(checkpoint).encoder
    if tuple(keep) == config.names or not config.sealed:
        return checkpoint
    return prune(checkpoint, keep, Policy("sealed"))[0]


def sides(sensors: Sequence[Modality], size: int, patch: int) -> dict[str, int]:
    """Pixels per side of a tile, by sensor.

    Args:
        sensors: the sensors of the program.
        size: pixels per side of the finest one.
        patch: of the encoder.

    Raises:
        MapexError: a sensor would not have whole patches.
    """
    extent = size * min(modality.gsd for modality in sensors)
    found = {modality.name: round(extent / modality.gsd) for modality in sensors}
    for name, side in found.items():
        if side < patch or side % patch:
            raise MapexError(
                f"--size {size} makes {side} pixels of {name} (tiles of {extent:g} m), which is no multiple of its "
                f"patches of {patch}. Give a size that is, of the finest sensor and of the others."
            )
    return found


def physical(
    sensors: Sequence[Modality], side: Mapping[str, int], tiles: int, seed: int, holes: bool = False
) -> dict[str, Tensor]:
    """Random tiles in the range of each sensor.

    Args:
        sensors: the sensors.
        side: pixels per side, by sensor.
        tiles: B.
        seed: another seed gives other tiles.
        holes: some pixels are invalid, and the first tile has not got the last of several sensors.

    Returns:
        By sensor (B, C, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for modality in sensors:
        mean, std = (torch.tensor(values)[:, None, None] for values in (modality.mean, modality.std))
        shape = (tiles, len(modality.bands), side[modality.name], side[modality.name])
        # Tiles differ in their level too, or a mean over many pixels would make them all alike.
        level = torch.randn(*shape[:2], 1, 1, generator=generator)
        image = mean + std * (level + torch.randn(shape, generator=generator))
        if holes:
            image[torch.rand(shape, generator=generator) < 0.2] = torch.nan
            image[-1, :, : side[modality.name] // 2] = torch.nan
        found[modality.name] = image
    if holes and len(sensors) > 1:
        found[sensors[-1].name][0] = torch.nan
    return found
