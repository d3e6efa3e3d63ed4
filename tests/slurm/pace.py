"""Synthetic tiles that are read slowly, so that a job lives long enough to be interrupted on any machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile

PACE = "MAPEX_TEST_PACE"
"""Environment variable with the seconds for a tile."""

SECONDS = 0.05
"""For a tile, unless it says otherwise."""


class Slow(Synthetic):
    """The same tiles, later."""

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """A tile."""
        time.sleep(float(os.environ.get(PACE, SECONDS)))
        return super().read(key, modalities)
