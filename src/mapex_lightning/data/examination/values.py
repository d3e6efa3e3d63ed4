"""Whether pixels are what their modality says: their unit, their scale, their bands and how many of them are valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import log
from typing import NamedTuple

import numpy as np

from mapex_lightning.data.examination.findings import Finding, figure, some
from mapex_lightning.data.statistics import Statistics
from mapex_lightning.modality import Modality

FILLERS = (-9999.0, -32768.0, -32767.0, -99999.0, -999.0)
"""Values that files often hold where nothing was measured."""

CUT = 2**-15
"""Share of itself by which a percentile may be off."""

ENORMOUS = 1e30
"""Beyond it lies the other usual filler, the greatest float32."""

NEAR, FAR = 2.0, 6.0
"""Deviations by which a band's centre may be from its modality's mean before one should look, and before it is wrong.

Its centre is its mean or its median, whichever is nearer: a tenth of snow moves the mean of a blue band by three
deviations, and a skewed band has a median that is far from its mean.
"""

NARROW, TINY, WIDE = 1 / 50, 1 / 2000, 50.0
"""How many times the deviation of a modality a band's own may be.

From NARROW on one should look: the elevation of flat land spreads hundreds of times less than that of the world. Below
TINY or above WIDE the scale is another.
"""

INVALID = 0.5
"""Share of invalid pixels from which on one should look."""

ZEROS = 0.05
"""Share of pixels of exactly 0 in every band, in units where that means that nothing was measured."""

FLOORS = {"reflectance x 10000": 0.0, "reflectance": 0.0, "dB": -60.0, "kelvin": 100.0}
"""Below it nothing is measured but by noise, which is never the same in many pixels and all bands."""

OFFSET = 1000.0
"""What ESA has added to Sentinel-2 products since processing baseline 04.00 (January 2022)."""

OWN = (
    "mapex doctor --stats prints the block of YAML for a sensor with statistics of its own; an encoder out of a "
    "checkpoint keeps those that it was trained with."
)


class Pixels(NamedTuple):
    """What was seen of a modality in some tiles.

    Attributes:
        statistics: per band.
        tiles: how many tiles had it.
        whole: whether all valid values were whole numbers.
        blank: share of pixels that were 0 in all bands.
        flat: per band the number of tiles in which it had one value only.
        means: the mean of each band in each tile, (tiles, C); NaN where no pixel was valid.
    """

    statistics: Statistics
    tiles: int
    whole: bool
    blank: float
    flat: tuple[int, ...]
    means: np.ndarray


class _Range(NamedTuple):
    """The least and the greatest valid value of all bands."""

    low: float
    high: float
    whole: bool


class _Mistake(NamedTuple):
    """A mistake that is made with a unit, how it shows, and what mends it."""

    shows: Callable[[_Range], bool]
    looks: str
    remedy: str


def _fraction(found: _Range) -> bool:
    return found.low >= -0.2 and found.high <= 2 and not (found.whole and found.high == found.low)


def _byte(found: _Range) -> bool:
    return found.whole and found.low >= 0 and 2 < found.high <= 255


_MISTAKES: dict[str, tuple[_Mistake, ...]] = {
    "reflectance x 10000": (
        _Mistake(_fraction, "reflectance as a fraction", "Multiply the values by 10,000"),
        _Mistake(_byte, "an 8-bit picture", "Take the 16-bit product"),
        _Mistake(lambda found: -80 <= found.low < -1 and found.high < 60, "decibels", "Check which file is whose"),
    ),
    "reflectance": (
        _Mistake(_byte, "an 8-bit picture", "Take the product with reflectance"),
        _Mistake(lambda found: found.high > 20, "reflectance x 10000", "Divide the values by 10,000"),
    ),
    "dB": (
        _Mistake(_byte, "an 8-bit picture", "Take the calibrated product in decibels"),
        _Mistake(
            lambda found: found.low >= 0,
            "linear backscatter",
            "Take 10 log10 of power, or 20 log10 of amplitude; where nothing was measured, 0 is nodata",
        ),
    ),
    "8-bit": (
        _Mistake(lambda found: found.high <= 1 and not found.whole, "a picture scaled to 0..1", "Multiply by 255"),
        _Mistake(lambda found: found.low < 0 or found.high > 255, "more than 8 bits", "Scale to 0..255"),
    ),
    "kelvin": (_Mistake(lambda found: found.high < 150, "degrees Celsius", "Add 273.15"),),
}

MEASURED_NOTHING = ("reflectance x 10000", "reflectance", "dB", "kelvin")
"""Units in which 0 in all bands at once means that nothing was measured."""


def values(modality: Modality, pixels: Pixels, owner: str) -> Iterator[Finding]:
    """Findings about the pixels of a modality.

    Args:
        modality: what they should be.
        pixels: what they are.
        owner: the data set, for the sentences.
    """
    name = f"{modality.name} of {owner}"
    statistics = pixels.statistics
    measured = [index for index, count in enumerate(statistics.count) if count]
    findings = [
        *_empty_bands(modality, pixels, name),
        *_invalid(modality, pixels, name),
        *_fillers(modality, pixels, name),
    ]
    if measured:
        mistaken = list(_unit(modality, pixels, name, measured))
        if not mistaken:
            mistaken = list(_offset(modality, statistics, name, measured))
            mistaken = mistaken or list(_scale(modality, statistics, name, measured))
            mistaken += _order(modality, statistics, name, measured)
        findings += mistaken
    if findings:
        yield from findings
        return
    distance = np.abs(_distances(modality, statistics)[measured]).max()
    low, high = min(statistics.minimum), max(statistics.maximum)
    invalid = f"{max(statistics.invalid):.1%} invalid, " if any(statistics.invalid) else ""
    yield Finding(
        "ok",
        "values",
        f"{name}: {figure(low)} to {figure(high)} {modality.unit}, bands within {distance:.1f} deviations of the "
        f"modality's means ({invalid}{pixels.tiles} tiles).",
    )


def _empty_bands(modality: Modality, pixels: Pixels, name: str) -> Iterator[Finding]:
    statistics = pixels.statistics
    empty = [band for band, count in zip(modality.bands, statistics.count, strict=True) if not count]
    constant = [
        f"{band} ({figure(low)})"
        for band, low, high in zip(modality.bands, statistics.minimum, statistics.maximum, strict=True)
        if low == high
    ]
    if empty:
        yield Finding(
            "wrong",
            "values",
            f"{name}: no pixel of {some(empty)} is valid in {pixels.tiles} tiles.",
            "Check the files and their nodata value, or leave the band out of the modality.",
        )
    if constant:
        yield Finding(
            "wrong",
            "values",
            f"{name}: the band {some(constant)} has one value everywhere in {pixels.tiles} tiles.",
            "Fetch or make the band again, or leave it out of the modality.",
        )
    often = [
        f"{band} ({flat})"
        for band, flat, low, high in zip(
            modality.bands, pixels.flat, statistics.minimum, statistics.maximum, strict=True
        )
        if low != high and 2 * flat > pixels.tiles
    ]
    if often:
        yield Finding(
            "look",
            "values",
            f"{name}: in most of {pixels.tiles} tiles a band has one value only: {some(often)}.",
            "Look at these bands: they may have been filled in, or be nodata that is not declared.",
        )


def _invalid(modality: Modality, pixels: Pixels, name: str) -> Iterator[Finding]:
    statistics = pixels.statistics
    many = [
        f"{band} {share:.0%}"
        for band, share, count in zip(modality.bands, statistics.invalid, statistics.count, strict=True)
        if count and share > INVALID
    ]
    if many:
        yield Finding(
            "look",
            "nodata",
            f"{name}: much is invalid: {some(many)}.",
            "Check the nodata value of the files; leave out tiles that hold little else.",
        )
    if modality.unit in MEASURED_NOTHING and pixels.blank > ZEROS:
        yield Finding(
            "look",
            "nodata",
            f"{name}: {pixels.blank:.0%} of the pixels are exactly 0 in all bands, and would be taken for values.",
            "If nothing was measured there, declare 0 as nodata, for instance with `rio edit-info --nodata 0`.",
        )


def _fillers(modality: Modality, pixels: Pixels, name: str) -> Iterator[Finding]:
    statistics = pixels.statistics
    found = [
        f"{band} holds {value:g}"
        for extremes in (statistics.minimum, statistics.maximum)
        for band, value in zip(modality.bands, extremes, strict=True)
        if value in FILLERS or abs(value) > ENORMOUS
    ]
    if found:
        yield Finding(
            "wrong",
            "nodata",
            f"{name}: {some(found)}, which is how files mark that nothing was measured, and is taken for a value.",
            "Declare it as nodata in the files, for instance with `rio edit-info --nodata`.",
        )
    elif (value := _common(statistics)) < FLOORS.get(modality.unit, -np.inf):
        yield Finding(
            "wrong",
            "nodata",
            f"{name}: a hundredth of the pixels or more is exactly {value:g} in every band, which is no value in "
            f"{modality.unit} but nodata to which a scale or an offset was applied.",
            "Make the files again from those that declare their nodata; `mapex tiles` takes it as --nodata SENSOR=0.",
        )


def _common(statistics: Statistics) -> float:
    """The least value, if a hundredth of the pixels of every band or more hold it; else infinity."""
    least, first = (np.array(its) for its in (statistics.minimum, statistics.percentile(1)))
    least, first = least[np.isfinite(least)], first[np.isfinite(least)]
    near = np.abs(first - least) <= CUT * np.abs(least)
    return float(least[0]) if least.size and near.all() and (least == least[0]).all() else np.inf


def _unit(modality: Modality, pixels: Pixels, name: str, measured: Sequence[int]) -> Iterator[Finding]:
    """The mistakes that are made with the modality's unit."""
    statistics = pixels.statistics
    found = _Range(
        min(statistics.minimum[band] for band in measured),
        max(statistics.maximum[band] for band in measured),
        pixels.whole,
    )
    for mistake in _MISTAKES.get(modality.unit, ()):
        if mistake.shows(found):
            yield Finding(
                "wrong",
                "values",
                f"{name}: values lie between {figure(found.low)} and {figure(found.high)} where {modality.unit} is "
                f"expected; this looks like {mistake.looks}.",
                f"{mistake.remedy}, or describe the sensor as it is: {OWN}",
            )
            return


