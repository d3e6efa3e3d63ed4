"""Cutting: scenes of several sensors into the tiles of a folder, which `Folder` reads.

The folder holds a raster per sensor and tile, ``manifest.csv``, ``data.yaml`` (the block ``data`` of a config, with the
statistics of the training tiles), ``statistics.yaml`` and ``checksums.sha256``. Nothing of it depends on how many
processes cut. The record of each row of tiles in ``.rows`` lets a run that was cut short go on where it stopped.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from mapex_lightning.data import checksums, raster
from mapex_lightning.data.codes import class_indexes
from mapex_lightning.data.examination.values import WITHOUT, offset_within
from mapex_lightning.data.manifest import REQUIRED
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.scenes.scene import Scene
from mapex_lightning.data.scenes.tiling import Spot, Tiling
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.statistics import Statistics, measure, with_statistics
from mapex_lightning.data.tileset import SPLITS, Task
from mapex_lightning.data.workers import in_order
from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_text
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import IGNORED

MANIFEST, CONFIG, STATISTICS, REQUEST = "manifest.csv", "data.yaml", "statistics.yaml", "request.json"
ROWS = ".rows"
MASK = "mask"
"""The folder of the masks of classes, and their name where a sensor's would stand."""

BLOCK = 1024
"""Rows of pixels that one process cuts at a time: blocks of JPEG 2000 files are so high, and each is decoded once."""

STRANGE = 50.0
"""Values that are so many times larger or smaller than a modality's in every band are most likely in another unit."""


UNLIKE = 0.2
"""How far the share of a split may be from what was asked for before one should look."""


class View(NamedTuple):
    """What one sensor saw.

    Attributes:
        modality: what its pixels mean; tiles have its bands, its unit and its ground sampling distance.
        scene: where they are.
        known: whether the modality's statistics are known already, and can tell what is strange.
    """

    modality: Modality
    scene: Scene
    known: bool = True


class Labels(NamedTuple):
    """A raster of classes.

    Attributes:
        scene: where it is; its only band holds codes.
        codes: the index of the class that each code stands for, or `IGNORED`.
        classes: the names of the classes by index.
    """

    scene: Scene
    codes: Mapping[int, int]
    classes: tuple[str, ...]


class Cutter(NamedTuple):
    """What is cut, and whereto.

    Attributes:
        out: the folder.
        tiling: which tiles.
        views: the sensors.
        labels: the classes of pixels, if there are any.
        max_nodata: share of pixels of a tile that may be invalid in some band of a sensor; with more of them the sensor
            is absent there.
    """

    out: Path
    tiling: Tiling
    views: Sequence[View]
    labels: Labels | None
    max_nodata: float

    def cut(self, spot: Spot) -> dict[str, Any]:
        """Cuts one tile and says what became of it, in plain types.

        Raises:
            MapexError: a scene cannot be read, holds a code that is no class, or a tile cannot be written.
        """
        made: dict[str, Any] = {"tile": spot.key, "split": spot.split, "files": {}}
        ground = self.tiling.grid.window(spot.row, spot.column, self.tiling.size, self.tiling.size)
        mask = None
        if self.labels is not None:
            mask = self._classes(self.labels, ground)
            if (mask == IGNORED).all():
                return made
        for view in self.views:
            grid = self.grid(view.modality, ground)
            image = view.scene.read(view.modality.bands, grid)
            invalid = 1 - np.isfinite(image).all(0).mean()
            if invalid <= self.max_nodata and np.isfinite(image).any():
                file = self._file(view.modality.name, spot)
                raster.write(file, image, view.modality.bands, grid.place)
                made["files"][view.modality.name] = file.stat().st_size
        if mask is not None and self.labels is not None and made["files"]:
            raster.write_mask(self._file(MASK, spot), mask, ground.place, self.labels.classes)
            made["files"][MASK] = self._file(MASK, spot).stat().st_size
        return made

    def grid(self, modality: Modality, ground: Grid) -> Grid:
        """The pixels of a modality on some of the ground, whose pixels are those of the finest sensor."""
        finest = min(view.modality.gsd for view in self.views)
        return ground.scaled(modality.gsd / finest)  # pixels of 9.996 m, which pass for 10 m, stay so

    def row(self, number: int, spots: Sequence[Spot]) -> list[dict[str, Any]]:
        """Cuts a row of tiles, or takes them from its record where they are whole."""
        record = self.out / ROWS / f"{number:05d}.json"
        if record.is_file():
            kept: list[dict[str, Any]] = json.loads(record.read_text(encoding="utf-8"))
            if all(self._is_whole(made) for made in kept):
                return kept
        cut = [self.cut(spot) for spot in spots]
        write_text(record, json.dumps(cut))
        return cut

    def _classes(self, labels: Labels, ground: Grid) -> np.ndarray:
        """Class indexes (H, W) of the codes on the ground of a tile."""

        def refusal(code: str) -> MapexError:
            return MapexError(
                f"Mask {labels.scene.files[0]} holds {code}, and classes are given for "
                f"{', '.join(map(str, sorted(labels.codes)))}. Add {code}=NAME to --classes, or {code}= to ignore it."
            )

        return class_indexes(labels.scene.read_classes(ground), {IGNORED: IGNORED, **labels.codes}, refusal)

    def _file(self, sensor: str, spot: Spot) -> Path:
        return self.out / file_of(sensor, spot.key)

    def _is_whole(self, made: Mapping[str, Any]) -> bool:
        """Whether the files of a recorded tile are there, each with the bytes that it had."""
        files = ((self.out / file_of(sensor, made["tile"]), size) for sensor, size in made["files"].items())
        return all(file.is_file() and file.stat().st_size == size for file, size in files)


