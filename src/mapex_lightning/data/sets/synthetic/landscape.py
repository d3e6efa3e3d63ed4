"""Invented landscapes: land cover, terrain, and what four synthetic sensors would see of them.

Axes: K covers, B bands, H and W pixels of 10 m. Numbers are plausible and not measured. Covers come in pairs that one
sensor cannot tell apart: forest and flooded forest, settlement and gravel differ in radar alone; burnt ground and wet
soil, snow and salt flat differ in the short-wave infrared (B11, B12) alone. Members of a pair are equal in
everything else, height and texture among it, so that there is no way around.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from mapex_lightning.modality import S2_BANDS

LOOKS = 4
"""Looks averaged in a radar pixel: the speckle's gamma distribution has this shape."""


class Cover(NamedTuple):
    """A land cover.

    Attributes:
        name: the class name.
        reflectance: mean per Sentinel-2 band, x 10000, in the green season.
        dry: the same in the dry season; None does not change.
        backscatter: mean VV and VH in dB.
        height: typical metres above the sea.
        rough: strength of optical texture, as a share of brightness.
        radar_rough: strength of radar texture in dB.
    """

    name: str
    reflectance: tuple[float, ...]
    dry: tuple[float, ...] | None
    backscatter: tuple[float, float]
    height: float
    rough: float
    radar_rough: float


_FOREST = (210, 240, 430, 290, 690, 1850, 2250, 2400, 2500, 2450, 1250, 580)
_FOREST_DRY = (260, 300, 520, 480, 900, 1600, 1850, 1950, 2050, 2050, 1500, 800)
_CROP = (330, 420, 800, 560, 1200, 2700, 3300, 3450, 3550, 3500, 1900, 1050)
_CROP_DRY = (620, 780, 1150, 1500, 1800, 2050, 2250, 2400, 2550, 2600, 3100, 2400)
_BARE = (1050, 1250, 1500, 1700, 1850, 1950, 2050, 2150, 2250, 2300, 2550, 2250)
_DARK = (340, 390, 480, 560, 650, 740, 800, 860, 920, 950)
_WHITE = (6300, 6500, 6600, 6600, 6550, 6450, 6350, 6250, 6100, 5800)

COVERS = (
    Cover("water", (360, 390, 430, 300, 250, 210, 200, 180, 170, 160, 90, 60), None, (-18.5, -25.5), 60, 0.04, 0.4),
    Cover("forest", _FOREST, _FOREST_DRY, (-9.5, -15.0), 350, 0.16, 0.8),
    Cover("flooded forest", _FOREST, _FOREST_DRY, (-5.7, -13.2), 350, 0.16, 0.8),
    Cover("cropland", _CROP, _CROP_DRY, (-11.0, -17.5), 160, 0.06, 0.7),
    Cover("settlement", _BARE, None, (-7.2, -14.0), 200, 0.22, 2.5),
    Cover("gravel", _BARE, None, (-11.0, -18.5), 200, 0.22, 1.0),
    Cover("burnt ground", (*_DARK, 1750, 1650), None, (-12.0, -19.0), 300, 0.10, 0.8),
    Cover("wet soil", (*_DARK, 1050, 780), None, (-12.0, -19.0), 300, 0.10, 0.8),
    Cover("snow", (*_WHITE, 1100, 900), None, (-14.5, -22.0), 900, 0.06, 0.5),
    Cover("salt flat", (*_WHITE, 2600, 2200), None, (-14.5, -22.0), 900, 0.06, 0.5),
)

_GREEN = np.array([cover.reflectance for cover in COVERS], dtype=np.float32)
_DRY = np.array([cover.dry or cover.reflectance for cover in COVERS], dtype=np.float32)
_BACKSCATTER = np.array([cover.backscatter for cover in COVERS], dtype=np.float32)
_HEIGHT = np.array([cover.height for cover in COVERS], dtype=np.float32)
_ROUGH = np.array([cover.rough for cover in COVERS], dtype=np.float32)
_RADAR_ROUGH = np.array([cover.radar_rough for cover in COVERS], dtype=np.float32)
_WATER, _CROPLAND = 0, 3


