"""Crops, parts, flips and rotations that all sensors of a tile undergo together.

Places are metres from a tile's first corner, so that sensors of different ground sampling distance (gsd) stay
co-registered. A segmentation mask follows along on its own grid, usually that of the finest sensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, gcd, lcm
from typing import Any, NamedTuple, Protocol

import numpy as np

from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import IGNORED, Tile


class Chance(Protocol):
    """What draws places and symmetries: a NumPy generator, or numbers that were drawn beforehand."""

    def integers(self, high: int, /) -> Any:
        """One of 0 to ``high - 1``, evenly."""


class Drawn:
    """Chance out of numbers between 0 and 1 that were drawn beforehand, one after the other.

    Args:
        numbers: as many as will be asked for, or more.
    """

    def __init__(self, numbers: Iterable[float]) -> None:
        self._numbers = iter(numbers)

    def integers(self, high: int, /) -> int:
        """The next number as one of 0 to ``high - 1``."""
        return int(float(next(self._numbers)) * high)


def draws(seed: int, epoch: int, indexes: np.ndarray) -> np.ndarray:
    """All that is left to chance in the tiles of an epoch: a function of seed, epoch and index alone.

    SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195) as a hash of a running number. A generator for each
    tile would take longer than reading a packed one.

    Args:
        seed: of the augmentations.
        epoch: from 0 on.
        indexes: of n tiles, int64.

    Returns:
        Three numbers for each, (n, 3) float64, from 0 to less than 1.
    """
    (start,) = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    number = 3 * indexes.astype(np.uint64)[:, None] + np.arange(1, 4, dtype=np.uint64)
    mixed = start + number * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    drawn: np.ndarray = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    return drawn


class Ground(NamedTuple):
    """A length or a place along rows and along columns, in metres."""

    y: Fraction
    x: Fraction


class Part(NamedTuple):
    """A square of a tile.

    Attributes:
        tile: its pixels, under the tile's name.
        corner: where it begins.
    """

    tile: Tile
    corner: Ground

    @property
    def valid(self) -> bool:
        """Whether any pixel of any sensor is valid."""
        return valid(self.tile)


class Layout(NamedTuple):
    """How those parts of a tile that have a valid pixel lie in it.

    Attributes:
        ground: that the tile covers.
        side: of a part, in metres.
        corners: where the parts begin.
        place: where the whole tile lies, if its data set says so.
    """

    ground: Ground
    side: Fraction
    corners: Sequence[Ground]
    place: GeoReference | None

    @classmethod
    def of(cls, tile: Tile, place: GeoReference | None, modalities: Sequence[Modality], extent: float) -> Layout:
        """Of the `parts` of a tile.

        Args:
            tile: before it is cut.
            place: what its data set says, of a raster of any resolution.
            modalities: see `parts`.
            extent: see `parts`.
        """
        corners = [part.corner for part in parts(tile, modalities, extent) if part.valid]
        place = None if place is None else place_of(tile, place, modalities)
        return cls(_ground(tile, _gsds(modalities)), _exact(extent), corners, place)

    def joined(self, masks: np.ndarray) -> np.ndarray:
        """The mask of the whole tile: where parts overlap that of the first, and `IGNORED` where there is none.

        Args:
            masks: of all parts in their order (n, h, w).
        """
        pixel = self.side / masks.shape[-1]
        rows, columns = (round(length / pixel) for length in self.ground)
        whole = np.full((rows, columns), IGNORED, dtype=masks.dtype)
        for mask, corner in zip(masks, self.corners, strict=True):
            inside, of = zip(
                *(
                    _overlap(round(start / pixel), size, length)
                    for start, size, length in zip(corner, mask.shape, whole.shape, strict=True)
                ),
                strict=True,
            )
            whole[inside] = np.where(whole[inside] == IGNORED, mask[of], whole[inside])
        return whole


class Room(NamedTuple):
    """Where a square can begin: at any of ``0..rows`` and ``0..columns`` steps; less than 0 where it is padded.

    Attributes:
        step: in metres, a multiple of every sensor's pixels.
    """

    rows: int
    columns: int
    step: Fraction


def crop(tile: Tile, modalities: Sequence[Modality], extent: float, rng: Chance | None) -> Tile:
    """Cuts the same square of ground out of every image, and out of a segmentation mask.

    The square is aligned to the coarsest sensor's pixels (where gsds do not divide each other, to their common
    multiple). A tile that is smaller is centred and padded: images with NaN, masks with `IGNORED`.

    Args:
        tile: images of any size that cover the same ground.
        modalities: at least those of the tile's images.
        extent: side of the square in metres, a multiple of every gsd.
        rng: draws the place; None takes the centre.

    Returns:
        A tile whose images have extent / gsd rows and columns.

    Raises:
        MapexError: the extent is no multiple of a gsd, or the images of the tile cover different ground.
    """
    gsds, side = _gsds(modalities), _exact(extent)
    _check_extent(side, gsds)
    ground = _ground(tile, gsds)
    return _square(tile, gsds, ground, _corner(ground, side, alignment(modalities), rng), side)


def parts(tile: Tile, modalities: Sequence[Modality], extent: float) -> list[Part]:
    """Cuts a tile into squares that together cover it, row by row, each aligned as by `crop`.

    The last ones along an axis are moved back to where the tile ends. So squares may overlap; in a segmentation mask
    what an earlier square holds is `IGNORED`, so that every pixel counts once. Along an axis on which the tile is no
    larger than a square there is one, in which it is centred and padded.

    Args:
        tile: images of any size that cover the same ground.
        modalities: at least those of the tile's images.
        extent: side of a square in metres, a multiple of every gsd.

    Raises:
        MapexError: as for `crop`.
    """
    gsds, side = _gsds(modalities), _exact(extent)
    _check_extent(side, gsds)
    ground, step = _ground(tile, gsds), alignment(modalities)
    if (whole := _mask(tile)) is not None:
        step = _common_multiple([step, ground.y / len(whole)])
    tops, lefts = (_starts(length, side, step) for length in ground)
    found = []
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            cut = _square(tile, gsds, ground, Ground(top, left), side)
            if (mask := _mask(cut)) is not None:
                pixel = side / len(mask)
                mask[: int((tops[row - 1] + side - top) / pixel) if row else 0] = IGNORED
                mask[:, : int((lefts[column - 1] + side - left) / pixel) if column else 0] = IGNORED
            found.append(Part(cut, Ground(top, left)))
    return found


def ground_of(tile: Tile, modalities: Sequence[Modality]) -> Ground:
    """How much ground a tile covers.

    Raises:
        MapexError: the images of the tile cover different ground.
    """
    return _ground(tile, _gsds(modalities))


def valid(tile: Tile) -> bool:
    """Whether any pixel of any sensor is valid."""
    return any(np.isfinite(image).any() for image in tile.images.values())


def _starts(length: Fraction, side: Fraction, step: Fraction) -> list[Fraction]:
    """Where squares begin along an axis, at multiples of the step."""
    if length <= side:
        return [start(int((length - side) / step), None) * step]
    last = ceil((length - side) / step) * step
    return [*(number * side for number in range(ceil(last / side))), last]


def _square(tile: Tile, gsds: Mapping[str, Fraction], ground: Ground, corner: Ground, side: Fraction) -> Tile:
    """The square of every image, and of a segmentation mask, that begins at a corner."""
    images = {name: _cut(image, gsds[name], corner, side, np.nan) for name, image in tile.images.items()}
    if (mask := _mask(tile)) is None:
        return replace(tile, images=images)
    grid = ground[0] / len(mask)
    if ground[1] != grid * mask.shape[1] or side % grid or any(at % grid for at in corner):
        raise MapexError(
            f"Tile {tile.name}: a mask of {mask.shape} pixels does not fit {_metres(ground)} cropped to "
            f"{float(side):g} m. Give the mask the grid of one of the sensors."
        )
    return replace(tile, images=images, target=_cut(mask, grid, corner, side, IGNORED))


def room(tile: Tile, modalities: Sequence[Modality], extent: float) -> Room:
    """Where `crop` can begin in tiles of this shape.

    Raises:
        MapexError: as for `crop`.
    """
    gsds, side = _gsds(modalities), _exact(extent)
    _check_extent(side, gsds)
    return _room(_ground(tile, gsds), side, _common_multiple(gsds.values()))


def start(steps: int, rng: Chance | None) -> int:
    """Where a square begins if it can at ``0..steps``; half the (maybe negative) way where there is no choice."""
    return int(rng.integers(steps + 1)) if rng is not None and steps > 0 else int(steps / 2)


def place_of(
    tile: Tile, place: GeoReference, modalities: Sequence[Modality], extent: float | None = None
) -> GeoReference:
    """Where the centre crop of a tile lies, in pixels of the finest modality.

    Args:
        tile: before it is cropped.
        place: what its data set says, of a raster of any resolution.
        modalities: those of the crop.
        extent: side of the crop in metres; None is the whole tile.

    Raises:
        MapexError: the images of the tile cover different ground.
    """
    gsds = _gsds(modalities)
    ground, finest = _ground(tile, gsds), min(gsds.values())
    whole = place.on(*(int(length / finest) for length in ground))
    if extent is None:
        return whole
    corner = _corner(ground, _exact(extent), alignment(modalities), None)
    row, column = (float(metres / finest) for metres in corner)
    side = round(_exact(extent) / finest)
    return whole.at(row, column)._replace(shape=(side, side))


def alignment(modalities: Sequence[Modality]) -> Fraction:
    """Metres from one place to the next at which pixels of all sensors begin together."""
    return _common_multiple(_gsds(modalities).values())


def dihedral(tile: Tile, rng: Chance) -> Tile:
    """One of the eight symmetries of the square, drawn evenly: seen from above there is no up."""
    return symmetry(tile, int(rng.integers(8)))


def symmetry(tile: Tile, element: int) -> Tile:
    """Turns every image, and a segmentation mask, by ``element % 4`` quarters; from 4 on it is mirrored first.

    Args:
        tile: any tile.
        element: 0 to 7; 0 leaves the tile as it is.
    """
    assert 0 <= element < 8, element

    def move(pixels: np.ndarray) -> np.ndarray:
        mirrored = pixels[..., ::-1] if element >= 4 else pixels
        return np.ascontiguousarray(np.rot90(mirrored, element % 4, axes=(-2, -1)))

    mask = _mask(tile)
    images = {name: move(image) for name, image in tile.images.items()}
    return replace(tile, images=images, target=tile.target if mask is None else move(mask))


def _mask(tile: Tile) -> np.ndarray | None:
    """The target if it is a mask (H, W); class indexes and multi-hot vectors have no place in a tile."""
    return tile.target if isinstance(tile.target, np.ndarray) and tile.target.ndim == 2 else None


def _gsds(modalities: Sequence[Modality]) -> dict[str, Fraction]:
    return {modality.name: _exact(modality.gsd) for modality in modalities}


def _exact(metres: float) -> Fraction:
    """Lengths as fractions: 0.3 m pixels must add up to 30 m exactly."""
    return Fraction(metres).limit_denominator(10_000)


def _common_multiple(lengths: Iterable[Fraction]) -> Fraction:
    """The shortest length that holds a whole number of each."""
    every = list(lengths)
    return Fraction(lcm(*(length.numerator for length in every)), gcd(*(length.denominator for length in every)))


def _check_extent(side: Fraction, gsds: Mapping[str, Fraction]) -> None:
    for name, gsd in gsds.items():
        if side <= 0 or side % gsd:
            raise MapexError(
                f"A tile of {float(side):g} m is no whole number of pixels of modality {name} ({float(gsd):g} m). "
                f"Choose a multiple of {float(_common_multiple(gsds.values())):g} m."
            )


def _ground(tile: Tile, gsds: Mapping[str, Fraction]) -> Ground:
    """The ground that all images of a tile cover, in metres."""
    grounds = {
        name: Ground(image.shape[-2] * gsds[name], image.shape[-1] * gsds[name]) for name, image in tile.images.items()
    }
    if len(set(grounds.values())) != 1:
        found = ", ".join(f"{name} {_metres(ground)}" for name, ground in grounds.items()) or "no image"
        raise MapexError(f"The images of tile {tile.name} must cover the same ground; found {found}.")
    return next(iter(grounds.values()))


def _metres(ground: Ground) -> str:
    return f"{float(ground.y):g} x {float(ground.x):g} m"


def _room(ground: Ground, side: Fraction, step: Fraction) -> Room:
    rows, columns = (int((length - side) / step) for length in ground)
    return Room(rows, columns, step)


def _corner(ground: Ground, side: Fraction, step: Fraction, rng: Chance | None) -> Ground:
    """Where the square begins: a multiple of the step along either axis."""
    free = _room(ground, side, step)
    return Ground(start(free.rows, rng) * step, start(free.columns, rng) * step)


def _cut(pixels: np.ndarray, gsd: Fraction, corner: Ground, side: Fraction, filler: float) -> np.ndarray:
    """The square as an array of its own; what lies outside the pixels (..., H, W) is filler."""
    size = int(side / gsd)
    cut = np.full((*pixels.shape[:-2], size, size), filler, dtype=pixels.dtype)
    source, target = zip(
        *(_overlap(int(start / gsd), size, length) for start, length in zip(corner, pixels.shape[-2:], strict=True)),
        strict=True,
    )
    cut[(..., *target)] = pixels[(..., *source)]
    return cut


def _overlap(start: int, size: int, length: int) -> tuple[slice, slice]:
    """The part of 0..length that start..start+size covers, as seen from either of the two."""
    low, high = max(start, 0), min(start + size, length)
    return slice(low, high), slice(low - start, high - start)