def file_of(sensor: str, key: str) -> str:
    """Where the raster of a tile lies in the folder."""
    return f"{sensor}/{key}.tif"


class Summary(NamedTuple):
    """What a folder holds after cutting.

    Attributes:
        tiles: their number by split.
        sensors: per sensor, of how many tiles it is part.
        left_out: tiles that no sensor has, or that have no labelled pixel.
        statistics: of the training tiles, by sensor.
        remarks: what the user should look at.
    """

    tiles: dict[str, int]
    sensors: dict[str, int]
    left_out: int
    statistics: dict[str, Statistics]
    remarks: tuple[str, ...]


def cut(
    cutter: Cutter, request: Mapping[str, Any], workers: int = 0, progress: Callable[[int, int], object] | None = None
) -> Summary:
    """Cuts the tiles of a plan and writes all that belongs to them; `CONFIG` comes last.

    Args:
        cutter: what is cut.
        request: all that the tiles depend on, in plain types: a folder belongs to one request.
        workers: processes; 0 cuts in this one.
        progress: called with the number of tiles done and their number in all, after each row.

    Raises:
        MapexError: the folder belongs to another request, a scene cannot be read, or a file cannot be written.
    """
    rows = cutter.tiling.rows()
    _claim(cutter.out, request)
    made: list[dict[str, Any]] = []
    total, done = sum(map(len, rows)), 0
    parts = list(_parts(rows, cutter.tiling.stride, workers))
    for part in in_order(partial(_cut, cutter), parts, workers):
        made.extend(tile for tile in part if tile["files"])
        done += len(part)
        if progress is not None:
            progress(done, total)
    if not made:
        raise MapexError("No tile has a valid pixel: the scenes do not meet, or --max-nodata is too strict.")
    return _finish(cutter, made, total - len(made), workers)


Part = Sequence[tuple[int, Sequence[Spot]]]
"""Some rows of tiles, with their numbers."""


