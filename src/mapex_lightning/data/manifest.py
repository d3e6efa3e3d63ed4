"""Manifests: tables of tiles, read from CSV or Parquet and checked."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mapex_lightning.data.extras import imported
from mapex_lightning.data.tileset import SPLITS, Split
from mapex_lightning.errors import MapexError, unknown

REQUIRED = ("tile", "split", "label")


class Entry(NamedTuple):
    """One row.

    Attributes:
        split: which split the tile belongs to.
        label: as written; empty where there is none.
        files: per sensor the path as written; a sensor that is missing is no key.
    """

    split: Split
    label: str
    files: dict[str, str]


class Manifest(NamedTuple):
    """A checked table.

    Attributes:
        sensors: the sensor columns, in order.
        entries: the rows by tile id, in order.
    """

    sensors: tuple[str, ...]
    entries: dict[str, Entry]


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest with the columns tile, split, label and one per sensor.

    Args:
        path: a ``.csv`` file (UTF-8, comma) or a ``.parquet`` file.

    Raises:
        MapexError: the file or a required column is missing, an id is empty or occurs twice, a split is unknown, or
            tiles of several splits share a file.
    """
    if not path.is_file():
        start = "" if path.is_absolute() else f" in {Path.cwd()}, from where paths in configs count"
        raise MapexError(
            f"There is no manifest {path}{start}. Give a CSV or Parquet file with columns {', '.join(REQUIRED)}."
        )
    columns, rows = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    for column in REQUIRED:
        if column not in columns:
            raise unknown("required column", column, columns, f"Add the column {column} to {path}")
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise MapexError(f"Manifest {path} has several columns {twice[0]}. Give every column a name of its own.")
    sensors = tuple(column for column in columns if column not in REQUIRED)
    entries: dict[str, Entry] = {}
    for line, row in enumerate(rows, start=1):
        _add(entries, dict(zip(columns, row, strict=True)), sensors, f"{path}, row {line}")
    _check_leaks(path, entries)
    return Manifest(sensors, entries)


def _check_leaks(path: Path, entries: dict[str, Entry]) -> None:
    """Pixels that are learned from must not be tested on."""
    first: dict[str, str] = {}
    for tile, entry in entries.items():
        for file in entry.files.values():
            other = first.setdefault(file, tile)
            if entries[other].split != entry.split:
                raise MapexError(
                    f"Manifest {path}: {file} belongs to tile {other} in {entries[other].split} and to tile {tile} in "
                    f"{entry.split}, so figures would be too good. Keep both tiles in one split, or leave one out."
                )


def _add(entries: dict[str, Entry], cells: dict[str, str], sensors: Iterable[str], where: str) -> None:
    """Checks one row and files it under its id."""
    tile = cells["tile"]
    if not tile or tile in entries:
        raise MapexError(f"{where}: tile id {tile!r} is empty or occurs twice. Give every tile an id of its own.")
    split = next((split for split in SPLITS if split == cells["split"]), None)
    if split is None:
        raise unknown("split", cells["split"], SPLITS, f"Correct the column split in {where}")
    entries[tile] = Entry(split, cells["label"], {sensor: cells[sensor] for sensor in sensors if cells[sensor]})


def _csv(path: Path) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    """Column names and rows of text."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise MapexError(f"Manifest {path} is no CSV file in UTF-8 ({error}). Save it as one.") from error
    if not lines:
        raise MapexError(f"Manifest {path} is empty. It needs the columns {', '.join(REQUIRED)} and one per sensor.")
    for line, row in enumerate(lines[1:], start=1):
        if len(row) != len(lines[0]):
            raise MapexError(f"{path}, row {line}: {len(row)} cells under {len(lines[0])} columns. Quote the commas.")
    return lines[0], lines[1:]


def _parquet(path: Path) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    """Column names and rows of text; null is empty."""
    arrow, parquet = (imported(name, "parquet", f"Manifest {path}") for name in ("pyarrow", "pyarrow.parquet"))
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise MapexError(f"Manifest {path} cannot be read as Parquet ({error}). Write it again.") from error
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in table.columns]
    return table.column_names, zip(*columns, strict=True)
