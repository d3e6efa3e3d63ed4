"""Writes packed stores: whatever is interrupted goes on where it stopped, and ends in the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mapex_lightning.data.checksums import digest, write_digests
from mapex_lightning.data.fingerprint import digest_of
from mapex_lightning.data.packed.store import (
    INDEX,
    MASK,
    TABLE,
    Facts,
    Files,
    Index,
    decoded,
    encoded,
    nodata,
    table_type,
)
from mapex_lightning.data.tileset import SPLITS, GeoReference, TileSet
from mapex_lightning.data.transforms import crop, place_of
from mapex_lightning.data.workers import in_order
from mapex_lightning.errors import MapexError
from mapex_lightning.files import sweep, write_text, write_whole
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile

LARGEST = 2 * 10**9
"""Bytes of the largest file of pixels, unless one tile is larger."""

UNDER_WAY = ".packing"
"""The folder of notes on what is done; it goes when the store is whole."""

Told = Callable[[int, int], object]
"""Called with the number of tiles that are packed, and of all."""


class Packing(NamedTuple):
    """What is packed into what.

    Attributes:
        source: the data set.
        modalities: those that it offers and that are packed.
        out: the folder of the store.
        size: side of the centre that is cut out of every tile, in pixels of the finest modality; None packs whole
            tiles, which must all be of one size.
        workers: processes that read; 0 reads in this one.
        largest: see `LARGEST`.
    """

    source: TileSet
    modalities: tuple[Modality, ...]
    out: Path
    size: int | None = None
    workers: int = 0
    largest: int = LARGEST


def pack(packing: Packing, told: Told = lambda done, of: None) -> Index:
    """Writes a store, or what is missing of one; one that is whole is left alone.

    The order of tiles is that of the splits, and within them that of the data set. Pixels are stored in the smallest
    type that loses nothing.

    Args:
        packing: what into what.
        told: hears of progress.

    Returns:
        The index of the store.

    Raises:
        MapexError: the folder holds something else, or a store that is no longer what would be packed; a tile cannot
            be read or is of another size than the first; or the folder cannot be written to.
    """
    notes = packing.out / UNDER_WAY
    keys = [(split, key) for split in SPLITS for key in packing.source.keys(split, packing.modalities)]
    _check(packing, [key for _, key in keys])
    plan = _plan(packing, keys)
    if (packing.out / INDEX).is_file():
        _check_same(packing.out, "a packed store", Index.read(packing.out).plan, plan)
        shutil.rmtree(notes, ignore_errors=True)  # all that may be left to do
        return Index.read(packing.out)
    per_file = _per_file(packing, keys[0][1])  # if the first tile cannot be read, nothing is begun
    _begin(packing.out, plan)
    parts: list[_Part] = []
    shapes: dict[str, list[int]] = {}
    for number, first in enumerate(range(0, len(keys), per_file)):
        note = notes / f"{number:05d}.json"
        these = [key for _, key in keys[first : first + per_file]]
        if not note.is_file():
            tiles = _told(in_order(partial(_tile, packing), these, packing.workers), first, len(keys), told)
            write_text(note, _write_part(packing, number, tiles, shapes))
        parts.append(_Part(**json.loads(note.read_text(encoding="utf-8"))))
        shapes |= parts[-1].shapes
        told(first + len(these), len(keys))
    index = _finish(packing, keys, parts, plan)
    shutil.rmtree(notes)
    return index


@dataclass(frozen=True)
class _Part:
    """What a note says of the tiles of one file each per sensor; lists have an entry per tile.

    Attributes:
        shapes: per sensor, and for masks, that of a tile, of this part and those before.
        facts: per sensor those of its pixels, as `Facts`.
        holes: per sensor whether pixels of a tile are invalid; None where the tile does not have the sensor.
        labels: class, multi-hot labels, or whether there is a mask; None where there is no label.
        crs: the coordinate systems that occur.
        places: number of the coordinate system, and transform; None where the data set does not say.
    """

    shapes: dict[str, list[int]]
    facts: dict[str, Facts]
    holes: dict[str, list[bool | None]]
    labels: list[Any]
    crs: list[str]
    places: list[tuple[int, list[float]] | None]


def _tile(packing: Packing, key: str) -> tuple[Tile, GeoReference | None]:
    """A tile as it is packed, with its place."""
    source, modalities = packing.source, packing.modalities
    tile, place = source.read(key, modalities), source.georeference(key)
    extent = None if packing.size is None else packing.size * _finest(packing)
    if place is not None and tile.images:
        place = place_of(tile, place, modalities, extent)
    return tile if extent is None else crop(tile, modalities, extent, None), place


def _finest(packing: Packing) -> float:
    """The ground sampling distance of the finest modality, in metres."""
    return min(modality.gsd for modality in packing.modalities)


def _check(packing: Packing, keys: Sequence[str]) -> None:
    owner = type(packing.source).__name__
    if not keys:
        raise MapexError(f"{owner} holds no tile of {', '.join(m.name for m in packing.modalities)}: nothing to pack.")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise MapexError(f"{owner} has the tile {twice} twice. Give every tile an id of its own.")
    for modality in packing.modalities:
        if modality.name == MASK:
            raise MapexError(f"A packed store keeps masks under the name {MASK}; rename the modality {MASK}.")
    if packing.size is not None and packing.size < 1:
        raise MapexError(f"--size is a number of pixels, 1 or more; found {packing.size}.")


def _plan(packing: Packing, keys: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A digest of each thing that must be the same when packing goes on, or when a store is to be left alone."""
    source, root = packing.source, packing.source.root
    facts: dict[str, Any] = {
        "data set": type(source).__name__,
        "root": str(root.absolute() if root.parts and root.exists() else root),
        "task": source.task,
        "classes": list(source.classes),
        "modalities": [modality.describe() for modality in packing.modalities],
        "list of tiles and splits": [list(pair) for pair in keys],
        "files, labels or settings of the data set": source.fingerprint(packing.modalities),
        "--size": packing.size,
        "--file-size": packing.largest,
    }
    return {name: digest_of([fact]) for name, fact in facts.items()}


