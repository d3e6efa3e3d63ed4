"""How a pruned encoder compares with the full one, measured on tiles of the kept sensors.

Axes: B tiles, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mapex_lightning.errors import MapexError
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.precision import widest
from mapex_lightning.tiles import Tiles

RUNS, WARM_UP = 15, 3
"""Timed passes of each encoder, and passes before them that are not timed."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a pass with one tile.

    Args:
        median: of all runs.
        low: the first quartile.
        high: the third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """From single runs."""
        low, median, high = (1000 * torch.tensor(seconds, dtype=torch.float64).quantile(_QUARTILES)).tolist()
        return cls(median, low, high)


_QUARTILES = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


@dataclass(frozen=True)
class Comparison:
    """What pruning has changed, on tiles of the kept sensors alone.

    Args:
        tiles: how many there were.
        difference: the largest absolute difference of any of the pooled features, over their root mean square.
        cosine: the mean over tiles of the cosine between the vectors of full and pruned.
        lowest: the lowest of these.
        full: latency of the full encoder with one tile.
        pruned: latency of the pruned one with the same tile, in turn with the other.
        device: where it was measured.
    """

    tiles: int
    difference: float
    cosine: float
    lowest: float
    full: Latency
    pruned: Latency
    device: str

    @property
    def change(self) -> str:
        """How much the latency changes, and whether that is more than the spread of the runs."""
        change = f"{self.pruned.median / self.full.median - 1:+.1%}"
        apart = self.pruned.high < self.full.low or self.full.high < self.pruned.low
        return change if apart else f"{change}, within the spread"

    def plain(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """The same for people."""
        return (
            f"  change of output on {self.tiles} tiles: at most {self.difference:.1e} of the features' size, "
            f"cosine {self.cosine:.6f} mean, {self.lowest:.6f} lowest\n"
            f"  latency of one tile ({self.device}): {self.full.median:.1f} -> {self.pruned.median:.1f} ms "
            f"({self.change}; quartiles {self.full.low:.1f}-{self.full.high:.1f} "
            f"and {self.pruned.low:.1f}-{self.pruned.high:.1f})"
        )


@torch.inference_mode()
def compare(full: Encoder, pruned: Encoder, tiles: Tiles) -> Comparison:
    """Measures outputs and latencies of two encoders on the sensors that both read.

    Args:
        full: the encoder before pruning.
        pruned: the encoder after; both on the device of the tiles.
        tiles: a few tiles.

    Raises:
        MapexError: no tile has a valid pixel of any of the kept sensors.
    """
    found = tiles.only(pruned.config.names)
    seen = found.seen
    if not any(bool(here.any()) for here in seen.values()):
        raise MapexError(
            f"None of the {tiles.batch_size} tiles has a valid pixel of any of the kept sensors "
            f"({', '.join(pruned.config.names)}); name a config whose tiles have them."
        )
    sensors = torch.stack(list(seen.values())).sum(0)
    tiles = found.rows(sensors.nonzero()[:, 0])
    one = found.rows(sensors.argmax()[None])
    before, after = (model.eval().pooled(tiles) for model in (full, pruned))
    before, after = (vectors.to(widest(vectors.device)) for vectors in (before, after))
    cosine = F.cosine_similarity(before, after)
    times = in_turn(lambda: full.pooled(one), lambda: pruned.pooled(one))
    return Comparison(
        tiles=tiles.batch_size,
        difference=float((before - after).abs().max() / before.square().mean().sqrt()),
        cosine=float(cosine.mean()),
        lowest=float(cosine.min()),
        full=Latency.of(times[0]),
        pruned=Latency.of(times[1]),
        device=_device(sensors.device),
    )


def in_turn(*passes: Callable[[], Tensor], runs: int = RUNS) -> list[list[float]]:
    """Seconds of each pass, timed in turn so that whatever slows the machine down slows all of them."""
    times: list[list[float]] = [[] for _ in passes]
    for run in range(WARM_UP + runs):
        for passed, seconds in zip(passes, times, strict=True):
            start = time.perf_counter()
            passed().sum().item()  # asking for a number waits until an accelerator is done
            if run >= WARM_UP:
                seconds.append(time.perf_counter() - start)
    return times


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type.upper()}, {threads} thread{'s' if threads > 1 else ''}"
