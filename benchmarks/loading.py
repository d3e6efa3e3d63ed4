"""How fast are tiles read? Every layout of the same real tiles, against a copy of the same bytes out of memory.

    python -m benchmarks.loading DIR_OF_EUROSAT --threads 1 --clock processor
    python -m benchmarks.loading DIR_OF_EUROSAT --threads 1 --workers 0 1 2
    python -m benchmarks.loading DIR_OF_EUROSAT --threads 1 --clock processor --steps 0

The floor copies batches of 64 tiles (13 bands, 64 x 64, uint16) out of a file that is mapped into memory. Ours go
through `TileData` with its shuffling, crops and symmetries; *packed, finished* adds what happens on the device, here a
CPU: turning, float32, NaN. torchgeo's data set and the bare formats (LMDB, Zarr) go through a plain DataLoader with
shuffling and no more. Files are in the page cache. With processor time the figures are tiles per second and core; that
of workers is counted, their start included.

The second table is a pre-training of preset nano: tiles per second, and the share of its time that it waits for data;
0 steps leave it out. `benchmarks.pairs` reads BigEarthNet and shards, `benchmarks.opening` what comes before the first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.measure import Candidate, Clock, alternate, begin, options, ratio, spread, table
from mapex_lightning.data import raster
from mapex_lightning.data.module import TileData
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sets import EuroSAT, Folder, Packed
from mapex_lightning.data.sets.eurosat import BANDS
from mapex_lightning.data.sets.published import Entry, Published
from mapex_lightning.data.sets.sensors import Sensor
from mapex_lightning.data.tileset import SPLITS, TileSet
from mapex_lightning.modality import Modality
from mapex_lightning.train.callbacks import Throughput
from mapex_lightning.train.pretrain import Pretrain

BATCH, SIDE = 64, 64
MANY, FEW = 8192, 512
"""Tiles that a fast and a slow layout read in one pass."""

L1C = Modality("l1c", BANDS, 10.0, "reflectance x 10000", (1000.0,) * 13, (1000.0,) * 13)

FLOOR, PEER = "memory, the floor", "GeoTIFF, torchgeo"


class Layout(NamedTuple):
    """One way in which tiles lie on disk.

    Attributes:
        tiles: how many a pass reads.
        read: a pass, with so many worker processes.
    """

    tiles: int
    read: Callable[[int], object]


class PerBand(Published):
    """The same tiles, with a file for each band: the way in which BigEarthNet is published."""

    title = "tiles with a file per band"
    task = "multiclass"
    classes = ("any",)
    sensors: ClassVar[Mapping[str, Sensor]] = {"l1c": Sensor(BANDS, L1C.unit, L1C.gsd)}

    def listed(self) -> dict[str, Entry]:
        """A folder per tile."""
        return {
            folder.name: Entry("train", {"l1c": {band: folder / f"{band}.tif" for band in BANDS}}, 0)
            for folder in sorted(self.root.iterdir())
        }

    def wanted(self, sensors: Sequence[str]) -> str:
        """They were written just now."""
        return "Write them again."


class Bare(Dataset[np.ndarray]):
    """Tiles of a format as such, without labels, crops and symmetries.

    Args:
        count: how many there are.
        get: one of them, uint16 (13, 64, 64).
    """

    def __init__(self, count: int, get: Callable[[int], np.ndarray]) -> None:
        self.count, self.get = count, get

    def __len__(self) -> int:
        """Number of tiles."""
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        """One tile."""
        return self.get(index)


def through_tiledata(
    source: TileSet,
    tiles: int,
    workers: int,
    finish: bool = False,
    modalities: Sequence[Modality] = (L1C,),
    side: int = SIDE,
) -> None:
    """A pass of training through the tiles of a set."""
    data = TileData([source], list(modalities), side, BATCH, workers, weights=[1.0], draws=tiles)
    for batch in data.train_dataloader():
        if finish:
            data.on_after_batch_transfer(batch, 0)


def through_loader(dataset: Any, tiles: int, workers: int, collate: Callable[[Any], Any] | None = None) -> None:
    """A shuffled pass through any other data set."""
    sampler = RandomSampler(dataset, replacement=True, num_samples=tiles)
    for _ in DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers, collate_fn=collate):
        pass


def stacked(tiles: Sequence[np.ndarray]) -> torch.Tensor:
    """A batch of them."""
    return torch.from_numpy(np.stack(tiles))


def copied(sensors: Sequence[np.ndarray], tiles: int, workers: int) -> None:
    """The floor: batch after batch, of which the last is held while the next is copied, as in any loop."""
    held: list[np.ndarray] = []
    starts = range(0, len(sensors[0]) - BATCH + 1, BATCH)
    for number in range(tiles // BATCH):
        start = starts[number % len(starts)]
        held = [np.array(pixels[start : start + BATCH]) for pixels in sensors]
    del held


def mapped(store: Packed) -> list[np.ndarray]:
    """The pixels of each sensor of a store, as far as its first file, mapped into memory."""
    files = [next(iter(store.files(name).tiles)) for name in store.index.sensors]
    return [np.asarray(np.load(store.root / file, mmap_mode="r")) for file in files]


def layouts(eurosat: Path, folder: Path) -> dict[str, Layout]:
    """Writes every layout of the tiles below a folder, as far as the libraries for it are there."""
    source = EuroSAT(eurosat)
    keys = [key for split in SPLITS for key in source.keys(split, [L1C])]
    pack(Packing(source, (L1C,), folder / "packed"))
    store = Packed(folder / "packed")
    (pixels,) = mapped(store)
    found = {
        FLOOR: Layout(MANY, partial(copied, [pixels], MANY)),
        "packed": Layout(MANY, partial(through_tiledata, store, MANY)),
        "packed, finished": Layout(MANY, partial(through_tiledata, store, MANY, finish=True)),
        "GeoTIFF, EuroSAT": Layout(FEW, partial(through_tiledata, source, FEW)),
        "GeoTIFF, Folder": Layout(FEW, partial(through_tiledata, manifest(source, keys, folder / "own.csv"), FEW)),
        "GeoTIFF per band": Layout(
            FEW // 8, partial(through_tiledata, per_band(store, keys[: FEW // 8], folder / "bands"), FEW // 8)
        ),
    }
    for name, prepare in {PEER: torchgeo, "LMDB": lmdb, "Zarr": zarr}.items():
        try:
            found[name] = prepare(eurosat, pixels, folder)
        except ImportError as error:
            print(f"{name} is left out: {error}", flush=True)
    return found


def manifest(source: EuroSAT, keys: Sequence[str], path: Path) -> Folder:
    """The published files, listed in a table."""
    lines = [f"{key},train,any,{_file(source, key)}" for key in keys]
    path.write_text("\n".join(["tile,split,label,l1c", *lines]) + "\n", encoding="utf-8")
    return Folder(path, "multiclass", root="/")


def _file(source: EuroSAT, key: str) -> Path:
    (path,) = source.root.absolute().rglob(f"{key}.tif")
    return path


def per_band(store: Packed, keys: Sequence[str], folder: Path) -> PerBand:
    """A folder of 13 files for each tile."""
    for key in keys:
        (folder / key).mkdir(parents=True)
        image = store.read(key, [L1C]).images["l1c"].astype(np.uint16)
        for band, pixels in zip(BANDS, image, strict=True):
            raster.write(folder / key / f"{band}.tif", pixels[None], [band], store.georeference(key))
    return PerBand(folder)


def torchgeo(eurosat: Path, pixels: np.ndarray, folder: Path) -> Layout:
    """Torchgeo's own data set on the published files."""
    kind = import_module("torchgeo.datasets").EuroSAT
    root = folder / "torchgeo"
    target = root / kind.base_dir
    target.parent.mkdir(parents=True)
    (files,) = (path for path in [eurosat, *eurosat.iterdir()] if path.name in ("EuroSAT_MS", "EuroSATallBands"))
    target.symlink_to(files.absolute(), target_is_directory=True)
    names = sorted(path.with_suffix(".jpg").name for path in files.rglob("*.tif"))
    (root / kind.split_filenames["train"]).write_text("\n".join(names) + "\n", encoding="utf-8")
    return Layout(FEW, partial(through_loader, kind(root), FEW))


