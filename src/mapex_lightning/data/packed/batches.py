"""Batches out of packed stores: pixels stay as they are stored until they lie on the device.

Small integers are a half or a quarter of the bytes to copy, pin and send, and a device turns tiles and makes numbers of
them in no time. So what a worker hands over is `Stored`, and `TileData.on_after_batch_transfer` makes `Tiles` of it:
nothing else knows of it. The tiles are, bit for bit, those that reading one after the other gives.

Axes: B tiles of a batch, b of them in a part, C bands, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mapex_lightning.data.members import Members
from mapex_lightning.data.packed.store import MASK
from mapex_lightning.data.sets.packed import Names, Packed
from mapex_lightning.data.tileset import TileSet
from mapex_lightning.data.transforms import ground_of, room, start
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import IGNORED, Tile, Tiles, collate

SYMMETRIES = 8


class Rows(NamedTuple):
    """Pixels of some tiles of a batch, as they are stored and not yet turned.

    Attributes:
        rows: which tiles, (b,) int64, those of one symmetry after those of another.
        counts: how many there are of each of the `SYMMETRIES`.
        pixels: (b, C, H, W), of masks (b, H, W).
        nodata: the number that stands for an invalid pixel, if one does.
    """

    rows: Tensor
    counts: Sequence[int]
    pixels: Tensor
    nodata: int | None

    def put(self, batch: Tensor) -> None:
        """Writes the pixels, turned, into a batch (B, C, H, W) float32 or (B, H, W) int64 on the same device."""
        for element, (rows, stored) in enumerate(
            zip(self.rows.split(list(self.counts)), self.pixels.split(list(self.counts)), strict=True)
        ):
            if len(rows):
                pixels = stored.to(batch.dtype)
                if self.nodata is not None:
                    pixels = pixels.masked_fill(pixels == self.nodata, torch.nan)
                batch.index_copy_(0, rows, turned(pixels, element))


class Stored(NamedTuple):
    """A batch before it is `Tiles`.

    Attributes:
        names: B ids.
        images: per modality the pixels, in one part per data set; tiles in no part lack it.
        target: classes (B,) int64, multi-hot labels (B, classes) float32 or masks in parts; None where there is none.
        unlabelled: the ids of tiles without a label.
    """

    names: Sequence[str]
    images: Mapping[str, Sequence[Rows]]
    target: Tensor | Sequence[Rows] | None
    unlabelled: Sequence[str]

    def finished(self, modalities: Sequence[Modality], extent: float) -> Tiles | tuple[Tiles, Tensor]:
        """What `mapex_lightning.tiles.collate` makes of the same tiles, and their target if they have one.

        Args:
            modalities: those of the batch.
            extent: side of a tile in metres.
        """
        images, present = {}, {}
        device = next(part for parts in self.images.values() for part in parts).rows.device
        for modality in modalities:
            side = round(extent / modality.gsd)
            parts = self.images[modality.name]
            image = torch.zeros(len(self.names), len(modality.bands), side, side, device=device)
            here = torch.zeros(len(self.names), dtype=torch.bool, device=device)
            for part in parts:
                part.put(image)
                here.index_fill_(0, part.rows, True)
            images[modality.name], present[modality.name] = image, here
        tiles = Tiles(images, present, tuple(self.names))
        if self.target is None:
            return tiles
        return tiles, self.target if isinstance(self.target, Tensor) else self._masks(self.target)

    def _masks(self, parts: Sequence[Rows]) -> Tensor:
        first = parts[0].pixels
        masks = torch.full((len(self.names), *first.shape[1:]), IGNORED, device=first.device)
        for part in parts:
            part.put(masks)
        return masks


def turned(pixels: Tensor, element: int) -> Tensor:
    """As `mapex_lightning.data.transforms.symmetry`, for pixels (..., H, W)."""
    mirrored = pixels.flip(-1) if element >= 4 else pixels
    return torch.rot90(mirrored, element % 4, (-2, -1)) if element % 4 else mirrored


class Square(NamedTuple):
    """How a square is cut out of the pixels of a store.

    Attributes:
        name: of the stored sensor, or `MASK`.
        bands: which of its bands.
        step: pixels between two places where it can begin.
        side: its pixels.
    """

    name: str
    bands: slice | list[int]
    step: int
    side: int


class Cutter:
    """Cuts squares out of the tiles of one store, many at a time and where `mapex_lightning.data.transforms` would.

    Args:
        source: the store.
        offered: those of the batch's modalities that it has.
        modalities: all of the batch.
        extent: side of the squares in metres.

    Attributes:
        fits: whether whole tiles fit into the squares.

    Raises:
        MapexError: as for `mapex_lightning.data.transforms.crop`.
    """

    def __init__(
        self, source: Packed, offered: Sequence[Modality], modalities: Sequence[Modality], extent: float
    ) -> None:
        self.source = source
        sensors = {modality.name: source.sensor(modality) for modality in offered}
        shapes = {name: source.files(sensor).shape for name, sensor in sensors.items()}
        stand_in = Tile("", {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
        self.room = room(stand_in, modalities, extent)
        self.fits = all(length <= extent for length in ground_of(stand_in, modalities))
        self.squares = {
            modality.name: Square(
                sensors[modality.name],
                source.bands(sensors[modality.name], modality),
                int(self.room.step / Fraction(modality.gsd).limit_denominator(10_000)),
                round(extent / modality.gsd),
            )
            for modality in offered
        }
        self.mask = self._mask_square(shapes[offered[0].name]) if source.index.mask else None

    def _mask_square(self, shape: tuple[int, ...]) -> Square | None:
        """As for the first modality, whose tiles have this shape; None if the masks' pixels do not divide the steps."""
        first = next(iter(self.squares.values()))
        rows, columns = (
            Fraction(ours, theirs) for ours, theirs in zip(self.source.files(MASK).shape, shape[-2:], strict=True)
        )
        step, side = first.step * rows, first.side * rows
        if rows != columns or step.denominator > 1 or side.denominator > 1:
            return None
        return Square(MASK, slice(None), int(step), int(side))

    @cached_property
    def certain(self) -> np.ndarray:
        """Which tiles of the store surely have a valid pixel in every square: bool; others need a closer look."""
        table = self.source.table
        certain = np.zeros(len(table), dtype=bool)
        if min(self.room.rows, self.room.columns) >= 0 and (self.mask is None) == (self.source.index.mask is None):
            for name in {square.name for square in self.squares.values()}:
                certain |= (table[f"{name}.row"] >= 0) & ~table[f"{name}.holes"]
        return certain

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Per sensor, and for masks, the rows of all tiles: a column of the table, close together in memory."""
        names = {square.name for square in [*self.squares.values(), *([self.mask] if self.mask else [])]}
        return {name: np.ascontiguousarray(self.source.table[f"{name}.row"]) for name in names}

    def images(
        self, tiles: np.ndarray, places: np.ndarray, draws: np.ndarray | None
    ) -> tuple[dict[str, Rows], Rows | None]:
        """The squares of some tiles.

        Args:
            tiles: their numbers (n,).
            places: their rows in the batch (n,).
            draws: three numbers between 0 and 1 for each, (n, 3); None takes the centre, unturned.

        Returns:
            Per modality that any of them has; and the masks, where they are the labels.
        """
        tops, lefts, elements = self._drawn(len(tiles), draws)
        order = np.argsort(elements, kind="stable")
        tiles, places, tops, lefts, elements = (array[order] for array in (tiles, places, tops, lefts, elements))

        def rows(square: Square) -> Rows | None:
            stored = self.rows[square.name][tiles]
            here = np.flatnonzero(stored >= 0)
            if not len(here):
                return None
            corners = (tops[here] * square.step, lefts[here] * square.step)
            pixels = self.source.pixels(square.name, stored[here], square.bands, corners, square.side)
            counts = np.bincount(elements[here], minlength=SYMMETRIES).tolist()
            nodata = self.source.files(square.name).nodata
            return Rows(torch.from_numpy(places[here]), counts, torch.from_numpy(pixels), nodata)

        found = {name: rows(square) for name, square in self.squares.items()}
        masks = None if self.mask is None else rows(self.mask)
        return {name: part for name, part in found.items() if part is not None}, masks

    def labels(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes (n,) or multi-hot labels (n, classes), and which tiles have one (n,); of masks only the latter."""
        table = self.source.table
        match self.source.index.task:
            case "multiclass":
                labels = table["label"][tiles]
                return labels, labels >= 0
            case "multilabel":
                return table["labels"][tiles].astype(np.float32), table["labelled"][tiles]
            case "segmentation":
                return tiles, table[f"{MASK}.row"][tiles] >= 0

    def _drawn(self, count: int, draws: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First steps along either side and symmetries, each (count,): the draws of `Drawn`, many at a time."""
        nothing = np.zeros(count, dtype=np.int64)
        if draws is None:
            return nothing + start(self.room.rows, None), nothing + start(self.room.columns, None), nothing
        numbers = iter(draws.T)
        # A side without a choice draws nothing, and then the next takes its number.
        tops, lefts = (
            (next(numbers) * (steps + 1)).astype(np.int64) if steps > 0 else nothing
            for steps in (self.room.rows, self.room.columns)
        )
        return tops, lefts, (next(numbers) * SYMMETRIES).astype(np.int64)


class Part(NamedTuple):
    """The tiles of a batch that come out of one store.

    Attributes:
        cutter: of the store.
        tiles: their numbers in it, (n,).
        places: their rows in the batch, (n,).
        draws: see `Cutter.images`.
    """

    cutter: Cutter
    tiles: np.ndarray
    places: np.ndarray
    draws: np.ndarray | None


class PackedMembers:
    """Those tiles of a data set's members that lie in packed stores; false if there are none.

    Args:
        members: each tile as data set and key.
        modalities: those of the batches.
        extent: side of a tile in metres.
    """

    def __init__(self, members: Sequence[tuple[TileSet, str]], modalities: Sequence[Modality], extent: float) -> None:
        parts = members.parts if isinstance(members, Members) else [(source, [key]) for source, key in members]
        stores = [one for one in dict.fromkeys(source for source, _ in parts) if isinstance(one, Packed)]
        self.cutters = [Cutter(one, [m for m in modalities if one.offers(m)], modalities, extent) for one in stores]
        number = {store: at for at, store in enumerate(stores)}
        count = len(members) if stores else 0
        self.store, self.tile = np.full(count, -1, dtype=np.int16), np.full(count, -1, dtype=np.int64)
        end = 0
        for source, keys in parts if stores else ():
            here, end = slice(end, end + len(keys)), end + len(keys)
            if isinstance(source, Packed):
                self.store[here] = number[source]
                self.tile[here] = keys.numbers if isinstance(keys, Names) else [source.number(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self.cutters)

    @property
    def fit(self) -> bool:
        """Whether there are some, none of which is larger than the square."""
        return bool(self.cutters) and all(cutter.fits for cutter in self.cutters)

    def parts(self, indexes: np.ndarray, draws: np.ndarray | None) -> list[Part]:
        """Sorts a batch by store.

        Args:
            indexes: of B members.
            draws: their draws (B, 3), see `Cutter.images`.

        Returns:
            Those tiles that can be had as they are stored.
        """
        stores, tiles = self.store[indexes], self.tile[indexes]
        found = []
        for at, cutter in enumerate(self.cutters):
            places = np.flatnonzero(stores == at)
            places = places[cutter.certain[tiles[places]]]
            if len(places):
                found.append(Part(cutter, tiles[places], places, None if draws is None else draws[places]))
        return found


def gathered(
    parts: Sequence[Part],
    others: Mapping[int, Tile],
    modalities: Sequence[Modality],
    extent: float,
) -> Stored:
    """Puts a batch together.

    Args:
        parts: the tiles that are packed, per store.
        others: all other tiles, cut and turned, by their row in the batch.
        modalities: of the batch.
        extent: side of a tile in metres.
    """
    images: dict[str, list[Rows]] = {modality.name: [] for modality in modalities}
    masks: list[Rows] = []
    targets: list[tuple[np.ndarray, np.ndarray]] = []
    unlabelled: list[str] = []
    names = [""] * (sum(len(part.tiles) for part in parts) + len(others))
    for cutter, tiles, places, draws in parts:
        for place, name in zip(places.tolist(), cutter.source.names[tiles].tolist(), strict=True):
            names[place] = name.decode()
        found, mask = cutter.images(tiles, places, draws)
        for name, part in found.items():
            images[name].append(part)
        values, has = cutter.labels(tiles)
        unlabelled += [names[place] for place in places[~has].tolist()]
        if mask is not None:
            masks.append(mask)
        else:
            targets.append((places[has], values[has]))
    if others:
        plain = collate(list(others.values()), modalities, extent)
        rows = np.array(list(others))
        for name, image in plain.images.items():
            here = plain.present[name].numpy()
            if here.any():
                images[name].append(_unturned(rows[here], image.numpy()[here]))
        unlabelled += [tile.name for tile in others.values() if tile.target is None]
        for row, tile in others.items():
            names[row] = tile.name
            if isinstance(tile.target, np.ndarray) and tile.target.ndim == 2:
                masks.append(_unturned(np.array([row]), tile.target[None]))
            elif tile.target is not None:
                targets.append((np.array([row]), np.asarray(tile.target)[None]))
    for mask in masks:
        if mask.pixels.shape[1:] != masks[0].pixels.shape[1:]:
            one, other = (names[int(part.rows[0])] for part in (mask, masks[0]))
            raise MapexError(
                f"Tile {one} has a label of shape {tuple(mask.pixels.shape[1:])} where tile {other} has "
                f"{tuple(masks[0].pixels.shape[1:])}. Give all masks the grid of the same sensor."
            )
    return Stored(names, images, masks or _stacked(len(names), targets), unlabelled)


def _unturned(rows: np.ndarray, pixels: np.ndarray) -> Rows:
    return Rows(torch.from_numpy(rows), [len(rows), *[0] * (SYMMETRIES - 1)], torch.from_numpy(pixels), None)


def _stacked(count: int, targets: Sequence[tuple[np.ndarray, np.ndarray]]) -> Tensor | None:
    """Labels by row of the batch; rows without one, which have no place in training, stay 0."""
    labelled = [(rows, values) for rows, values in targets if len(rows)]
    if not labelled:
        return None
    first = labelled[0][1]
    stacked = np.zeros((count, *first.shape[1:]), dtype=first.dtype)
    for rows, values in labelled:
        stacked[rows] = values
    return torch.from_numpy(stacked)
