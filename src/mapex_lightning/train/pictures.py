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

GAP, HEAD, NAME, FOOT = 4, 18, 14, 20
"""White between pictures, height of the titles, of the name above each row, and of the legend."""

HIDDEN = (96, 112, 160)
"""Slate, which no picture of one band has, of patches that the encoder did not see."""

PAPER, STROKE, STRIDE = (232, 232, 232), (176, 176, 176), 12
"""Light grey with oblique strokes every so many pixels, of a sensor that is absent."""

INVALID = (128, 128, 128)
"""Of a pixel without a value, as `stretch` makes it."""


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

    Hidden patches are slate and absent sensors hatched, so that neither is taken for dark ground; a legend says so.

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
        inputs = [stretch(one, one) for one in image]
        hidden = np.array(HIDDEN, np.uint8)
        panels = {
            name: inputs,
            "seen": [np.where(m.numpy(), picture, hidden) for picture, m in zip(inputs, mask, strict=True)],
            "decoded": [stretch(value, one) for value, one in zip(values, image, strict=True)],
        }
        columns += [
            (title, [picture if there else hatched() for picture, there in zip(pictures, here, strict=True)])
            for title, pictures in panels.items()
        ]
    legend = (("hidden", _plain(HIDDEN)), ("absent", hatched()), ("no value", _plain(INVALID)))
    return sheet(columns, tiles.names, legend)


def hatched() -> Picture:
    """What stands for a sensor that is absent."""
    canvas = Image.new("RGB", (SIDE, SIDE), PAPER)
    draw = ImageDraw.Draw(canvas)
    for start in range(-SIDE, SIDE, STRIDE):
        draw.line((start, SIDE, start + SIDE, 0), fill=STROKE, width=2)
    return np.asarray(canvas)


def _plain(colour: tuple[int, int, int]) -> Picture:
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def sheet(
    columns: Sequence[tuple[str, Sequence[Picture]]],
    names: Sequence[str] = (),
    legend: Sequence[tuple[str, Picture]] = (),
) -> Picture:
    """Columns of pictures of any size under their titles, on white.

    Args:
        columns: a title and a picture per row.
        names: what stands above each row; nothing by default.
        legend: words and the patterns that they explain, below all.
    """
    above = NAME if names else 0
    pitch = above + SIDE + GAP
    bottom = HEAD + len(columns[0][1]) * pitch
    font, small = ImageFont.load_default(12), ImageFont.load_default(10)
    canvas = Image.new("RGB", (len(columns) * (SIDE + GAP) + GAP, bottom + (FOOT if legend else 0)), "white")
    draw = ImageDraw.Draw(canvas)
    for across, (title, pictures) in enumerate(columns):
        left = GAP + across * (SIDE + GAP)
        draw.text((left, 2), title, fill="black", font=font)
        for down, picture in enumerate(pictures):
            canvas.paste(Image.fromarray(_scaled(picture)), (left, HEAD + down * pitch + above))
    for down, name in enumerate(names):
        draw.text((GAP, HEAD + down * pitch), name, fill="black", font=small)
    for number, (word, pattern) in enumerate(legend):
        left = GAP + number * (SIDE + GAP)
        canvas.paste(Image.fromarray(pattern[:12, :24]), (left, bottom + 2))
        draw.text((left + 28, bottom + 1), word, fill="black", font=small)
    return np.asarray(canvas)
