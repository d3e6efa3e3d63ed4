"""Statistics of pixels per band, in one pass over any number of tiles and on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np
import yaml

from mapex_lightning.data.tileset import TileSet
from mapex_lightning.data.workers import in_order
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality

# A float32 is a whole number of at most 24 bits (its significand) times a power of two.
_FRACTION = 23
_SMALLEST = -149
"""The exponent of the smallest positive float32: every finite one is a whole number of times 2**-149."""
_KEPT = 15
_BINS = 2**_KEPT
_PART = 256
"""Tiles at most that a process works through before it hands over what it found."""


@dataclass
class _Band:
    """Sums of one band as whole numbers, and a histogram with a page of `_BINS` bins per sign and power of two."""

    count: int = 0
    pixels: int = 0
    total: int = 0
    squares: int = 0
    low: float = np.inf
    high: float = -np.inf
    pages: dict[int, np.ndarray] = field(default_factory=dict)

    def update(self, values: np.ndarray) -> None:
        self.pixels += values.size
        valid = values[np.isfinite(values)].astype(np.float32, copy=False) + np.float32(0)  # -0 becomes 0
        if not valid.size:
            return
        self.count += valid.size
        self.low, self.high = min(self.low, float(valid.min())), max(self.high, float(valid.max()))
        bits = valid.view(np.uint32)
        octaves = bits >> _FRACTION  # sign and exponent
        for octave in np.flatnonzero(np.bincount(octaves)).tolist():
            self._add(octave, bits[octaves == octave] & (2**_FRACTION - 1))

    def _add(self, octave: int, fractions: np.ndarray) -> None:
        """Pixels of one sign and power of two, by the 23 bits of their fractions."""
        sign, exponent = (-1 if octave >> 8 else 1), octave & 255
        hidden = 2**_FRACTION if exponent else 0  # the leading bit that is not stored
        significands = fractions.astype(np.int64) + hidden
        shift = max(exponent, 1) - 1
        squares = significands**2  # below 2**48: halves of 24 bits can be summed over 2**39 pixels
        self.total += sign * int(significands.sum()) << shift
        self.squares += ((int((squares >> 24).sum()) << 24) + int((squares & (2**24 - 1)).sum())) << 2 * shift
        np.add.at(self._page(octave), fractions >> (_FRACTION - _KEPT), 1)

    def _page(self, octave: int) -> np.ndarray:
        if octave not in self.pages:
            self.pages[octave] = np.zeros(_BINS, dtype=np.int64)
        return self.pages[octave]

    def merge(self, other: _Band) -> None:
        self.count += other.count
        self.pixels += other.pixels
        self.total += other.total
        self.squares += other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for octave, page in other.pages.items():
            self._page(octave)[:] += page

    def mean(self) -> float:
        return float(Fraction(self.total, self.count) * Fraction(2) ** _SMALLEST) if self.count else np.nan

    def std(self) -> float:
        if not self.count:
            return float(np.nan)
        variance = Fraction(self.squares, self.count) - Fraction(self.total, self.count) ** 2
        return float(np.sqrt(float(variance * Fraction(2) ** (2 * _SMALLEST))))

    def percentile(self, share: float) -> float:
        if not self.count:
            return float(np.nan)
        rank = max(1, int(-(-Fraction(str(share)) * self.count // 100)))  # 0.1 as it is written; rounded up
        for octave in sorted(self.pages, key=lambda octave: 255 - octave if octave >> 8 else octave):
            page = self.pages[octave]
            inside = int(page.sum())
            if rank <= inside:
                at = _rank(page[::-1], rank) if octave >> 8 else _rank(page, rank)
                kept = _BINS - 1 - at if octave >> 8 else at
                bits = np.array([octave << _FRACTION | kept << (_FRACTION - _KEPT)], dtype=np.uint32)
                return min(max(float(bits.view(np.float32)[0]), self.low), self.high)
            rank -= inside
        raise AssertionError("the histogram counts fewer pixels than the band")


class Statistics:
    """Count, mean, deviation, extremes and percentiles of each band; pixels that are not finite are invalid.

    Sums are exact: every float32 is a whole number of times 2**-149, and those are summed as Python's integers, as in
    Kulisch's accumulator (doi:10.1515/9783110301793). So the result depends on the pixels alone, not on their order,
    nor on how they were shared out over processes and merged, and means and deviations are rounded once.

    Percentiles come from a histogram of the values cut to 16 significant bits. They are exact where all values are
    whole numbers of 16 bits (-65,536 to 65,536); other values come out nearer to zero than they are, by less than
    2**-15 (0.003 %) of themselves. Memory: 256 kB per band and power of two that occurs, some 4 MB for a 16-bit band.

    Args:
        bands: the names of the C bands, in the order of the images.
    """

    def __init__(self, bands: Sequence[str]) -> None:
        self.bands = tuple(bands)
        self._bands = tuple(_Band() for _ in self.bands)

    def update(self, image: np.ndarray) -> None:
        """Adds the pixels of an image (C, H, W) float32.

        Raises:
            MapexError: it has another number of bands.
        """
        if len(image) != len(self.bands):
            raise MapexError(
                f"Statistics of {len(self.bands)} bands ({', '.join(self.bands)}) were given an image of shape "
                f"{image.shape}. Give one of shape (bands, rows, columns)."
            )
        for band, values in zip(self._bands, image, strict=True):
            band.update(values.ravel())

    def merge(self, other: Statistics) -> None:
        """Adds all that another has seen.

        Raises:
            MapexError: its bands are others.
        """
        if other.bands != self.bands:
            raise MapexError(
                f"Statistics of the bands {', '.join(self.bands)} cannot be merged with those of "
                f"{', '.join(other.bands)}. Merge statistics of the same bands in the same order."
            )
        for band, its in zip(self._bands, other._bands, strict=True):
            band.merge(its)

    @property
    def count(self) -> tuple[int, ...]:
        """Valid pixels per band."""
        return tuple(band.count for band in self._bands)

    @property
    def invalid(self) -> tuple[float, ...]:
        """Share of invalid pixels per band, 0 to 1; NaN where there were no pixels."""
        return tuple(1 - band.count / band.pixels if band.pixels else np.nan for band in self._bands)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the valid pixels per band; NaN where there are none."""
        return tuple(band.mean() for band in self._bands)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of all valid pixels per band (divided by their count); NaN where there are none."""
        return tuple(band.std() for band in self._bands)

    @property
    def minimum(self) -> tuple[float, ...]:
        """The least valid value per band; NaN where there is none."""
        return tuple(band.low if band.count else np.nan for band in self._bands)

    @property
    def maximum(self) -> tuple[float, ...]:
        """The greatest valid value per band; NaN where there is none."""
        return tuple(band.high if band.count else np.nan for band in self._bands)

    def percentile(self, share: float) -> tuple[float, ...]:
        """The least value per band that at least a share of its pixels do not exceed; NaN where there are none.

        Args:
            share: 0 to 100; 50 is the median, 0 and 100 are the extremes.

        Raises:
            MapexError: the share is out of range.
        """
        if not 0 <= share <= 100:
            raise MapexError(f"A percentile is asked for with a number between 0 and 100; found {share}.")
        return tuple(band.percentile(share) for band in self._bands)


class Measured(NamedTuple):
    """What one pass over tiles has found.

    Attributes:
        statistics: by the name of the modality.
        unread: a sentence per tile that could not be read.
    """

    statistics: dict[str, Statistics]
    unread: tuple[str, ...]


def measure(
    source: TileSet,
    keys: Sequence[str],
    modalities: Sequence[Modality],
    workers: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Measured:
    """Statistics of tiles of a data set in one pass; the same for any number of workers.

    Args:
        source: the data set.
        keys: the tiles; each is read once.
        modalities: the sensors, of which the data set offers each.
        workers: processes; 0 reads in this one.
        progress: called with the number of tiles done so far, from time to time.
    """
    size = min(_PART, max(1, -(-len(keys) // max(1, workers))))
    parts = [keys[start : start + size] for start in range(0, len(keys), size)]
    found = Measured({modality.name: Statistics(modality.bands) for modality in modalities}, ())
    for done, part in enumerate(in_order(partial(_part, source, modalities), parts, workers), start=1):
        for name, its in part.statistics.items():
            found.statistics[name].merge(its)
        found = found._replace(unread=(*found.unread, *part.unread))
        if progress is not None:
            progress(min(len(keys), done * size))
    return found


def _part(source: TileSet, modalities: Sequence[Modality], keys: Sequence[str]) -> Measured:
    """The statistics of a part of the tiles."""
    statistics = {modality.name: Statistics(modality.bands) for modality in modalities}
    unread = []
    for key in keys:
        try:
            tile = source.read(key, modalities)
        except MapexError as error:
            unread.append(str(error))
            continue
        for name, image in tile.images.items():
            statistics[name].update(image)
    return Measured(statistics, tuple(unread))


def with_statistics(modality: Modality, statistics: Statistics, digits: int = 5) -> Modality:
    """The modality with mean and standard deviation as they were found, to so many significant digits.

    Raises:
        MapexError: a band has no valid pixel, or is constant; the sentence names it.
    """
    for band, count, std in zip(statistics.bands, statistics.count, statistics.std, strict=True):
        if not count or not std:
            found = "the same value in all its pixels" if count else "no valid pixel"
            raise MapexError(
                f"Band {band} of {modality.name} has {found}, so there is no standard deviation to divide by. "
                "Leave the band out, or look at its files."
            )
    return replace(
        modality,
        mean=tuple(float(f"{value:.{digits}g}") for value in statistics.mean),
        std=tuple(float(f"{value:.{digits}g}") for value in statistics.std),
    )


def block(modality: Modality) -> str:
    """A modality as the block of YAML that `data.modalities` of a config takes."""
    fields = modality.describe()
    if not modality.speckle:
        del fields["speckle"]
    text: str = yaml.safe_dump([fields], sort_keys=False, default_flow_style=None, width=10**6, allow_unicode=True)
    return text


def _rank(counts: np.ndarray, rank: int) -> int:
    """The first place at which so many are reached."""
    return int(np.searchsorted(np.cumsum(counts), rank))
