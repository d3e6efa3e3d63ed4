"""Data sets that are published as tar shards in the webdataset layout: a folder per sensor, a Zarr zip per sample."""

from __future__ import annotations

import io
import json
import os
import random
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mapex_lightning.data.extras import imported
from mapex_lightning.data.fingerprint import digest_of, settings_of, stamp
from mapex_lightning.data.members import Keys
from mapex_lightning.data.sets import tar
from mapex_lightning.data.sets.sensors import Sensor, holds, sensor_of
from mapex_lightning.data.tileset import DATA, SPLITS, Split, Task, TileSet
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile

ENDING = "zarr.zip"

CODECS = {"blosc", "zstd", "lz4", "zlib", "gzip", "shuffle", "delta", "vlen-utf8"}
"""What may stand between stored and real values. There are codecs that run what a file says, such as pickle."""


@dataclass(frozen=True)
class Shard:
    """One tar of one sensor.

    Args:
        tar: the file.
        table: the file that keeps its table.
    """

    tar: Path
    table: Path

    def rows(self) -> np.ndarray:
        """Its samples; see `tar.table_of`."""
        return tar.table_of(self.tar, self.table, ENDING)

    def row(self, sample: str) -> np.void | None:
        """Where a sample lies, if it is there."""
        rows = self.rows()
        (found,) = np.nonzero(rows["key"] == sample.encode())
        row: np.void | None = rows[found[0]] if len(found) else None
        return row

    def __len__(self) -> int:
        """The number of its samples."""
        return tar.length_of(self.tar, self.table, ENDING)