def lmdb(eurosat: Path, pixels: np.ndarray, folder: Path) -> Layout:
    """A value per tile, its bytes and no more."""
    library: Any = import_module("lmdb")
    path = str(folder / "lmdb")
    with library.open(path, map_size=4 * pixels.nbytes) as target, target.begin(write=True) as writing:
        for number, tile in enumerate(pixels):
            writing.put(b"%08d" % number, tile.tobytes())

    def read(workers: int) -> None:
        opened: list[Any] = []  # by each process for itself: one from before a fork is unsafe

        def get(number: int) -> np.ndarray:
            if not opened:
                opened.append(library.open(path, readonly=True, lock=False, readahead=False))
            with opened[0].begin(buffers=True) as reading:
                return np.frombuffer(reading.get(b"%08d" % number), np.uint16).reshape(pixels.shape[1:]).copy()

        through_loader(Bare(len(pixels), get), MANY, workers, stacked)
        for environment in opened:
            environment.close()

    return Layout(MANY, read)


def zarr(eurosat: Path, pixels: np.ndarray, folder: Path) -> Layout:
    """A chunk per tile, as Zarr compresses it by itself."""
    library: Any = import_module("zarr")
    path = str(folder / "tiles.zarr")
    target = library.create_array(path, shape=pixels.shape, chunks=(1, *pixels.shape[1:]), dtype=pixels.dtype)
    target[:] = pixels
    source = library.open_array(path, mode="r")
    return Layout(FEW, lambda workers: through_loader(Bare(len(pixels), lambda n: source[n]), FEW, workers, stacked))


