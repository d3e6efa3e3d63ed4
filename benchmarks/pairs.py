"""How fast are pairs of Sentinel-1 and Sentinel-2 read, as they are published? BigEarthNet, and shards as of TerraMesh.

    python -m benchmarks.pairs DIR_OF_BIGEARTHNET --threads 1 --clock processor

DIR_OF_BIGEARTHNET holds the 24 real pairs of the wheel configilm 0.7.1: metadata and an LMDB of rico-hdl. The first
table reads them, 2 + 12 bands of 120 x 120 pixels, out of this LMDB, out of the published folders of GeoTIFFs (written
from the same pixels), as patches of ben-ge, and packed.

The second reads 64 samples of two shards in the layout of TerraMesh, 264 x 264 pixels: mosaics of the real pairs,
written with webdataset's own writer. Ours are read in any order, cropped and turned. webdataset streams them, first to
last: *bytes* as they lie in the tar, or with the pixels that Zarr makes of them.

The floor copies the packed pixels out of memory in batches of 64. All ours go through `TileData`, shuffled. Files are
in the page cache.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from benchmarks.loading import BATCH, FLOOR, Layout, copied, mapped, measured, through_tiledata
from benchmarks.measure import begin, options
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sets import BenGe, BigEarthNet, Packed, TerraMesh
from mapex_lightning.data.sets.benge import CLASSES
from mapex_lightning.data.sets.bigearthnet import rico
from mapex_lightning.data.tileset import SPLITS, Split, TileSet
from mapex_lightning.modality import Modality, modalities
from mapex_lightning.tiles import Target, Tile
from tests.sharding import BANDS, TYPES, write_shard, zarr_zip

PAIR = modalities(["s1", "s2"])
SIDE, WIDE = 120, 264
"""Pixels along a patch of BigEarthNet and along a tile of TerraMesh."""

COPIES = 8
"""How often the packed store holds each pair: 24 of them would stay in the caches of the processor."""

MANY, SOME, FEW = 1024, 256, 64
"""Tiles that a pass reads of packed ones, of an LMDB, and of GeoTIFFs and shards."""

STREAM = "shards, webdataset"
SHARD = "majortom_shard_{:06d}"


class Pairs(TileSet):
    """Real pairs, all of them for training, each several times under names of its own.

    Args:
        source: where they come from.
        copies: how often.
    """

    task = "multilabel"

    def __init__(self, source: BigEarthNet, copies: int) -> None:
        self.source, self.root = source, source.root
        self.named = {f"{key}/{copy}": key for copy in range(copies) for key in every(source)}

    @property
    def classes(self) -> tuple[str, ...]:
        """BigEarthNet's."""
        return self.source.classes

    def offers(self, modality: Modality) -> bool:
        """What BigEarthNet does."""
        return self.source.offers(modality)

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        """All."""
        return list(self.named) if split == "train" else []

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        """The pair, under the copy's name."""
        return replace(self.source.read(self.named[key], modalities), name=key)

    def label(self, key: str) -> Target:
        """That of the pair."""
        return self.source.label(self.named[key])


def every(source: TileSet) -> list[str]:
    """The pairs of all splits."""
    return [key for split in SPLITS for key in source.keys(split)]


def patches(root: Path, folder: Path) -> dict[str, Layout]:
    """The pairs in every layout."""
    source = BigEarthNet(root, snow_and_cloud=True)
    pack(Packing(Pairs(source, COPIES), PAIR, folder / "packed"))
    store = Packed(folder / "packed")
    read = partial(through_tiledata, modalities=PAIR, side=SIDE)
    return {
        FLOOR: Layout(MANY, partial(copied, mapped(store), MANY)),
        "packed": Layout(MANY, partial(read, store, MANY)),
        "packed, finished": Layout(MANY, partial(read, store, MANY, finish=True)),
        "LMDB, BigEarthNet": Layout(SOME, partial(read, source, SOME)),
        "GeoTIFF, BigEarthNet": Layout(FEW, partial(read, unpacked(root, folder / "geotiff"), FEW)),
        "GeoTIFF, BenGe": Layout(FEW, partial(read, benge(root, folder / "ben-ge-8k"), FEW)),
    }


def unpacked(root: Path, folder: Path) -> BigEarthNet:
    """The published folders: BigEarthNet-S2/SCENE/PATCH/PATCH_BAND.tif."""
    folder.mkdir()
    for table in root.glob("*.parquet"):
        (folder / table.name).write_bytes(table.read_bytes())
    for s2, s1 in named(root).items():
        write_bands(root, s1, folder / "BigEarthNet-S1" / s1.rsplit("_", 3)[0] / s1)
        write_bands(root, s2, folder / "BigEarthNet-S2" / s2.rsplit("_", 2)[0] / s2)
    return BigEarthNet(folder, snow_and_cloud=True)


def benge(root: Path, folder: Path) -> BenGe:
    """The folders and tables of ben-ge-8k; the labels are made up."""
    (folder / "splits").mkdir(parents=True)
    pairs = named(root)
    lines(folder / "ben-ge-8k_meta.csv", ["patch_id,patch_id_s1", *(",".join(pair) for pair in pairs.items())])
    fractions = [",".join([key, "1", *["0"] * (len(CLASSES) - 1)]) for key in pairs]
    lines(folder / "ben-ge-8k_esaworldcover.csv", [",".join(["patch_id", *CLASSES]), *fractions])
    for split in SPLITS:
        lines(folder / "splits" / f"ben-ge-8k_{split}.csv", list(pairs) if split == "train" else [])
    for s2, s1 in pairs.items():
        write_bands(root, s1, folder / "sentinel-1" / s1)
        write_bands(root, s2, folder / "sentinel-2" / s2)
    return BenGe(folder)


