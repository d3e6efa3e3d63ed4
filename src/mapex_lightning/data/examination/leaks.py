"""Whether the tiles of one split are, or show, those of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from mapex_lightning.data.crs import name_of, parsed
from mapex_lightning.data.examination.findings import Finding, counted, some
from mapex_lightning.data.examination.sample import Placed, Sample
from mapex_lightning.data.scenes.grid import Grid

SHARE = 0.01
"""Share of a tile that may lie in another in the same coordinate system: less is rounding."""

SHARE_IN_DEGREES = 0.25
"""The same between coordinate systems, where boxes of degrees are larger than the tiles in them."""


class _Box(NamedTuple):
    sample: int
    key: str
    bounds: tuple[float, float, float, float]


def copies(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Tiles with the same pixels, to the last bit, in two splits or twice in one."""
    where: dict[tuple[str, bytes], list[tuple[Sample, str]]] = {}
    for sample in samples:
        for content, keys in sample.copies.items():
            where.setdefault(content, []).extend((sample, key) for key in keys)
    across: set[str] = set()
    within: set[str] = set()
    for found in where.values():
        names = " = ".join(sorted({f"{sample.split} {key}" for sample, key in found}))
        if len({sample.split for sample, _ in found}) > 1:
            across.add(names)
        elif len({(id(sample), key) for sample, key in found}) > len({id(sample) for sample, _ in found}):
            within.add(names)
    if across:
        yield Finding(
            "wrong",
            "copies",
            f"{counted(len(across), 'image')} in one split and in another, to the last bit: {some(sorted(across))} "
            f"({_compared(samples)}).",
            "Leave each out of one of the splits: figures on tiles that were trained on say nothing.",
        )
    if within:
        yield Finding(
            "look",
            "copies",
            f"{counted(len(within), 'image')} more than once in a split: {some(sorted(within))} "
            f"({_compared(samples)}).",
            "Leave out the copies, which count twice.",
        )
    if not across and not within:
        yield Finding("ok", "copies", f"No two tiles have the same pixels ({_compared(samples)}).")


def places(samples: Sequence[Sample], owners: Sequence[str]) -> Iterator[Finding]:
    """Tiles of two splits that show the same ground."""
    located = [(number, placed) for number, sample in enumerate(samples) for placed in sample.places]
    for owner in dict.fromkeys(owners):
        its = [sample for sample, name in zip(samples, owners, strict=True) if name == owner]
        bare, read = sum(len(sample.unplaced) for sample in its), sum(len(sample.read) for sample in its)
        if bare:
            which = "tiles" if bare == read else f"{bare:,} of {read:,} tiles"
            yield Finding(
                "unknown",
                "places",
                f"{owner} does not say where {which} lie, so it was not checked whether train, val and test show the "
                "same ground there, nor whether pixels are as large as the modality says.",
            )
    if not located:
        return
    systems = sorted({placed.place.crs for _, placed in located})
    boxes = [box for number, placed in located if (box := _box(number, placed, degrees=len(systems) > 1))]
    least = SHARE if len(systems) == 1 else SHARE_IN_DEGREES
    found = _overlaps(boxes, [sample.split for sample in samples], least)
    names = some([name_of(system) for system in systems])
    if found:
        listed = [f"{samples[a.sample].split} {a.key} and {samples[b.sample].split} {b.key}" for a, b, _ in found]
        most = max(share for *_, share in found)
        yield Finding(
            "wrong" if most >= SHARE_IN_DEGREES else "look",
            "places",
            f"{counted(len(found), 'pair')} of tiles of different splits overlap on the ground, by up to {most:.0%}: "
            f"{some(listed)} ({_placed(samples)}).",
            "Split by place, not by tile: put all tiles of one place into one split.",
        )
    else:
        yield Finding(
            "ok", "places", f"No tiles of different splits overlap on the ground ({names}; {_placed(samples)})."
        )


def _compared(samples: Sequence[Sample]) -> str:
    return _share(sum(len(sample.read) for sample in samples), samples)


def _placed(samples: Sequence[Sample]) -> str:
    return _share(sum(len(sample.places) for sample in samples), samples)


def _share(compared: int, samples: Sequence[Sample]) -> str:
    total = sum(len(sample.keys) for sample in samples)
    return f"all {total:,} tiles compared" if compared == total else f"{compared:,} of {total:,} tiles compared"


def _box(sample: int, placed: Placed, *, degrees: bool) -> _Box | None:
    """The bounds of a tile in its own coordinates, or in degrees; None where they cannot be told."""
    bounds = Grid(*placed.place[:2], *placed.shape).bounds
    if degrees:
        try:
            bounds = transform_bounds(parsed(placed.place.crs), CRS.from_epsg(4326), *bounds)
        except RasterioError:
            return None
    return _Box(sample, placed.key, bounds)


def _overlaps(boxes: Sequence[_Box], splits: Sequence[str], least: float) -> list[tuple[_Box, _Box, float]]:
    """Pairs of boxes of different splits, with the share of the smaller that lies in the other."""
    by_split = {split: [box for box in boxes if splits[box.sample] == split] for split in dict.fromkeys(splits)}
    found = []
    for one, other in combinations(by_split.values(), 2):
        if not one or not other:
            continue
        left, right = (np.array([box.bounds for box in part]) for part in (one, other))
        for index, box in enumerate(left):
            low, high = np.maximum(box[:2], right[:, :2]), np.minimum(box[2:], right[:, 2:])
            shared = np.clip(high - low, 0, None).prod(1)
            areas = np.minimum((right[:, 2:] - right[:, :2]).prod(1), (box[2:] - box[:2]).prod())
            shares = shared / areas
            found += [(one[index], other[at], float(shares[at])) for at in np.flatnonzero(shares > least).tolist()]
    return found