@dataclass(frozen=True)
class Landscape:
    """One place.

    Args:
        cover: (H, W) int64, index into `COVERS`.
        height: (H, W) float32, metres above the sea.
        dryness: (H, W) float32 between 0 and 1, the season; parcels of cropland have their own.
        spectra: (K, B) float32, how this place's covers differ from the typical, as a factor per S2 band.
        backscatter: (K, 2) float32, the same for VV and VH, in dB.
        texture: (H, W) float32, brightness pattern, mean 0 and standard deviation 1.
    """

    cover: np.ndarray
    height: np.ndarray
    dryness: np.ndarray
    spectra: np.ndarray
    backscatter: np.ndarray
    texture: np.ndarray


def theme(rng: Generator) -> int:
    """The dominant cover of a place: always the first number that is drawn from its generator."""
    return int(rng.integers(len(COVERS)))


def landscape(rng: Generator, size: int) -> Landscape:
    """Draws a place of size x size pixels, more than half of which is its theme.

    Args:
        rng: the place's own generator, untouched: the landscape is a function of it.
        size: pixels along a side.
    """
    chief = theme(rng)
    guests = rng.choice(np.delete(np.arange(len(COVERS)), chief), size=rng.integers(2, 5), replace=False)
    terrain = _field(rng, 1, size, (30.0, 12.0), (1.0, 0.35))[0]
    cover = _cover(rng, chief, guests, terrain)
    season = rng.uniform()
    return Landscape(
        cover=cover,
        height=_height(rng, cover, chief, terrain),
        dryness=_float32(np.where(cover == _CROPLAND, _parcels(rng, size, season), season)),
        spectra=_spectra(rng),
        backscatter=_float32(rng.normal(0, 1.0, (len(COVERS), 1)) + rng.normal(0, 0.5, (len(COVERS), 2))),
        texture=_texture(rng, size),
    )


def reflectance(place: Landscape, bands: tuple[str, ...]) -> np.ndarray:
    """What the ground reflects in Sentinel-2 bands, without a sensor's noise: (B, H, W) float32, x 10000."""
    at = [S2_BANDS.index(band) for band in bands]
    green, dry = ((spectra * place.spectra)[:, at].T[:, place.cover] for spectra in (_GREEN, _DRY))
    brightness = _light(place.height) * (1 + _ROUGH[place.cover] * place.texture)
    return _float32((green + (dry - green) * place.dryness) * np.maximum(brightness, 0.2))


def sentinel2(place: Landscape, rng: Generator) -> np.ndarray:
    """Synthetic surface reflectance of the 12 bands: (12, H, W) float32, x 10000."""
    signal = reflectance(place, S2_BANDS)
    noise = rng.standard_normal(signal.shape, dtype=np.float32) * (15 + 0.015 * signal)
    return _float32(np.maximum(signal + noise, 1))


def true_colour(place: Landscape, rng: Generator) -> np.ndarray:
    """Synthetic 8-bit picture from B04, B03 and B02 with its own gain, haze and noise: (3, H, W) float32."""
    gain, haze = rng.uniform(0.85, 1.15), rng.uniform(0, 400) * np.array([0.5, 0.8, 1.0])[:, None, None]
    linear = gain * (reflectance(place, ("B04", "B03", "B02")) + haze) / 3500
    noisy = 255 * linear + 3 * rng.standard_normal(linear.shape, dtype=np.float32)
    return _float32(np.clip(np.round(noisy), 0, 255))


def sentinel1(place: Landscape, rng: Generator) -> np.ndarray:
    """Synthetic backscatter VV and VH with gamma speckle of `LOOKS` looks: (2, H, W) float32 in dB."""
    typical = (_BACKSCATTER + place.backscatter).T[:, place.cover]
    wet = 1.5 * (0.5 - place.dryness) * (place.cover == _CROPLAND)
    rough = _RADAR_ROUGH[place.cover] * rng.standard_normal(place.cover.shape, dtype=np.float32)
    foreshortening = 4 * np.gradient(place.height, 10.0, axis=1)
    speckle = rng.standard_gamma(LOOKS, typical.shape, dtype=np.float32) / LOOKS
    return _float32(typical + wet + rough + foreshortening + 10 * np.log10(np.maximum(speckle, 1e-3)))


def elevation(place: Landscape, rng: Generator) -> np.ndarray:
    """Synthetic elevation with half a metre of error: (1, H, W) float32 in metres."""
    return _float32(place.height + 0.5 * rng.standard_normal(place.height.shape, dtype=np.float32))[None]