class Shards(TileSet):
    """A data set in shards: ``SPLIT/FOLDER/NAME.tar``, a folder per sensor, whose shards of one name belong together.

    A sample is a Zarr zip (version 2) of its key, with an array ``bands`` (time, band, row, column). The samples of
    shards of one name are joined by their keys, whatever their order. Any modality whose bands are among those of one
    sensor, in its unit and on its grid, is offered.

    Samples are read one by one at places that tables of the shards hold (see `tar`), so an epoch has an exact order,
    share per process and place to resume from. Training stays in a few shards at a time (`EpochSampler`).

    Attributes:
        title: the name by which its authors call it.
        home: where to get it, a sentence.
        names: the folders below the root in which the splits are looked for too.
        times: the number of times at which a place was seen, each a tile of its own.
        sensors: what is stored per sensor.
        folders: the folders that may hold a sensor; a sample is taken from the first that has it.

    Args:
        root: the folder that holds, itself or one level down, train and val.
        require: sensors that every tile must have. None takes tiles with any sensor that is asked for.
        index: the folder that keeps the tables of the shards; by default each lies beside its shard.

    Raises:
        MapexError: `require` names a sensor that it does not have.
    """

    title: ClassVar[str]
    home: ClassVar[str]
    names: ClassVar[tuple[str, ...]]
    times: ClassVar[int] = 1
    sensors: Mapping[str, Sensor]
    folders: Mapping[str, tuple[str, ...]]
    task: Task = "segmentation"
    classes: tuple[str, ...] = ()

    def __init__(
        self, root: str | Path = DATA, require: Sequence[str] | None = None, index: str | Path | None = None
    ) -> None:
        for sensor in require or ():
            if sensor not in self.sensors:
                raise unknown("sensor", sensor, self.sensors, where=f"of {self.title}")
        self.root, self.require = Path(root), tuple(require or ())
        self.index = None if index is None else Path(index)

    def offers(self, modality: Modality) -> bool:
        """Whether its bands are among those of one sensor, in the same unit."""
        return any(holds(sensor, modality) for sensor in self.sensors.values())

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Keys:
        """The ids of a split, such as ``val.NAME.KEY``, shard by shard; the first time, the tables are made.

        The samples of a shard are those of the first of its sensors, in the order of `sensors`, that is asked for.

        Raises:
            MapexError: there are no shards of these modalities in any split, or one is damaged.
        """
        asked = [
            name
            for name in self.sensors
            if modalities is None or name in {self._sensor(modality) for modality in modalities}
        ]
        if not any(self._first(one, name, asked) for one in SPLITS for name in self._shards[one]):
            lacking = [*asked, *(sensor for sensor in self.require if sensor not in asked)]
            wanted = " or ".join(folder for sensor in lacking for folder in self.folders[sensor])
            raise MapexError(
                f"No {self.title} shards for {' or '.join(lacking)} in {self.root.absolute()}. Wanted train and val, "
                f"there or in {' or '.join(self.names)}, with folders {wanted} of tar files. {self.home}"
            )
        shards = {
            name: shard
            for name in sorted(self._shards[split])
            if (shard := self._first(split, name, asked)) is not None
        }
        folders = [folder for sensor in asked for folder in self.folders[sensor]]
        held = [self._shards[split][name] for name in shards]
        self._make_tables([shards[folder] for shards in held for folder in folders if folder in shards])
        return Keys(
            [len(shard) * self.times for shard in shards.values()],
            partial(self._key, split, tuple(shards), tuple(shards.values())),
        )

    def _key(self, split: Split, names: Sequence[str], shards: Sequence[Shard], number: int, place: int) -> str:
        sample, time = divmod(place, self.times)
        key = shards[number].rows()["key"][sample].decode()
        return f"{split}.{names[number]}.{key}" + (f".{time}" if self.times > 1 else "")

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """One tile: (C, H, W) per modality that it has.

        Raises:
            MapexError: the key or a modality is unknown, or a sample is damaged; the sentence names shard and member.
        """
        shards, sample, time = self._place(key)
        images = {}
        for modality in modalities:
            sensor = self._sensor(modality)
            for folder in self.folders[sensor]:
                row = shards[folder].row(sample) if folder in shards else None
                if row is not None:
                    images[modality.name] = self._pixels(shards[folder], row, sensor, modality.bands, time)
                    break
        return Tile(key, images)

    def label(self, key: str) -> None:
        """None: it is for pre-training."""
        return

    def fingerprint(self, modalities: Sequence[Modality]) -> str:
        """Of the settings, and the size and time of change of every shard of these modalities."""
        folders = {folder for modality in modalities for folder in self.folders[self._sensor(modality)]}
        shards = (
            stamp(shard.tar)
            for names in self._shards.values()
            for held in names.values()
            for folder, shard in held.items()
            if folder in folders
        )
        return digest_of([settings_of(self, without=("root", "index")), *shards])

    @cached_property
    def _shards(self) -> dict[Split, dict[str, dict[str, Shard]]]:
        """Per split, name of shard and folder: the shard."""
        folders = [folder for several in self.folders.values() for folder in several]
        candidates = [*(self.root / name for name in self.names), self.root]
        base = next((at for at in candidates if any((at / s / f).is_dir() for s in SPLITS for f in folders)), self.root)
        found: dict[Split, dict[str, dict[str, Shard]]] = {}
        for split in SPLITS:
            names = found.setdefault(split, {})
            for folder in folders:
                tables = base / split / folder if self.index is None else self.index / split / folder
                for file in sorted((base / split / folder).glob("*.tar")):
                    names.setdefault(file.stem, {})[folder] = Shard(file, tables / f"{file.stem}.index.npy")
        return found

    def _first(self, split: Split, name: str, asked: Sequence[str]) -> Shard | None:
        """The shard of a name that says which samples there are, if the shards of that name are wanted."""
        shards = self._shards[split][name]
        held = [sensor for sensor in self.sensors if any(folder in shards for folder in self.folders[sensor])]
        if any(sensor not in held for sensor in self.require):
            return None
        folders = [folder for sensor in asked for folder in self.folders[sensor] if folder in shards]
        return shards[folders[0]] if folders else None

    def _make_tables(self, shards: Sequence[Shard]) -> None:
        """Makes the tables that are not there. Processes that start together share the work, each in its own order."""
        missing = [shard for shard in shards if not shard.table.exists()]
        if not missing:
            return
        print(f"{self.title}: making tables of {len(missing)} shards, once", file=sys.stderr, flush=True)
        random.Random(os.getpid()).shuffle(missing)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(len, missing))

    def _place(self, key: str) -> tuple[Mapping[str, Shard], str, int]:
        """The shards that may hold a tile by folder, its sample in there and its time."""
        split, _, rest = key.partition(".")
        name, _, sample = rest.partition(".")
        sample, _, time = sample.partition(".") if self.times > 1 else (sample, "", "0")
        shards = next((self._shards[one].get(name) for one in SPLITS if one == split), None)
        if not shards or not time.isdecimal() or int(time) >= self.times:
            form = "SPLIT.SHARD.SAMPLE" + (".TIME" if self.times > 1 else "")
            raise MapexError(f"{self.title} has no tile {key!r} in {self.root.absolute()}; its ids are {form}.")
        return shards, sample, int(time)

    def _sensor(self, modality: Modality) -> str:
        return sensor_of(modality, self.sensors, self.title)

    def _pixels(self, shard: Shard, row: np.void, sensor: str, bands: Sequence[str], time: int) -> np.ndarray:
        """Bands (C, H, W) float32 at one time."""
        stored = self.sensors[sensor].bands
        try:
            return _bands(tar.read(shard.tar, int(row["offset"]), int(row["size"])), bands, stored, time)
        except MapexError as error:
            raise MapexError(f"Sample {row['key'].decode()} of shard {shard.tar} cannot be used: {error}") from error


