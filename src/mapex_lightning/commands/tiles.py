"""The command ``mapex tiles``: scenes of several sensors, cut into tiles that a config can name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mapex_lightning import __version__
from mapex_lightning.commands.parser import Parser
from mapex_lightning.data.scenes.cutting import CONFIG, MASK, Cutter, Labels, Summary, View, cut
from mapex_lightning.data.scenes.scene import Reading, Scene, how_read
from mapex_lightning.data.scenes.tiling import Tiling, reference
from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import MODALITIES, Modality
from mapex_lightning.plain_yaml import load
from mapex_lightning.tiles import IGNORED

UNKNOWN = {"mean": 0.0, "std": 1.0}
"""What stands for the statistics of a sensor whose tiles are only just being cut; never written anywhere."""


def run(words: Sequence[str]) -> None:
    """Cuts as the words after ``mapex tiles`` say.

    Raises:
        MapexError: a word is wrong, a scene cannot be used, or the output cannot be written.
    """
    known = _parser().parse_args(list(words))
    views, labels = _views(known), _labels(known)
    finest = min(views, key=lambda view: view.modality.gsd)
    _check_sides(known.size, views)
    ground = reference(finest.scene.grid_of(finest.modality.bands), finest.modality.gsd, known.crs)
    tiling = Tiling(
        known.out.resolve().name,
        ground,
        known.size,
        known.stride or known.size,
        known.split,
        known.block,
        known.seed,
        finest.modality.gsd,
    )
    cutter = Cutter(known.out, tiling, views, labels, known.max_nodata)
    for modality, scene, _ in views:
        print(how_read(modality, scene, cutter.grid(modality, tiling.first)), flush=True)
    workers = min(known.workers, os.cpu_count() or 1)  # more would only wait for each other
    summary = cut(cutter, _request(known, views, labels, tiling), workers if workers > 1 else 0, _progress)
    print(_table(summary), flush=True)
    for remark in summary.remarks:
        print(f"look: {remark}", flush=True)
    print(known.out / CONFIG, flush=True)


def _parser() -> Parser:
    parser = Parser("tiles", ckpt=None)
    parser.add_argument("scenes", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=_count, required=True)
    parser.add_argument("--stride", type=_count)
    parser.add_argument("--sensors", type=Path)
    parser.add_argument("--crs")
    for option in ("--bands", "--nodata", "--scale", "--offset"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("--decibels", default="")
    parser.add_argument("--max-nodata", type=_share, default=0.5)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--classes")
    parser.add_argument("--split", type=_shares, default=(0.6, 0.2, 0.2))
    parser.add_argument("--block", type=_count, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=_count, default=1)
    return parser


def _count(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} is not 1 or more")
    return number


def _share(word: str) -> float:
    share = float(word)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{word} is not between 0 and 1")
    return share


def _shares(word: str) -> tuple[float, float, float]:
    shares = [_share(part) for part in word.split(",")]
    if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{word} is not three shares, of train, val and test, that make 1")
    return shares[0], shares[1], shares[2]


def _views(known: argparse.Namespace) -> list[View]:
    """The sensors and their scenes."""
    files = _files(known.scenes)
    described, unmeasured = ({}, []) if known.sensors is None else _described(known.sensors)
    table = {**MODALITIES, **described}
    for name in files:
        if name == MASK:
            raise MapexError("The mask is no sensor: give its file as --mask, and the names of its classes.")
        if name not in table:
            raise unknown("sensor", name, table, "Describe one of your own in a YAML file and give it as --sensors")
    names = [*files, *([MASK] if known.mask else [])]
    bands, nodata = _pairs("--bands", known.bands, files), _numbers("--nodata", known.nodata, names)
    scale, offset = _numbers("--scale", known.scale, files), _numbers("--offset", known.offset, files)
    decibels = [name for name in known.decibels.split(",") if name]
    _check_names("--decibels", decibels, files)
    views = []
    for name, paths in files.items():
        given = tuple(bands[name].split(",")) if name in bands else None
        reading = Reading(given, nodata.get(name), scale.get(name, 1.0), offset.get(name, 0.0), name in decibels)
        scene = Scene(paths, table[name].bands, reading, unit=table[name].unit)
        views.append(View(table[name], scene, table[name] not in unmeasured))
    return views


def _labels(known: argparse.Namespace) -> Labels | None:
    """The raster of classes: codes and names as ``--classes`` says."""
    if known.mask is None:
        if known.classes:
            raise MapexError("--classes names the classes of --mask FILE, which is missing.")
        return None
    if not known.classes:
        raise MapexError(
            "--mask holds codes only: name its classes, --classes water,forest or --classes 10=tree,80=water."
        )
    words = known.classes.split(",")
    coded = all("=" in word for word in words)
    pairs = [word.split("=", 1) if coded else (str(index), word) for index, word in enumerate(words)]
    if not all(code.strip().lstrip("-").isdigit() for code, _ in pairs):
        raise MapexError(f"--classes is NAME,NAME,... for codes from 0, or CODE=NAME,...; found {known.classes}.")
    classes = tuple(dict.fromkeys(name.strip() for _, name in pairs if name.strip()))
    codes = {int(code): classes.index(name.strip()) if name.strip() else IGNORED for code, name in pairs}
    nodata = _numbers("--nodata", [word for word in known.nodata if word.startswith(f"{MASK}=")], [MASK])
    return Labels(Scene([known.mask], ["class"], Reading(nodata=nodata.get(MASK))), codes, classes)


def _described(path: Path) -> tuple[dict[str, Modality], list[Modality]]:
    """The sensors of a YAML file: a list of blocks, or a config with ``data.modalities``; and those without statistics.

    Mean and standard deviation may be left out: they are what the tiles will tell.
    """
    try:
        found = load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise MapexError(f"--sensors {path} cannot be read as YAML ({why}). Give a list of sensor blocks.") from error
    for key in ("data", "modalities"):
        found = found.get(key, found) if isinstance(found, Mapping) else found
    if not isinstance(found, list):
        raise MapexError(f"--sensors {path} holds no list of sensor blocks with name, bands, gsd and unit.")
    blocks = [block for block in found if isinstance(block, Mapping)]
    sensors = [Modality.of({**_standing_in(block), **block}) for block in blocks]
    unmeasured = [sensor for sensor, block in zip(sensors, blocks, strict=True) if not {*UNKNOWN} <= {*block}]
    return {sensor.name: sensor for sensor in sensors}, unmeasured


def _standing_in(block: Mapping[str, Any]) -> dict[str, list[float]]:
    """Numbers in place of statistics that a block leaves out."""
    bands = block.get("bands")
    return {field: [value] * (len(bands) if isinstance(bands, list) else 0) for field, value in UNKNOWN.items()}


def _files(words: Iterable[str]) -> dict[str, list[Path]]:
    """The files of each sensor, from ``s2=FILE`` or ``s1=FILE,FILE``, as often as one likes."""
    files: dict[str, list[Path]] = {}
    for word in words:
        for name, paths in _pairs("SCENES", [word], {}).items():
            files.setdefault(name, []).extend(Path(path) for path in paths.split(",") if path)
    return files


def _pairs(option: str, words: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Words such as ``s2=VALUE``, by sensor; of those in `names`, if there are any."""
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and value) or name in pairs:
            raise MapexError(f"{option} takes SENSOR=VALUE, each sensor once; found {word!r}. See mapex tiles --help.")
        pairs[name] = value
    if names:
        _check_names(option, pairs, names)
    return pairs


