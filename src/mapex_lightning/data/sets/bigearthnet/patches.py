"""The metadata of BigEarthNet v2 by column: half a million patches without a Python object for each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mapex_lightning.data.extras import imported
from mapex_lightning.data.tileset import Split
from mapex_lightning.errors import MapexError

_imported = partial(imported, extra="bigearthnet", wanted="BigEarthNet")
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_COLUMNS = ["patch_id", "labels", "split", "s1_name"]
_WORDS = ["split", "labels.list.element", "labels.list.item"]
_FETCH = "Fetch it from doi:10.5281/zenodo.10891137"


class Patches:
    """N patches in the order of their tables.

    Names stay in Arrow's memory and are looked up by bisection, labels are one table of bits.

    Attributes:
        files: the tables that were read.

    Args:
        files: metadata.parquet and any further table of its form.
        classes: the names of the classes by index.

    Raises:
        MapexError: a table is missing, damaged or lacks a column, or a label or split is unknown.
    """

    def __init__(self, files: Sequence[Path], classes: Sequence[str]) -> None:
        columns = [_read(file) for file in files]
        self.files = tuple(files)
        self._names, self._s1_names = (_joined(columns, name) for name in ("patch_id", "s1_name"))
        self._order = _imported("pyarrow.compute").sort_indices(self._names).to_numpy().astype(np.uint32)
        labels = [chunk for one in columns for chunk in one["labels"].chunks]
        self._labels = np.concatenate([_multi_hot(chunk, tuple(classes)) for chunk in labels])
        splits = [chunk for one in columns for chunk in one["split"].chunks]
        self._split = np.concatenate([_positions(chunk, tuple(_SPLITS), "split") for chunk in splits]).astype(np.int8)
        del columns, labels, splits
        _imported("pyarrow").default_memory_pool().release_unused()  # what decoding took, about 80 MB

    def names(self, split: Split) -> list[str]:
        """The Sentinel-2 names of a split."""
        wanted = [*_SPLITS.values()].index(split)
        names: list[str] = self._names.filter(_imported("pyarrow").array(self._split == wanted)).to_pylist()
        return names

    def s1_name(self, name: str) -> str:
        """The Sentinel-1 name of the same patch.

        Raises:
            MapexError: the name is unknown.
        """
        s1_name: str = self._s1_names[self._row(name)].as_py()
        return s1_name

    def label(self, name: str) -> np.ndarray:
        """The multi-hot label: (classes,) float32.

        Raises:
            MapexError: the name is unknown.
        """
        label: np.ndarray = self._labels[self._row(name)].astype(np.float32)
        return label

    def _row(self, name: str) -> int:
        place = bisect_left(self._order, name, key=self._name)
        if place == len(self._order) or self._name(self._order[place]) != name:
            listed = " and ".join(map(str, self.files))
            raise MapexError(f"{listed} has no patch {name!r}. Use the patch ids of its column patch_id.")
        return int(self._order[place])

    def _name(self, row: int) -> str:
        name: str = self._names[int(row)].as_py()
        return name


def _read(file: Path) -> Any:
    """The columns of one file that are used."""
    parquet, arrow = _imported("pyarrow.parquet"), _imported("pyarrow")
    if not file.is_file():
        raise MapexError(f"BigEarthNet's metadata lacks {file}. {_FETCH}.")
    try:
        stored = parquet.read_schema(file).names
        absent = [name for name in _COLUMNS if name not in stored]
        if absent:
            raise MapexError(f"{file} has no column {absent[0]}. Fetch {file.name} of BigEarthNet v2.")
        # The few words of labels and splits as dictionaries, and one thread: a third of the memory and of the time.
        return parquet.read_table(file, columns=_COLUMNS, read_dictionary=_WORDS, use_threads=False)
    except (arrow.ArrowException, OSError) as error:
        raise MapexError(f"{file} cannot be read ({error}). Fetch it again.") from error


def _joined(columns: Sequence[Any], name: str) -> Any:
    """A column of text of all files, as one array whatever way of storing text its writer chose."""
    arrow = _imported("pyarrow")
    return arrow.concat_arrays([chunk.cast(arrow.string()) for one in columns for chunk in one[name].chunks])


def _multi_hot(labels: Any, classes: tuple[str, ...]) -> np.ndarray:
    """N lists of class names as (N, classes) uint8."""
    counts = _imported("pyarrow.compute").list_value_length(labels).to_numpy()
    hot = np.zeros((len(labels), len(classes)), dtype=np.uint8)
    hot[np.repeat(np.arange(len(labels)), counts), _positions(labels.flatten(), classes, "label")] = 1
    return hot


def _positions(words: Any, known: tuple[str, ...], what: str) -> np.ndarray:
    """The position of each word among the known ones."""
    compute, arrow = _imported("pyarrow.compute"), _imported("pyarrow")
    encoded = words.dictionary_encode()
    distinct = encoded.dictionary.cast(arrow.string())
    found = compute.index_in(distinct, value_set=arrow.array(known))
    if found.null_count:
        stranger = distinct.filter(compute.is_null(found))[0].as_py()
        raise MapexError(f"BigEarthNet v2 has no {what} {stranger!r}. Known: {', '.join(known)}.")
    positions: np.ndarray = found.to_numpy()[encoded.indices.to_numpy()]
    return positions