def _parts(rows: Sequence[Sequence[Spot]], stride: int, workers: int) -> Iterator[Part]:
    """Neighbouring rows that a process cuts together; with one process each row for itself."""
    height = max(1, min(BLOCK // stride, len(rows) // (2 * workers))) if workers else 1
    numbered = list(enumerate(rows))
    return (numbered[start : start + height] for start in range(0, len(rows), height))


def _cut(cutter: Cutter, part: Part) -> list[dict[str, Any]]:
    return [tile for number, spots in part for tile in cutter.row(number, spots)]


def _claim(out: Path, request: Mapping[str, Any]) -> None:
    """Makes the folder that of a request, or sees that it is."""
    file, text = out / REQUEST, json.dumps(request, indent=2, sort_keys=True) + "\n"
    if out.exists() and not out.is_dir():
        raise MapexError(f"Tiles go into a folder, and {out} is a file; give another --out.")
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    earlier, now = _earlier(file) if there else {}, json.loads(text)
    if there and not earlier:
        raise MapexError(f"{out} is not empty and holds no tiles of ours. Give another --out.")
    if there <= {REQUEST, ROWS} and not any((out / ROWS).glob("*.json")):  # nothing was cut yet
        write_text(file, text)
        return
    changed = sorted(key for key in {*earlier, *now} if earlier.get(key) != now.get(key))
    if changed:
        raise MapexError(
            f"{out} holds tiles of another request, which differs in {', '.join(changed)} (see {file}). "
            "Give another --out, or remove the folder."
        )


def _earlier(file: Path) -> dict[str, Any]:
    """The request of an earlier call; nothing where the file is missing or another program's."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "mapex" in found else {}


def _finish(cutter: Cutter, made: Sequence[Mapping[str, Any]], left_out: int, workers: int) -> Summary:
    """Writes all but the tiles."""
    out, names = cutter.out, [view.modality.name for view in cutter.views]
    task: Task = "multiclass" if cutter.labels is None else "segmentation"
    classes = None if cutter.labels is None else list(cutter.labels.classes)
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow([*REQUIRED, *names])
    for tile in made:
        its = {sensor: file_of(sensor, tile["tile"]) for sensor in tile["files"]}
        lines.writerow([tile["tile"], tile["split"], its.get(MASK, ""), *(its.get(name, "") for name in names)])
    write_text(out / MANIFEST, table.getvalue())
    folder = Folder(out / MANIFEST, task, classes)
    training = [tile for tile in made if tile["split"] == "train"] or made
    there = [view.modality for view in cutter.views if any(view.modality.name in tile["files"] for tile in training)]
    statistics, unread = measure(folder, [tile["tile"] for tile in training], there, workers)
    if unread:
        raise MapexError(unread[0])
    write_text(out / STATISTICS, yaml.safe_dump({n: _figures(s) for n, s in statistics.items()}, sort_keys=False))
    files = [file_of(sensor, tile["tile"]) for tile in made for sensor in tile["files"]]
    checksums.write(out, [MANIFEST, STATISTICS, *files])
    write_text(out / CONFIG, _config(cutter, there, statistics, task, classes))
    tiles: dict[str, int] = {split: sum(tile["split"] == split for tile in made) for split in SPLITS}
    return Summary(
        tiles,
        {name: sum(name in tile["files"] for tile in made) for name in names},
        left_out,
        statistics,
        (*_unlike(cutter.tiling, tiles), *_remarks(cutter.views, statistics)),
    )


def _figures(statistics: Statistics) -> dict[str, Any]:
    """Figures of each band, for people."""
    columns = {
        "mean": statistics.mean,
        "std": statistics.std,
        "min": statistics.minimum,
        **{f"p{share}": statistics.percentile(share) for share in (1, 50, 99)},
        "max": statistics.maximum,
        "invalid": statistics.invalid,
    }
    return {
        band: {name: float(f"{values[index]:.6g}") for name, values in columns.items()}
        for index, band in enumerate(statistics.bands)
    }


def _config(
    cutter: Cutter,
    modalities: Iterable[Modality],
    statistics: Mapping[str, Statistics],
    task: str,
    classes: Sequence[str] | None,
) -> str:
    """The block ``data`` of a config: tiles, sensors with the statistics of the training tiles, how scenes are read."""
    folder: dict[str, Any] = {"manifest": str(cutter.out / MANIFEST), "task": task}
    if classes is not None:
        folder["classes"] = list(classes)
    blocks = []
    for modality in modalities:
        block = with_statistics(modality, statistics[modality.name]).describe()
        blocks.append(block if modality.speckle else {key: block[key] for key in block if key != "speckle"})
    data: dict[str, Any] = {
        "sets": [{"class_path": "Folder", "init_args": folder}],
        "modalities": blocks,
        "size": cutter.tiling.size,
    }
    reading = {view.modality.name: view.scene.reading.plain() for view in cutter.views}
    if any(reading.values()):
        data["reading"] = {name: plain for name, plain in reading.items() if plain}
    text: str = yaml.safe_dump({"data": data}, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    said = "# Tiles cut by mapex tiles, and the statistics of the training tiles; without any, of all.\n"
    if not cutter.out.is_absolute():
        here = repr(str(Path.cwd()))  # of any name one line
        said += f"# Paths count from the folder in which mapex is called; these tiles were cut in {here}.\n"
    return said + text


def _unlike(tiling: Tiling, tiles: Mapping[str, int]) -> Iterator[str]:
    """Splits of other sizes than were asked for, as where few blocks are drawn."""
    made = np.array([tiles[split] for split in SPLITS])
    if np.abs(made / made.sum() - tiling.shares).max() > UNLIKE:
        counts = ", ".join(f"{count} {split}" for split, count in tiles.items())
        wanted = ", ".join(f"{share:g}" for share in tiling.shares)
        smaller = "a smaller --block, such as 1, or another --seed" if tiling.block > 1 else "another --seed"
        yield (
            f"{counts} tiles are far from the shares {wanted} of --split, since whole blocks of {tiling.block} x "
            f"{tiling.block} tiles are on one side: take {smaller}"
        )


def _remarks(views: Iterable[View], statistics: Mapping[str, Statistics]) -> Iterable[str]:
    """What the user should look at: scales that are not applied, offsets that are left, values in another unit."""
    for modality, scene, known in views:
        yield from scene.remarks
        if modality.name not in statistics:
            already = "; or its values are decibels already: leave --decibels out" if scene.reading.decibels else ""
            yield (
                f"{modality.name} is in no training tile: its scene lies elsewhere, or too much of it is "
                f"invalid{already}"
            )
            continue
        found = statistics[modality.name]
        offset = np.float32(scene.reading.offset)
        if offset and not scene.reading.decibels and (np.array(found.minimum) == offset).all():
            yield (
                f"{modality.name} stores 0, which becomes {offset:g} and counts as a value: if nothing was measured "
                f"there, add --nodata {modality.name}=0"
            )
        measured = [index for index, count in enumerate(found.count) if count]
        if measured and not offset and (sentence := offset_within(modality, found, measured)):
            yield f"{modality.name}: {sentence}: take it off with {WITHOUT.format(name=modality.name)}"
        if not known:
            continue
        size, usual = (np.hypot(its.mean, its.std) for its in (found, modality))
        ratio = size / usual
        if ratio.min() > STRANGE or ratio.max() < 1 / STRANGE:
            yield (
                f"{modality.name} has values like {np.mean(size):.3g}, where {np.mean(usual):.3g} is usual in "
                f"{modality.unit}: is it in that unit? See --scale, --offset and --decibels"
            )