def _scale(modality: Modality, statistics: Statistics, name: str, measured: Sequence[int]) -> Iterator[Finding]:
    """Means and deviations beside those of the modality."""
    distances = _distances(modality, statistics)[measured]
    ratios = [statistics.std[band] / modality.std[band] for band in measured]
    worst = int(np.argmax(np.abs(distances)))
    band = modality.bands[measured[worst]]
    found, its = _centres(modality, statistics)[measured[worst]], modality.mean[measured[worst]]
    typical = float(np.median(ratios))
    if TINY <= typical < NARROW:
        yield Finding(
            "look",
            "values",
            f"{name}: the bands spread {1 / typical:.3g} times less than the statistics of the modality say.",
            f"If your places are so uniform (flat land, open sea), all is well; if not, check the unit. {OWN}",
        )
    elif not TINY <= typical <= WIDE:
        times = f"{1 / typical:.3g} times smaller" if typical < 1 else f"{typical:.3g} times larger"
        yield Finding(
            "wrong",
            "values",
            f"{name}: the bands spread {times} than the statistics of the modality say; this looks like another unit "
            f"than {modality.unit}.",
            f"Check unit, mean and std of the modality. {OWN}",
        )
    elif abs(distances[worst]) > NEAR:
        blue = band in ("B01", "B02") and distances[worst] > 0
        hazy = " Blue that bright is usual for level 1C (top of atmosphere), not for level 2A." if blue else ""
        far = abs(distances[worst]) > FAR
        yield Finding(
            "wrong" if far else "look",
            "values",
            f"{name}: {band} lies around {figure(found)} {modality.unit}, {abs(distances[worst]):.1f} deviations from "
            f"the modality's mean of {figure(its)}.{hazy}",
            f"Check unit and product. If the values are right, the statistics are those of other places: {OWN}"
            if far
            else "If your places are like that (snow, desert, open sea), all is well for a model that you train on "
            f"them; if not, check unit and product. {OWN}",
        )


