"""Pictures of a run: reconstructions of fixed tiles.

Axes: B tiles, C bands, H and W pixels. Pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mapex_lightning.heatmap import Picture
from mapex_lightning.modality import Modality
from mapex_lightning.model.decoder import Decoder
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import assemble
from mapex_lightning.tiles import Tiles

COLOURS = (("R", "G", "B"), ("B04", "B03", "B02"), ("red", "green", "blue"))
"""Bands that a person sees as red, green and blue."""

SIDE = 96
"""Pixels on the screen per tile."""


def display_bands(modality: Modality) -> tuple[int, ...]:
    """Which bands to show: true colour where there is one, the first three of many, else the first as grey."""
    for colours in COLOURS:
        if set(colours) <= set(modality.bands):
            return tuple(modality.bands.index(band) for band in colours)
    return (0, 1, 2) if len(modality.bands) >= 3 else (0,)


def stretch(image: Tensor, like: Tensor) -> Picture:
    """An image (C, H, W) of one or three bands in 8 bit, by the 2nd and 98th percentile of `like`; invalid is grey."""
    bands = []
    for band, reference in zip(image, like, strict=True):
        valid = reference[reference.isfinite()]
        low, high = np.percentile(valid.numpy(), (2, 98)) if len(valid) else (0.0, 1.0)
        scaled = (band - low) / max(float(high - low), 1e-6)
        bands.append(torch.where(band.isfinite(), scaled.clamp(0, 1) * 255, 128.0))
    picture = np.stack([band.to(torch.uint8).numpy() for band in bands], axis=-1)
    return picture if len(bands) == 3 else repeat(picture, "h w 1 -> h w 3")


def _scaled(picture: Picture) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST))


@torch.no_grad()
def reconstructions(
    encoder: Encoder, decoder: Decoder, tiles: Tiles, visible_share: float, generator: torch.Generator
) -> Picture:
    """Per tile a row; per modality what was there, what the encoder saw of it, and what the decoder makes of it.

    A hidden patch is black, and so is a sensor that is absent.

    Args:
        encoder: in evaluation mode.
        decoder: its decoder.
        tiles: a few tiles.
        visible_share: of each view's tokens.
        generator: of the masks.
    """
    found = reconstruct(encoder, decoder, tiles, visible_share, generator)
    columns: list[tuple[str, list[Picture]]] = []
    start = 0
    for name, prediction in found.predictions.items():
        modality, image = encoder.config.modality(name), tiles.images[name]
        rows, _ = encoder.patchify.grid(name, image)
        shown = list(display_bands(modality))
        seen = found.visible[:, start : start + prediction.shape[1]]
        start += prediction.shape[1]
        target = found.targets[name]
        values = assemble(prediction.float(), target, modality, encoder.config.patch, rows)[:, shown].cpu()
        image = image[:, shown].cpu()
        mask = repeat(
            rearrange(seen, "b (h w) -> b h w", h=rows), "b h w -> b (h p) (w q) 1",
            p=encoder.config.patch, q=encoder.config.patch,
        ).cpu()  # fmt: skip
        here = tiles.present[name].tolist()
        inputs = [stretch(i, i) * np.uint8(there) for i, there in zip(image, here, strict=True)]
        columns += [
            (name, inputs),
            ("seen", [picture * m.numpy().astype(np.uint8) for picture, m in zip(inputs, mask, strict=True)]),
            ("decoded", [stretch(v, i) * np.uint8(t) for v, i, t in zip(values, image, here, strict=True)]),
        ]
    return sheet(columns)


def sheet(columns: Sequence[tuple[str, Sequence[Picture]]]) -> Picture:
    """Columns of pictures of any size under their titles, on white."""
    gap, head = 4, 18
    height = head + len(columns[0][1]) * (SIDE + gap)
    canvas = Image.new("RGB", (len(columns) * (SIDE + gap) + gap, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for across, (title, pictures) in enumerate(columns):
        left = gap + across * (SIDE + gap)
        draw.text((left, 2), title, fill="black", font=font)
        for down, picture in enumerate(pictures):
            canvas.paste(Image.fromarray(_scaled(picture)), (left, head + down * (SIDE + gap)))
    return np.asarray(canvas)