def named(root: Path) -> dict[str, str]:
    """The name in Sentinel-1 of every patch of Sentinel-2."""
    tables = [import_module("pyarrow.parquet").read_table(path) for path in sorted(root.glob("*.parquet"))]
    rows = [row for table in tables for row in table.select(["patch_id", "s1_name"]).to_pylist()]
    return {row["patch_id"]: row["s1_name"] for row in rows}


def lines(path: Path, words: Sequence[str]) -> None:
    """A file of lines."""
    path.write_text("\n".join(words) + "\n", encoding="utf-8")


def write_bands(root: Path, name: str, folder: Path) -> None:
    """A GeoTIFF per band of a patch, at its own resolution and in its stored type, as GDAL writes it by itself."""
    folder.mkdir(parents=True)
    (database,) = root.rglob("data.mdb")
    for band, stored in rico.bands(database.parent.resolve(), name).items():
        side = len(stored)
        place = rasterio.Affine(1200 / side, 0, 331_200, 0, -1200 / side, 5_331_600)
        profile = {"count": 1, "height": side, "width": side, "dtype": stored.dtype, "transform": place}
        path, nodata = folder / f"{name}_{band}.tif", 0 if stored.dtype.kind == "u" else None
        with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", nodata=nodata, **profile) as target:
            target.write(stored, 1)


def mosaic(source: TileSet, keys: Sequence[str], number: int) -> Mapping[str, np.ndarray]:
    """Nine pairs beside one another, as far as a tile of TerraMesh goes: nothing in it repeats."""
    nine = [source.read(keys[(number + step * 5) % len(keys)], PAIR).images for step in range(9)]
    whole = {name: np.block([[one[name] for one in nine[at : at + 3]] for at in (0, 3, 6)]) for name in nine[0]}
    return {name: np.nan_to_num(image[:, :WIDE, :WIDE]) for name, image in whole.items()}


def write_shards(root: Path, folder: Path) -> dict[str, list[Path]]:
    """Two shards of each sensor, as TerraMesh has them; the tars by folder."""
    source = BigEarthNet(root, snow_and_cloud=True)
    keys = every(source)
    found: dict[str, list[Path]] = {"S1RTC": [], "S2L2A": []}
    for shard in range(2):
        numbers = range(shard * FEW // 2, (shard + 1) * FEW // 2)
        mosaics = {f"{number:07d}": mosaic(source, keys, number) for number in numbers}
        for directory, sensor in (("S1RTC", "s1"), ("S2L2A", "s2")):
            path = folder / "TerraMesh" / "train" / directory / f"{SHARD.format(shard)}.tar"
            stored = {key: images[sensor].astype(TYPES.get(directory, "i2")) for key, images in mosaics.items()}
            write_shard(path, {key: zarr_zip(image[None], BANDS[directory]) for key, image in stored.items()})
            found[directory].append(path)
    return found


def shards(root: Path, folder: Path) -> dict[str, Layout]:
    """The mosaics in shards, out of which they are packed too."""
    tars = write_shards(root, folder)
    source = TerraMesh(folder)
    pack(Packing(source, PAIR, folder / "wide"))
    store = Packed(folder / "wide")
    read = partial(through_tiledata, modalities=PAIR, side=WIDE)
    return {
        FLOOR: Layout(MANY, partial(copied, mapped(store), MANY)),
        "packed": Layout(MANY, partial(read, store, MANY)),
        "shards, TerraMesh": Layout(FEW, partial(read, source, FEW)),
        STREAM: Layout(FEW, partial(streamed, tars, 1, pixels)),
        f"{STREAM}, bytes": Layout(4 * FEW, partial(streamed, tars, 4, len)),
    }


def streamed(tars: Mapping[str, Sequence[Path]], times: int, decode: Callable[[bytes], Any], workers: int) -> None:
    """Both sensors of all samples, first to last and so often, in batches."""
    if workers:
        raise SystemExit("webdataset shares shards among its workers, and there are two: measure with --workers 0.")
    streams = [(decode(sample) for sample in samples([*paths] * times)) for paths in tars.values()]
    pairs = zip(*streams, strict=True)
    while batch := list(islice(pairs, BATCH)):
        if isinstance(batch[0][0], np.ndarray):
            [torch.from_numpy(np.stack(sensor)) for sensor in zip(*batch, strict=True)]


def samples(shards: Sequence[Path]) -> Iterator[bytes]:
    """The Zarr zips of shards by the iterators of which webdataset's pipelines consist; those leave files open."""
    library = import_module("webdataset.tariterators")
    for shard in shards:
        with shard.open("rb") as file:
            members = library.tar_file_expander([{"url": str(shard), "stream": file}])
            for sample in library.group_by_keys(members):
                yield sample["zarr.zip"]


def pixels(raw: bytes) -> np.ndarray:
    """Bands (C, H, W) float32 of a Zarr zip, in as few steps as Zarr allows."""
    zarr, storage, buffer = (import_module(name) for name in ("zarr", "zarr.storage", "zarr.core.buffer.cpu"))
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name: buffer.Buffer.from_bytes(archive.read(name)) for name in archive.namelist()}
    stored = zarr.open_array(storage.MemoryStore(members), path="bands", mode="r", zarr_format=2)
    found: np.ndarray = stored[0].astype(np.float32)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Writes the layouts and reads them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bigearthnet", type=Path, help="the folder of metadata.parquet and the LMDB")
    options(parser, rounds=5)
    given = parser.parse_args(words)
    clock = begin(given, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        for prepare, peer in ((patches, "GeoTIFF, BigEarthNet"), (shards, STREAM)):
            found = prepare(given.bigearthnet, Path(folder))
            print(f"\n{measured(found, [0], given, clock, peer)}", flush=True)


if __name__ == "__main__":
    main()