def _per_file(packing: Packing, key: str) -> int:
    """How many tiles as large as this one a file holds."""
    tile, _ = _tile(packing, key)
    name, image = next(iter(tile.images.items()))
    gsd = next(modality.gsd for modality in packing.modalities if modality.name == name)
    ground = image.shape[-2] * image.shape[-1] * gsd**2
    most = max(4 * len(modality.bands) * ground / modality.gsd**2 for modality in packing.modalities)
    return max(1, int(packing.largest // most))


def _check_same(out: Path, what: str, noted: Mapping[str, str], plan: Mapping[str, str]) -> None:
    """What was packed earlier must be what would be packed now: nobody would notice old labels.

    Raises:
        MapexError: something is different.
    """
    other = [name for name, digest in plan.items() if noted.get(name) != digest]
    if other and not any(name in noted for name in plan):
        other = ["version of mapex-lightning"]
    if other:
        raise MapexError(
            f"{out} holds {what} that is not what would be packed now. Changed since: {'; '.join(other)}. Remove the "
            "folder to pack anew, or give another with --out."
        )


def _begin(out: Path, plan: dict[str, str]) -> None:
    """Notes the plan, or checks that it is the one that was begun.

    Raises:
        MapexError: the folder holds something else.
    """
    noted = out / UNDER_WAY / "plan.json"
    if noted.is_file():
        _check_same(out, "the beginning of a packed store", json.loads(noted.read_text(encoding="utf-8")), plan)
        sweep(out)
        return
    if out.exists() and (not out.is_dir() or any(path.name != UNDER_WAY for path in out.iterdir())):
        raise MapexError(f"{out} holds something else. Remove it, or give another folder with --out.")
    write_text(noted, json.dumps(plan, indent=1) + "\n")


def _told(
    tiles: Iterator[tuple[Tile, GeoReference | None]], first: int, of: int, told: Told
) -> Iterator[tuple[Tile, GeoReference | None]]:
    for number, tile in enumerate(tiles):
        told(first + number, of)
        yield tile


class _Kept(NamedTuple):
    """The pixels of one tile, as small as they can be."""

    pixels: np.ndarray
    facts: Facts


def _write_part(
    packing: Packing, number: int, tiles: Iterator[tuple[Tile, GeoReference | None]], before: dict[str, list[int]]
) -> str:
    """Writes one file per sensor and returns the note on them."""
    names = [modality.name for modality in packing.modalities]
    kept: dict[str, list[_Kept]] = {name: [] for name in names}
    holes: dict[str, list[bool | None]] = {name: [] for name in names}
    shapes = dict(before)
    masks: list[np.ndarray] = []
    labels: list[Any] = []
    crs: dict[str, int] = {}
    places: list[Any] = []
    for tile, place in tiles:
        for name in names:
            image = tile.images.get(name)
            if image is not None:
                _check_shape(shapes, tile.name, name, image)
                facts = Facts.of(image)
                kept[name].append(_Kept(encoded(image, facts.dtype, nodata(facts.dtype, facts.holes)), facts))
            holes[name].append(None if image is None else kept[name][-1].facts.holes)
        label = tile.target
        if isinstance(label, np.ndarray) and label.ndim == 2:
            _check_shape(shapes, tile.name, MASK, label)
            masks.append(_narrow(label))
        labels.append(_plain(label, packing.source.task))
        places.append(None if place is None else [crs.setdefault(place.crs, len(crs)), list(place.transform)])
    _check_ground(packing.modalities, shapes)
    for name, tiles_of in kept.items():
        if tiles_of:
            _save(packing.out / _file(name, number), _joined(tiles_of))
    if masks:
        _save(packing.out / _file(MASK, number), np.stack(masks))
    facts_of = {name: _facts(one.facts for one in found) for name, found in kept.items() if found}
    note = _Part(shapes, facts_of, holes, labels, list(crs), places)
    return json.dumps(vars(note), ensure_ascii=False)


def _check_shape(shapes: dict[str, list[int]], tile: str, name: str, pixels: np.ndarray) -> None:
    first = shapes.setdefault(name, list(pixels.shape))
    if list(pixels.shape) != first:
        what = "mask" if name == MASK else f"image of {name}"
        raise MapexError(
            f"Tile {tile} has a {what} of {pixels.shape[-2]} x {pixels.shape[-1]} pixels and others have {first[-2]} x "
            f"{first[-1]}. A store holds tiles of one size: cut the centre out of each with --size PIXELS."
        )


def _check_ground(modalities: Sequence[Modality], shapes: dict[str, list[int]]) -> None:
    """Sensors of a tile cover the same ground: the first crop would find out, long after packing."""
    grounds = {
        modality.name: tuple(round(modality.gsd * pixels, 3) for pixels in shapes[modality.name][-2:])
        for modality in modalities
        if modality.name in shapes
    }
    if len(set(grounds.values())) > 1:
        found = ", ".join(f"{name} {rows:g} x {columns:g} m" for name, (rows, columns) in grounds.items())
        raise MapexError(f"The sensors of a tile must cover the same ground; found {found}. Pack them apart.")


def _plain(label: Any, task: str) -> Any:
    """A label for a note."""
    if label is None or isinstance(label, int | np.integer):
        return None if label is None else int(label)
    if task == "segmentation":
        return True
    hot = np.asarray(label)
    assert set(np.unique(hot).tolist()) <= {0.0, 1.0}, hot
    return hot.astype(int).tolist()


def _narrow(mask: np.ndarray) -> np.ndarray:
    """Class indexes as int16, which `IGNORED` and any class fit."""
    assert mask.min() >= -(2**15) and mask.max() < 2**15, mask
    return mask.astype(np.int16)


def _facts(found: Any) -> Facts:
    every = list(found)
    joined: Facts = every[0]
    for facts in every[1:]:
        joined = joined.joined(facts)
    return joined


def _joined(tiles: Sequence[_Kept]) -> np.ndarray:
    """The pixels of several tiles in the smallest type for all."""
    facts = _facts(tile.facts for tile in tiles)
    joined = np.empty((len(tiles), *tiles[0].pixels.shape), dtype=facts.dtype)
    code = nodata(facts.dtype, facts.holes)
    for number, (pixels, own) in enumerate(tiles):
        joined[number] = encoded(decoded(pixels, nodata(own.dtype, own.holes)), facts.dtype, code)
    return joined


def _file(name: str, number: int) -> str:
    return f"{name}-{number:05d}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    def write(beside: Path) -> None:
        with beside.open("wb") as file:  # np.save would add .npy to the name of a path
            np.save(file, array, allow_pickle=False)

    write_whole(path, write, array.nbytes)


def _finish(
    packing: Packing, keys: Sequence[tuple[str, str]], parts: Sequence[_Part], plan: Mapping[str, str]
) -> Index:
    """Gives the files of a sensor one type, then writes table, checksums and, at last, the index."""
    out, task = packing.out, packing.source.task
    sensors = {
        modality.name: _files(out, modality, parts)
        for modality in packing.modalities
        if any(modality.name in part.facts for part in parts)
    }
    mask = _mask_files(parts) if task == "segmentation" else None
    crs = sorted({crs for part in parts for crs in part.crs})
    index = Index(
        source=type(packing.source).__name__,
        task=task,
        classes=tuple(packing.source.classes),
        crs=tuple(crs),
        sensors=sensors,
        mask=mask,
        plan=plan,
    )
    # Places are in pixels of the finest modality, which may turn out to be in no tile and so not in the index.
    scale = min(sensor.gsd for sensor in packing.modalities if sensor.name in sensors) / _finest(packing)
    _save(out / TABLE, _table(index, keys, parts, scale))
    files = [TABLE, *(file for stored in [*sensors.values(), *([mask] if mask else [])] for file in stored.tiles)]
    digests = {file: digest(out / file) for file in files}
    write_digests(out, {**digests, INDEX: sha256(index.text().encode()).hexdigest()})
    write_text(out / INDEX, index.text())
    return index


def _files(out: Path, modality: Modality, parts: Sequence[_Part]) -> Files:
    """The files of a sensor, all of the smallest type for all of them.

    The type of a file is in its header, which a rename changes whole: it may be interrupted anywhere.
    """
    name = modality.name
    found = {number: Facts(*part.facts[name]) for number, part in enumerate(parts) if name in part.facts}
    facts = _facts(found.values())
    code = nodata(facts.dtype, facts.holes)
    tiles = {}
    for number, own in found.items():
        path = out / _file(name, number)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        tiles[path.name] = len(array)
        if array.dtype != facts.dtype:
            _save(path, encoded(decoded(array, nodata(array.dtype, own.holes)), facts.dtype, code))
    shape = next(tuple(part.shapes[name]) for part in parts if name in part.facts)
    return Files(facts.dtype.name, shape, code, tiles, modality)


def _mask_files(parts: Sequence[_Part]) -> Files | None:
    counts = {_file(MASK, number): sum(label is not None for label in part.labels) for number, part in enumerate(parts)}
    tiles = {file: count for file, count in counts.items() if count}
    shape = next((tuple(part.shapes[MASK]) for part in parts if MASK in part.shapes), ())
    return Files("int16", shape, None, tiles) if tiles else None


def _table(index: Index, keys: Sequence[tuple[str, str]], parts: Sequence[_Part], scale: float) -> np.ndarray:
    """The rows of all tiles, whose places are noted in pixels `scale` times smaller than those of the finest sensor."""
    names = [key.encode() for _, key in keys]
    kind = table_type(list(index.sensors), index.task, len(index.classes), max(map(len, names)))
    table = np.zeros(len(keys), dtype=kind)
    table["name"] = names
    table["split"] = [SPLITS.index(split) for split, _ in keys]
    places = [(part.crs, place) for part in parts for place in part.places]
    number = {crs: at for at, crs in enumerate(index.crs)}
    table["crs"] = [-1 if place is None else number[crs[place[0]]] for crs, place in places]
    larger = np.array([scale, scale, 1.0, scale, scale, 1.0])
    table["transform"] = [[0.0] * 6 if place is None else larger * place[1] for _, place in places]
    for sensor in index.sensors:
        holes = [one for part in parts for one in part.holes[sensor]]
        table[f"{sensor}.row"] = _rows([one is not None for one in holes])
        table[f"{sensor}.holes"] = [bool(one) for one in holes]
    labels = [label for part in parts for label in part.labels]
    match index.task:
        case "multiclass":
            table["label"] = [-1 if label is None else label for label in labels]
        case "multilabel":
            table["labels"] = [[0] * len(index.classes) if label is None else label for label in labels]
            table["labelled"] = [label is not None for label in labels]
        case "segmentation":
            table[f"{MASK}.row"] = _rows([label is not None for label in labels])
    return table


def _rows(here: Sequence[bool]) -> np.ndarray:
    """The row of each tile that is there; -1 for the others."""
    counts = np.cumsum(here)
    return np.where(here, counts - 1, -1)
