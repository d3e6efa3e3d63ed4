"""Where windows lie that cover a grid together, and what each pixel of a window counts for.

A plan is in cells of the output: pixels for a class per pixel, patches for features, windows for a label per window.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mapex_lightning.errors import MapexError


class Share(NamedTuple):
    """What one of several processes does of a plan.

    Attributes:
        rows: the rows of the grid that it writes; those of all processes are the grid, without overlap.
        windows: the numbers of all windows that reach into these rows, some of them for two processes.
    """

    rows: range
    windows: range


@dataclass(frozen=True)
class Plan:
    """Square windows that overlap and cover every cell of a grid, row by row of windows.

    Attributes:
        height: rows of the grid.
        width: columns of the grid.
        side: cells along a window.
        tops: first row of each row of windows, ascending.
        lefts: first column of each column of windows, ascending.
    """

    height: int
    width: int
    side: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, height: int, width: int, side: int, stride: int, unit: int = 1) -> Plan:
        """Windows every `stride` cells, the last ones moved back to where the grid ends.

        Args:
            height: rows of the grid.
            width: columns of the grid.
            side: cells along a window. A grid that is smaller has one window, which reaches beyond it.
            stride: cells from one window to the next, `side` or less and a multiple of `unit`.
            unit: windows begin at multiples of it, so that the last may reach beyond the grid by less than that.

        Raises:
            MapexError: the stride leaves gaps, or is no multiple of the unit.
        """
        if not 0 < stride <= side or stride % unit:
            raise MapexError(
                f"Windows of {side} cells need a stride from {unit} to {side}, a multiple of {unit}; found {stride}."
            )
        return cls(height, width, side, *(_starts(length, side, stride, unit) for length in (height, width)))

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.tops) * len(self.lefts)

    def corner(self, number: int) -> tuple[int, int]:
        """First row and first column of a window; windows are numbered row by row."""
        row, column = divmod(number, len(self.lefts))
        return self.tops[row], self.lefts[column]

    def share(self, rank: int, world: int) -> Share:
        """The part of one of `world` processes: whole rows of windows, and those before them that reach in.

        Every process needs nothing from another one, and adds up the same windows in the same order as one process
        alone would. The price is a row of windows or two that is predicted twice.
        """
        bounds = [len(self.tops) * part // world for part in (rank, rank + 1)]
        edges = (*self.tops, self.height)
        rows = range(edges[bounds[0]], edges[bounds[1]])
        if not rows:
            return Share(rows, range(0))
        first = bisect_left(self.tops, rows.start - self.side + 1)
        return Share(rows, range(first * len(self.lefts), bounds[1] * len(self.lefts)))


def _starts(length: int, side: int, stride: int, unit: int) -> tuple[int, ...]:
    last = -(-max(0, length - side) // unit) * unit
    return (*range(0, last, stride), last)


def raised_cosine(side: int) -> np.ndarray:
    """Weights of a window's cells (side, side) float32: 1 in the middle, almost 0 at the border, never 0.

    A pixel at the border of a window lacks half of its surroundings, and is best left to the window in whose middle it
    lies (Hann window; Pielawski and Waehlby 2020, doi:10.1371/journal.pone.0229839).
    """
    along = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    return np.outer(along, along).astype(np.float32)
