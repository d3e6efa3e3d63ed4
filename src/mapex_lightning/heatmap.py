"""Heat maps: what each modality has to do with each expert, as tables that can be coloured.

Axes: M modalities, E experts. Pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mapex_lightning.files import write_whole

Picture = np.ndarray

CELL, HEAD, EDGE = 64, 96, 16
"""Pixels of a picture: side of a cell, height above the cells, margin at the right and at the bottom."""

DEEP = 0.62
"""The shade above which a cell is so dark that white reads better on it than black."""

INK, FAINT, OUTLINE = (31, 35, 40), (110, 118, 126), (204, 85, 0)


@dataclass(frozen=True)
class HeatMap:
    """A table whose rows are modalities and whose columns are experts.

    Args:
        title: what a cell says.
        names: of the modalities.
        shades: M rows of E numbers from 0 to 1.
        words: M rows of E texts, which say the same to those who see no colours.
        kept: the experts that pruning keeps, where there is such a thing.
    """

    title: str
    names: tuple[str, ...]
    shades: tuple[tuple[float, ...], ...]
    words: tuple[tuple[str, ...], ...]
    kept: frozenset[int] | None = None

    @property
    def experts(self) -> int:
        """The number of columns."""
        return len(self.shades[0])

    def mark(self, expert: int) -> str:
        """Whether an expert is ``kept`` or ``cut``; empty where that is no question."""
        return "" if self.kept is None else "kept" if expert in self.kept else "cut"


def of_shares(title: str, names: Sequence[str], shares: Tensor, kept: Collection[int] | None = None) -> HeatMap:
    """Shares (M, E), from 0 to 1."""
    rows = _rows(shares.double())
    words = tuple(tuple(map(share_in_words, row)) for row in rows)
    return HeatMap(title, tuple(names), rows, words, None if kept is None else frozenset(kept))


def of_changes(title: str, names: Sequence[str], changes: Tensor, most: float) -> HeatMap:
    """Relative changes (M, E), NaN where there is none; `most` and above has the darkest shade."""
    rows = _rows(changes.double())
    shades = tuple(
        tuple(min(1.0, max(0.0, value / most)) if math.isfinite(value) else 0.0 for value in r) for r in rows
    )
    words = tuple(tuple(map(change_in_words, row)) for row in rows)
    return HeatMap(title, tuple(names), shades, words)


def _rows(table: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in table.tolist())


def share_in_words(share: float) -> str:
    """A share as it stands in a cell: little is never shown as none, nor nearly all as all."""
    if 0 < share < 0.005:
        return "<.01"
    return ">.99" if 0.995 <= share < 1 else f"{share:.2f}" if share else "0"


def change_in_words(change: float) -> str:
    """A relative change as it stands in a cell; just what is exactly the same is 0."""
    if not math.isfinite(change):
        return "\N{EN DASH}"
    return f"{change:+.0%}" if abs(change) >= 0.0995 else f"{change:+.1%}" if change else "0"


def draw(maps: Sequence[HeatMap]) -> Picture:
    """The heat maps below each other."""
    font = _font(20)
    left = EDGE + 16 + round(max((font.getlength(name) for m in maps for name in m.names), default=0))
    right = max((left + CELL * m.experts for m in maps), default=left)
    width = max(right, *(EDGE + round(font.getlength(m.title)) for m in maps), 0) + EDGE
    canvas = Image.new("RGB", (width, sum(HEAD + CELL * len(m.names) for m in maps) + EDGE), "white")
    top = 0
    for heat_map in maps:
        top += HEAD
        _draw(ImageDraw.Draw(canvas), left, top, heat_map)
        top += CELL * len(heat_map.names)
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


def _draw(canvas: ImageDraw.ImageDraw, left: int, top: int, heat_map: HeatMap) -> None:
    """One heat map whose first cell has its corner at (left, top)."""
    canvas.text((EDGE, top - HEAD + 16), heat_map.title, fill=INK, font=_font(20))
    for row, name in enumerate(heat_map.names):
        middle = top + row * CELL + CELL / 2 - 1
        canvas.text((EDGE, middle), name, fill=INK, font=_font(20), anchor="lm")
        for expert, (shade, word) in enumerate(zip(heat_map.shades[row], heat_map.words[row], strict=True)):
            x, y = left + expert * CELL, top + row * CELL
            canvas.rectangle((x, y, x + CELL - 3, y + CELL - 3), fill=_colour(shade))
            ink = "white" if shade > DEEP else INK if shade else FAINT
            canvas.text((x + CELL / 2 - 1, middle), word, fill=ink, font=_font(18), anchor="mm")
    for expert in range(heat_map.experts):
        _head(canvas, left + expert * CELL, top, expert, heat_map)


def _head(canvas: ImageDraw.ImageDraw, x: int, top: int, expert: int, heat_map: HeatMap) -> None:
    """An expert's number; where it is known what is kept, that is said in a word and drawn as an outline."""
    mark, middle = heat_map.mark(expert), x + CELL / 2 - 1
    ink = FAINT if mark == "cut" else INK
    canvas.text((middle, top - 30), str(expert), fill=ink, font=_font(20), anchor="mm")
    canvas.text((middle, top - 11), mark, fill=ink, font=_font(14), anchor="mm")
    if mark == "kept":
        bottom = top + len(heat_map.names) * CELL
        canvas.rectangle((x - 1, top - 1, x + CELL - 2, bottom - 2), outline=OUTLINE, width=3)


def _colour(shade: float) -> tuple[int, int, int]:
    """White for 0, dark blue for 1."""
    red, green, blue = (round(255 + (dark - 255) * shade) for dark in (8, 48, 107))
    return red, green, blue