def _check_names(option: str, given: Iterable[str], names: Iterable[str]) -> None:
    for name in given:
        if name not in names:
            raise unknown("sensor", name, names, f"Correct {option}", "among the scenes")


def _numbers(option: str, words: Iterable[str], names: Iterable[str]) -> dict[str, float]:
    pairs = _pairs(option, words, names)
    try:
        return {name: float(value) for name, value in pairs.items()}
    except ValueError as error:
        raise MapexError(f"{option} takes SENSOR=NUMBER; found {' '.join(words)}.") from error


def _check_sides(size: int, views: Sequence[View]) -> None:
    """Tiles are whole numbers of pixels of every sensor."""
    finest = min(view.modality.gsd for view in views)
    for view in views:
        side = size * finest / view.modality.gsd
        if abs(side - round(side)) > 1e-6:
            raise MapexError(
                f"A tile of {size} pixels of {finest:g} m is {side:g} pixels of {view.modality.name}, at "
                f"{view.modality.gsd:g} m. Take a --size that makes whole pixels of every sensor."
            )


def _request(known: argparse.Namespace, views: Sequence[View], labels: Labels | None, tiling: Tiling) -> dict[str, Any]:
    """All that the tiles depend on, in plain types."""
    return {
        "mapex": __version__,
        "size": tiling.size,
        "stride": tiling.stride,
        "split": list(tiling.shares),
        "block": tiling.block,
        "seed": tiling.seed,
        "grid": {"crs": tiling.grid.crs, "transform": list(tiling.grid.transform), "shape": list(tiling.grid[2:])},
        "max-nodata": known.max_nodata,
        "mask": None
        if labels is None
        else {**_scene(labels.scene), "codes": {str(k): v for k, v in labels.codes.items()}},
        **{
            view.modality.name: {
                "bands": view.modality.bands,
                "gsd": view.modality.gsd,
                "unit": view.modality.unit,
                **_scene(view.scene),
            }
            for view in views
        },
    }


def _scene(scene: Scene) -> dict[str, Any]:
    """What a scene's pixels depend on; a file that has another size or date is another file."""
    stats = [(path, path.stat()) for path in scene.files if path.exists()]
    return {
        "files": [[str(path.absolute()), stat.st_size, stat.st_mtime_ns] for path, stat in stats],
        "reading": scene.reading.plain(),
    }


def _progress(done: int, total: int) -> None:
    print(f"{done} of {total} tiles", flush=True)


def _table(summary: Summary) -> str:
    tiles = ", ".join(f"{count} {split}" for split, count in summary.tiles.items())
    sensors = ", ".join(f"{name} in {count}" for name, count in summary.sensors.items())
    return f"tiles: {tiles}; {sensors}; {summary.left_out} left out"
