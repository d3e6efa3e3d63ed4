"""Overlapping windows to one map: a weighted mean that holds one row of windows and no more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mapex_lightning.data.maps.plan import Plan, raised_cosine

Write = Callable[[int, np.ndarray], None]
"""Takes finished rows: the first one's number, and values (K, rows, width) float32, NaN where nothing was valid."""


class Blender:
    """Takes the windows of a plan in their order, and hands on the rows that no later window will touch.

    Memory is that of one row of windows, however high the grid is: (2 K + 1) x side x width float32.

    Args:
        plan: the windows.
        bands: K values per cell.
        write: is given all rows once, in order, at most `plan.side` at a time.
        rows: the rows to make; None is all of the grid. See `Plan.share`.
    """

    def __init__(self, plan: Plan, bands: int, write: Write, rows: range | None = None) -> None:
        self.plan, self.write = plan, write
        self.rows = range(plan.height) if rows is None else rows
        self.top = self.rows.start
        self._weight = raised_cosine(plan.side)
        self._sum = np.zeros((bands, plan.side, plan.width), dtype=np.float32)
        self._total = np.zeros((plan.side, plan.width), dtype=np.float32)

    def add(self, number: int, values: np.ndarray, valid: np.ndarray) -> None:
        """Adds a window; one that holds nothing valid may be left out.

        Args:
            number: of the window, greater than those before.
            values: (K, side, side).
            valid: (side, side) bool: the cells that count.
        """
        top, left = self.plan.corner(number)
        self._finish(top)
        # A window may begin above the rows that are made here, and end right of the grid.
        inside = slice(max(0, self.top - top), None), slice(0, self.plan.width - left)
        weight = self._weight[inside] * valid[inside]
        height, width = weight.shape
        down = max(0, top - self.top)
        here = slice(down, down + height), slice(left, left + width)
        # Where a cell does not count its value does not either, not even if it is NaN.
        self._sum[:, *here] += np.where(valid[inside], values[:, *inside], 0) * weight
        self._total[here] += weight

    def close(self) -> None:
        """Hands on the rows that are left after the last window."""
        self._finish(self.rows.stop)

    def _finish(self, row: int) -> None:
        """Hands on the rows before `row` and makes room for later ones."""
        while (count := min(row - self.top, self.plan.side)) > 0:
            total = self._total[:count]
            mean = np.full((len(self._sum), *total.shape), np.nan, dtype=np.float32)
            np.divide(self._sum[:, :count], total, out=mean, where=total > 0)
            self.write(self.top, mean)
            for buffer in (self._sum, self._total):
                buffer[..., : self.plan.side - count, :] = buffer[..., count:, :].copy()
                buffer[..., self.plan.side - count :, :] = 0
            self.top += count