def _bands(raw: bytes, bands: Sequence[str], stored: Sequence[str], time: int) -> np.ndarray:
    """Bands (C, H, W) float32 of a Zarr zip, at one time; where there is one time only, it holds for all."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        _check_codecs(members)
        pixels = _array(members, "bands")
        names = _names(tuple((name, content) for name, content in members.items() if name.startswith("band/")))
        if pixels.ndim != 4 or pixels.shape[1] != len(stored):
            raise MapexError(f"wanted `bands` of (time, {len(stored)}, row, column), found {pixels.shape}.")
        # Some sensors name their bands in words of their own; those are stored in the published order.
        known = [band.casefold() for band in stored]
        order: Sequence[str] = names if set(names) & set(known) else known
        missing = [band for band in bands if band.casefold() not in order]
        if missing:
            raise MapexError(f"it has no band {missing[0]!r}, only {', '.join(order)}.")
        whole: np.ndarray = pixels[min(time, pixels.shape[0] - 1)]
    except (OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise MapexError(f"{error or type(error).__name__}; fetch the shard again.") from error
    return whole[[order.index(band.casefold()) for band in bands]].astype(np.float32)


def _array(members: Mapping[str, bytes], path: str) -> Any:
    """An array of a Zarr zip, by itself: every further look at its group is a round to Zarr's thread."""
    modules = ("zarr", "zarr.storage", "zarr.core.buffer.cpu")
    zarr, storage, buffer = (imported(name, "shards", "A sample of a shard") for name in modules)
    store = storage.MemoryStore({name: buffer.Buffer.from_bytes(content) for name, content in members.items()})
    return zarr.open_array(store, path=path, mode="r", zarr_format=2)


@lru_cache
def _names(members: tuple[tuple[str, bytes], ...]) -> tuple[str, ...]:
    """The names of bands that these members hold; the samples of a sensor all hold the same."""
    held = dict(members)
    return tuple(str(name).casefold() for name in _array(held, "band")[...]) if "band/.zarray" in held else ()


def _check_codecs(members: Mapping[str, bytes]) -> None:
    for name in ("bands/.zarray", "band/.zarray"):
        described = json.loads(members.get(name, b"{}"))
        codecs = [described.get("compressor"), *(described.get("filters") or ())]
        for codec in filter(None, codecs):
            if codec["id"] not in CODECS:
                raise MapexError(f"it needs codec {codec['id']!r}, and may only need {', '.join(sorted(CODECS))}.")
