"""What does a large set cost before its first tile? Made-up sets of the published size, each opened in a fresh process.

    python -m benchmarks.opening --clock processor
    python -m benchmarks.opening --patches 549488 --tiles 9089536

* BigEarthNet: metadata of 549,488 patches in the published columns.
* TerraMesh: 9,089,536 samples in shards of 10,240, of which there are the tables and no pixels.
* Packed: as many tiles, each of one pixel.

*First keys*: from nothing to the ids of the training split, pyarrow's import included; *again*: of another such object
in the same process. *Order*: of a shuffled epoch, up to its first tile, which is not read. *By name*: the first tile
that is looked up by its id. Memory is what the process has by then and had not before: *own*, and at most, pages of
mapped files included, which processes share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import begin, options, spread, table
from mapex_lightning.data.packed.store import INDEX, TABLE, Files, Index, table_type
from mapex_lightning.data.sets.bigearthnet import CLASSES
from mapex_lightning.modality import MODALITIES

SNOW = 69_450
"""Patches of BigEarthNet that the authors keep apart."""

SHARD = 10_240
BLOCK = 65_536

CONSTRUCTIONS = {
    "BigEarthNet": "BigEarthNet(root, snow_and_cloud=True)",
    "TerraMesh": "TerraMesh(root)",
    "Packed": "Packed(root)",
}

PROGRAM = """
import json, sys, time
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets import BigEarthNet, Packed, TerraMesh

def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])

root, clock = sys.argv[2], {"wall": time.perf_counter, "processor": time.process_time}[sys.argv[3]]
made, found = lambda: eval(sys.argv[1]), {}
own, all_of = memory("RssAnon"), memory("VmRSS")

def step(name, do):
    start = clock()
    got = do()
    found[name] = clock() - start
    return got

data = TileData([made()], ["s1"])
source = data.sets[0]
members = step("first keys", lambda: data.members("train"))
step("again", lambda: made().keys("train", data.modalities))
found["own after keys"] = memory("RssAnon") - own
step("order", lambda: next(iter(data.train_dataloader().sampler)))
step("by name", lambda: source.label(members[len(members) // 2][1]))
print(json.dumps(found | {"own": memory("RssAnon") - own, "at most": memory("VmHWM") - all_of}))
"""


def bigearthnet(patches: int, folder: Path) -> Path:
    """Metadata with names as long as the published ones and one to five labels each; both tables."""
    folder.mkdir()
    arrow, rng = import_module("pyarrow"), np.random.default_rng(0)
    snow = patches * SNOW // 549_488
    names = {"metadata": range(snow, patches), "metadata_for_patches_with_snow_cloud_or_shadow": range(snow)}
    for name, numbers in names.items():
        count = len(numbers)
        days = [f"2017{6 + n // 5000 % 6:02d}{1 + n // 5000 % 28:02d}T{101_000 + n // 5000:06d}" for n in numbers]
        places = [f"{n % 5000 // 72:02d}_{n % 5000 % 72:02d}" for n in numbers]
        counts = rng.integers(1, 6, count)
        words = arrow.DictionaryArray.from_arrays(rng.integers(0, len(CLASSES), counts.sum()), list(CLASSES))
        labels = arrow.ListArray.from_arrays(np.cumsum([0, *counts]), words.cast(arrow.string()))
        columns = {
            "patch_id": [
                f"S2A_MSIL2A_{d}_N9999_R{n % 143:03d}_T33UUP_{p}" for n, d, p in zip(numbers, days, places, strict=True)
            ],
            "labels": labels,
            "split": np.array(["train", "validation", "test"])[rng.choice(3, count, p=[0.5, 0.25, 0.25])],
            "country": ["Austria"] * count,
            "s1_name": [f"S1B_IW_GRDH_1SDV_{d}_33UUP_{p}" for d, p in zip(days, places, strict=True)],
            "contains_seasonal_snow": [name != "metadata"] * count,
            "contains_cloud_or_shadow": [False] * count,
        }
        import_module("pyarrow.parquet").write_table(arrow.table(columns), folder / f"{name}.parquet")
    return folder


def terramesh(tiles: int, folder: Path) -> Path:
    """Empty shards, each with a table of full length beside it."""
    held = folder / "TerraMesh" / "train" / "S1RTC"
    held.mkdir(parents=True)
    row = np.dtype([("key", "S32"), ("offset", np.int64), ("size", np.int64)])
    for number, start in enumerate(range(0, tiles, SHARD)):
        shard = held / f"majortom_shard_{number:06d}.tar"
        shard.touch()
        rows = np.zeros(1 + min(SHARD, tiles - start), dtype=row)
        rows[0] = (b"", 0, shard.stat().st_mtime_ns)
        rows["key"][1:] = named(np.arange(start, start + len(rows) - 1))
        np.save(shard.with_suffix(".index.npy"), rows)
    return folder


def packed(tiles: int, folder: Path) -> Path:
    """A store whose tiles are one pixel, in the order in which they were packed, which is not that of their names."""
    folder.mkdir()
    columns = table_type(["s1"], "multiclass", 1, 32)
    rows = np.lib.format.open_memmap(folder / TABLE, "w+", columns, (tiles,))
    for start in range(0, tiles, BLOCK):
        stop = min(tiles, start + BLOCK)
        rows["name"][start:stop] = named(np.arange(start, stop) * 7919 % tiles)
        rows["s1.row"][start:stop] = np.arange(start, stop)
    rows["crs"], rows["label"] = -1, 0
    rows.flush()
    np.lib.format.open_memmap(folder / "s1-00000.npy", "w+", np.uint8, (tiles, 2, 1, 1)).flush()
    files = {"s1": Files("uint8", (2, 1, 1), None, {"s1-00000.npy": tiles}, MODALITIES["s1"])}
    (folder / INDEX).write_text(Index("made up", "multiclass", ("any",), (), files, None, {}).text(), encoding="utf-8")
    return folder


def named(numbers: np.ndarray) -> np.ndarray:
    """Names of samples, as bytes."""
    return np.array([f"majortom_{number:07d}_2020_07_01".encode() for number in numbers.tolist()])


def opened(name: str, root: Path, clock: str) -> dict[str, float]:
    """Opens a set in a fresh process: seconds of each step and bytes of memory."""
    words = [sys.executable, "-c", PROGRAM, CONSTRUCTIONS[name], str(root), clock]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Writes the sets and opens them by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=549_488, help="of BigEarthNet")
    parser.add_argument("--tiles", type=int, default=9_089_536, help="of TerraMesh and of the packed store")
    options(parser, rounds=5)
    given = parser.parse_args(words)
    begin(given, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roots = {
            "BigEarthNet": bigearthnet(given.patches, folder / "bigearthnet"),
            "TerraMesh": terramesh(given.tiles, folder / "terramesh"),
            "Packed": packed(given.tiles, folder / "packed"),
        }
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in roots}
        for _ in range(given.rounds):
            for name, root in roots.items():
                rounds[name].append(opened(name, root, given.clock))
    rows = []
    for name, found in rounds.items():
        each = {what: spread([one[what] for one in found]) for what in found[0]}
        seconds = [each[what] for what in ("first keys", "again", "order", "by name")]
        rows.append([name, *seconds, *(f"{each[m].median / 1e6:.0f} MB" for m in ("own after keys", "own", "at most"))])
    columns = ["set", "first keys, s", "again, s", "order, s", "by name, s", "own after keys", "own, all", "at most"]
    print(f"\n{table(columns, rows)}", flush=True)


if __name__ == "__main__":
    main()