def measured(
    found: Mapping[str, Layout], workers: Sequence[int], given: argparse.Namespace, clock: Clock, peer: str = PEER
) -> str:
    """Reads all layouts by turns; the table of tiles per second, of their ratios to the floor and to a peer."""
    device = torch.device("cpu")
    rows = {name: [name] for name in found}
    for number in workers:
        candidates = {name: Candidate(partial(layout.read, number)) for name, layout in found.items()}
        times = alternate(candidates, given.rounds, device, clock)
        seconds = {name: [time / found[name].tiles for time in taken.whole] for name, taken in times.items()}
        for name, each in seconds.items():
            rows[name].append(f"{1 / spread(each).median:,.0f}")
            if number == 0:
                rows[name].append(f"{ratio(seconds[FLOOR], each).median:.4f}")
                rows[name].append(f"{ratio(seconds[peer], each).median:.2f}" if peer in seconds else "")
    columns = ["layout"]
    for number in workers:
        columns += ["tiles/s", "/ floor", f"/ {peer}"] if number == 0 else [f"{number} workers"]
    return table(columns, list(rows.values()))


def waited(source: TileSet, steps: int) -> tuple[float, float]:
    """Tiles per second of a pre-training of preset nano, and the share of its time that it waits for data."""
    throughput = Throughput()
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        callbacks=[throughput],
        log_every_n_steps=steps,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = TileData([source], [L1C], SIDE, BATCH, weights=[1.0], draws=steps * BATCH)
    trainer.fit(Pretrain("nano", [L1C]), datamodule=data)
    return throughput.latest, throughput.waiting


def main(words: Sequence[str] | None = None) -> None:
    """Writes the layouts and reads them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("eurosat", type=Path, help="the folder that holds EuroSAT_MS")
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=20, help="of each pre-training; 0 for none")
    options(parser, rounds=9)
    given = parser.parse_args(words)
    clock = begin(given, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        print(measured(layouts(given.eurosat, Path(folder)), given.workers, given, clock), flush=True)
        rows = []
        sources = {"packed": Packed(Path(folder) / "packed"), "GeoTIFF, EuroSAT": EuroSAT(given.eurosat)}
        for name, source in sources.items() if given.steps else ():
            speed, share = waited(source, given.steps)
            rows.append([name, f"{speed:.0f}", f"{100 * share:.1f} %"])
    if rows:
        print(f"\n{table(['pre-training nano from', 'tiles/s', 'waiting'], rows)}", flush=True)


if __name__ == "__main__":
    main()