@cache
def _factor(size: int, length: float) -> np.ndarray:
    """(size, R) with factor @ factor.T = exp(-(distance / length)^2 / 2): correlates white noise along an axis."""
    at = np.arange(size)
    values, vectors = np.linalg.eigh(np.exp(-(((at[:, None] - at) / length) ** 2) / 2))
    kept = values > 1e-3 * values.max()
    return _float32(vectors[:, kept] * np.sqrt(values[kept]))


def _field(rng: Generator, count: int, size: int, lengths: tuple[float, ...], weights: tuple[float, ...]) -> np.ndarray:
    """Smooth random fields (count, size, size): Gaussian, with the given correlation lengths in pixels."""
    fields = np.zeros((count, size, size), dtype=np.float32)
    for length, weight in zip(lengths, weights, strict=True):
        factor = _factor(size, length)
        white = rng.standard_normal((count, factor.shape[1], factor.shape[1]), dtype=np.float32)
        fields += weight * (factor @ white @ factor.T)
    return fields


def _cover(rng: Generator, chief: int, guests: np.ndarray, terrain: np.ndarray) -> np.ndarray:
    """(H, W): guests share what the chief leaves; water seeks low ground and the rest, a little, high ground."""
    covers = np.array([chief, *guests])
    size = len(terrain)
    scores = _field(rng, len(covers), size, (14.0, 5.0, 2.0), (1.0, 0.4, 0.15))
    climbs = np.where(covers == _WATER, -1.5, 0.2)
    scores += climbs[:, None, None] * terrain
    lead = scores[0] - scores[1:].max(axis=0)
    share = rng.uniform(0.5, 0.85)
    below = int((1 - share) * lead.size)
    threshold = np.partition(lead.ravel(), below)[below]
    return np.where(lead >= threshold, chief, guests[scores[1:].argmax(axis=0)])


def _height(rng: Generator, cover: np.ndarray, chief: int, terrain: np.ndarray) -> np.ndarray:
    """(H, W) metres: the theme sets the altitude, the terrain the relief, and water is level."""
    altitude = _HEIGHT[chief] * np.exp(rng.normal(0, 0.5))
    height = altitude + rng.uniform(3, 25) * terrain
    water = cover == _WATER
    if water.any():
        level = np.quantile(height[water], 0.3)
        height = np.where(water, level, np.maximum(height, level + 0.5))
    return _float32(height)


def _parcels(rng: Generator, size: int, season: float) -> np.ndarray:
    """(H, W) dryness of fields: slanting parcels, each sown and harvested at its own time."""
    slant, width, depth = rng.uniform(0, np.pi), rng.uniform(5, 12), rng.uniform(10, 30)
    y, x = np.mgrid[:size, :size] + rng.uniform(0, 1000, (2, 1, 1))
    row = np.floor((x * np.cos(slant) + y * np.sin(slant)) / width).astype(np.int64)
    column = np.floor((y * np.cos(slant) - x * np.sin(slant)) / depth).astype(np.int64)
    ripeness = season + rng.normal(0, 0.3, 97)
    return _float32(np.clip(ripeness[(row * 31 + column * 17) % len(ripeness)], 0, 1))


def _spectra(rng: Generator) -> np.ndarray:
    """(K, B) factors: the place's sun, each cover's own shade, chance per band, moisture in the short-wave infrared."""
    count = len(COVERS)
    log = rng.normal(0, 0.10) + rng.normal(0, 0.14, (count, 1)) + rng.normal(0, 0.04, (count, len(S2_BANDS)))
    log[:, -2:] += rng.normal(0, 0.15, (count, 1))
    return _float32(np.exp(log))


def _texture(rng: Generator, size: int) -> np.ndarray:
    """(H, W): canopies, roofs and stones; half of the pattern is as fine as a pixel."""
    canopies = _field(rng, 1, size, (1.5,), (1.0,))[0]
    return _float32(0.8 * canopies + 0.6 * rng.standard_normal((size, size), dtype=np.float32))


def _light(height: np.ndarray) -> np.ndarray:
    """(H, W): slopes that face the morning sun in the south-east are brighter."""
    south, east = np.gradient(height, 10.0)
    return _float32(np.clip(1 - 0.6 * (south + east), 0.6, 1.4))


def _float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.float32)