def _order(modality: Modality, statistics: Statistics, name: str, measured: Sequence[int]) -> Iterator[Finding]:
    """Bands that fit the statistics of another band far better than their own: a hint, no proof."""
    bands = [modality.bands[band] for band in measured]
    if {"VV", "VH"} <= set(bands):
        vv, vh = (statistics.mean[modality.bands.index(band)] for band in ("VV", "VH"))
        if vh > vv:
            yield Finding(
                "look",
                "bands",
                f"{name}: VH ({vh:.3g}) is brighter than VV ({vv:.3g}), which no ground is on average: swapped bands?",
                "Look at the band descriptions of the files, or at their order where they have none.",
            )
            return
    cost = _mismatch(modality, statistics, measured)
    order = list(range(len(bands)))
    while pair := _best_swap(cost, order):
        one, other = pair
        order[one], order[other] = order[other], order[one]
    moved = [f"{band} looks like {bands[at]}" for band, at in zip(bands, order, strict=True) if bands[at] != band]
    if moved:
        yield Finding(
            "look",
            "bands",
            f"{name}: by its values {some(moved, 4)}: swapped bands?",
            "Look at the band descriptions of the files, or at their order where they have none.",
        )


def _offset(modality: Modality, statistics: Statistics, name: str, measured: Sequence[int]) -> Iterator[Finding]:
    """Sentinel-2 with the offset of newer products still in it."""
    if sentence := offset_within(modality, statistics, measured):
        yield Finding(
            "look",
            "values",
            f"{name}: {sentence}.",
            "Subtract 1,000 from every band (BOA_ADD_OFFSET or RADIO_ADD_OFFSET in the metadata of the product): "
            f"{WITHOUT.format(name=modality.name)} does it.",
        )


