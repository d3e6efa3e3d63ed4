"""Heat maps: which modality uses which expert, as pictures.

Axes: M modalities, E experts. Pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mapex_lightning.files import write_whole

Picture = np.ndarray

CELL, HEAD, EDGE = 64, 96, 16
"""Pixels: side of a cell, height of the head above each block's cells, margin at the right and at the bottom."""

TOKENS = "share of each sensor's tokens per expert"
"""What a cell shows, unless said otherwise."""

DEEP = 0.62
"""The share above which a cell is so dark that white reads better on it than black."""

INK, FAINT, OUTLINE = (31, 35, 40), (110, 118, 126), (204, 85, 0)


def shares(counts: Tensor) -> Tensor:
    """Each modality's share per expert, of counts (M, E): rows add up to 1, or are zeros where nothing was counted."""
    counts = counts.double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1e-9)


def in_words(share: float) -> str:
    """A share as it stands in a cell: little is never shown as none, nor nearly all as all."""
    if 0 < share < 0.005:
        return "<.01"
    return ">.99" if 0.995 <= share < 1 else f"{share:.2f}" if share else "0"


def heat_map(
    counts: Mapping[int, Tensor],
    names: Sequence[str],
    kept: Mapping[int, Collection[int]] | None = None,
    what: str = TOKENS,
) -> Picture:
    """Per mixture block a panel: each row is a modality, each column an expert, each cell the share of its row.

    Args:
        counts: per block (M, E), such as the first row of a census.
        names: of the modalities.
        kept: per block the experts that pruning keeps, which are outlined and named so.
        what: what a cell shows.
    """
    panels = {block: shares(c).tolist() for block, c in counts.items()}
    most = max((len(share[0]) for share in panels.values()), default=0)
    font = _font(20)
    left = EDGE + 16 + round(max(font.getlength(name) for name in names))
    width = max(left + CELL * most, EDGE + round(font.getlength(_title(max(panels, default=0), what)))) + EDGE
    canvas = Image.new("RGB", (width, len(panels) * (HEAD + CELL * len(names)) + EDGE), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (block, share) in enumerate(panels.items()):
        top = HEAD + number * (HEAD + CELL * len(names))
        draw.text((EDGE, top - HEAD + 16), _title(block, what), fill=INK, font=font)
        for row, name in enumerate(names):
            draw.text((EDGE, top + row * CELL + CELL / 2), name, fill=INK, font=font, anchor="lm")
            for expert, value in enumerate(share[row]):
                _cell(draw, left + expert * CELL, top + row * CELL, value)
        _heads(draw, left, top, len(share[0]), len(names), None if kept is None else kept[block])
    return np.asarray(canvas)


def write_png(picture: Picture, path: str | Path) -> None:
    """Writes a picture, whole or not at all.

    Raises:
        MapexError: see `mapex_lightning.files.write_whole`.
    """
    write_whole(path, lambda beside: Image.fromarray(picture).save(beside, format="PNG"))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _title(block: int, what: str) -> str:
    return f"block {block}: {what}"


def _cell(draw: ImageDraw.ImageDraw, x: int, y: int, share: float) -> None:
    draw.rectangle((x, y, x + CELL - 3, y + CELL - 3), fill=_shade(share))
    ink = "white" if share > DEEP else INK if share else FAINT
    centre = (x + CELL / 2 - 1, y + CELL / 2 - 1)
    draw.text(centre, in_words(share), fill=ink, font=_font(18), anchor="mm")


def _heads(
    draw: ImageDraw.ImageDraw, left: int, top: int, experts: int, rows: int, kept: Collection[int] | None
) -> None:
    """The experts' numbers; where it is known what is kept, that is said in a word and drawn as an outline."""
    for expert in range(experts):
        x, stays = left + expert * CELL, kept is None or expert in kept
        ink = INK if stays else FAINT
        draw.text((x + CELL / 2 - 1, top - 30), str(expert), fill=ink, font=_font(20), anchor="mm")
        if kept is not None:
            word = "kept" if stays else "cut"
            draw.text((x + CELL / 2 - 1, top - 11), word, fill=ink, font=_font(14), anchor="mm")
            if stays:
                draw.rectangle((x - 1, top - 1, x + CELL - 2, top + rows * CELL - 2), outline=OUTLINE, width=3)


def _shade(share: float) -> tuple[int, int, int]:
    """White for 0, dark blue for 1."""
    red, green, blue = (round(255 + (dark - 255) * share) for dark in (8, 48, 107))
    return red, green, blue