WITHOUT = "mapex tiles --offset {name}=-1000 --nodata {name}=0"
"""What takes the offset of a sensor off while tiles are cut; 0 means that nothing was measured."""


def offset_within(modality: Modality, statistics: Statistics, measured: Sequence[int]) -> str:
    """Whether pixels look like those of Sentinel-2 with the offset of newer products still in them.

    Args:
        modality: what they should be.
        statistics: of its bands.
        measured: the indexes of bands with valid pixels, one or more.

    Returns:
        Half a sentence that says why; empty where they do not.
    """
    if modality.unit != "reflectance x 10000":
        return ""
    darkest = statistics.percentile(1)
    dark = min(darkest[band] for band in measured)
    if not 0.9 * OFFSET <= dark <= 1.4 * OFFSET:
        return ""
    return (
        f"even the darkest hundredth of the pixels is at {dark:.0f} or more; the offset of 1,000 that Sentinel-2 "
        "products have since processing baseline 04.00 (January 2022) seems to be still in"
    )


def _centres(modality: Modality, statistics: Statistics) -> np.ndarray:
    """The mean or the median of each band, whichever is nearer to the modality's mean."""
    means, medians, wanted = (np.array(its) for its in (statistics.mean, statistics.percentile(50), modality.mean))
    return np.where(abs(means - wanted) < abs(medians - wanted), means, medians)


def _distances(modality: Modality, statistics: Statistics) -> np.ndarray:
    """How many of the modality's deviations the centre of each band is from the modality's mean."""
    distances: np.ndarray = (_centres(modality, statistics) - modality.mean) / modality.std
    return distances


def _mismatch(modality: Modality, statistics: Statistics, measured: Sequence[int]) -> np.ndarray:
    """How badly each band (rows) fits the statistics of each (columns): of means and of deviations."""
    medians = statistics.percentile(50)
    cost = np.zeros((len(measured), len(measured)))
    for row, band in enumerate(measured):
        for column, its in enumerate(measured):
            spread = max(statistics.std[band], 1e-6 * modality.std[its])
            cost[row, column] = abs(medians[band] - modality.mean[its]) / modality.std[its]
            cost[row, column] += abs(log(spread / modality.std[its]))
    return cost


def _best_swap(cost: np.ndarray, order: Sequence[int]) -> tuple[int, int] | None:
    """The two bands whose swap mends most, if it mends much: bands of like statistics say nothing."""
    found, best = None, 0.0
    for one in range(len(order)):
        for other in range(one + 1, len(order)):
            now = cost[one, order[one]] + cost[other, order[other]]
            then = cost[one, order[other]] + cost[other, order[one]]
            if now - then > max(best, 1.5) and then < now / 2:
                found, best = (one, other), now - then
    return found
