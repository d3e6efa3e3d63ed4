"""A packed store is read by any number of processes, and says what is wrong with its files."""

from __future__ import annotations

import multiprocessing
import pickle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapex_lightning.data.members import Members
from mapex_lightning.data.packed.batches import PackedMembers
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sets.packed import Packed
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from tests.made import OPTICAL, RADAR, SENSORS, Made

KEY = "tile 2, Straße"


@pytest.fixture
def store(tmp_path: Path) -> Packed:
    pack(Packing(Made("segmentation"), SENSORS, tmp_path, largest=4 * 4 * 64 * 4))
    return Packed(tmp_path)


def bands(*names: str, unit: str = OPTICAL.unit) -> Modality:
    return Modality("some", names, 10.0, unit, (0.0,) * len(names), (1.0,) * len(names))


def test_making_one_reads_nothing(tmp_path: Path) -> None:
    Packed(tmp_path / "absent")


@pytest.mark.parametrize("names", [("B03", "B04"), ("B08", "B02"), ("B02", "B03", "B04", "B08"), ("B04",)])
def test_bands_come_by_name(names: tuple[str, ...], store: Packed) -> None:
    whole = Made().read(KEY, [OPTICAL]).images["s2"]
    found = store.read(KEY, [bands(*names)]).images["some"]
    np.testing.assert_array_equal(found, whole[[OPTICAL.bands.index(name) for name in names]])


def test_only_what_is_stored_is_offered(store: Packed) -> None:
    assert store.offers(bands("B03"))
    assert not store.offers(bands("B05"))
    assert not store.offers(bands("B03", unit="reflectance"))
    with pytest.raises(MapexError, match=r"The packed store .* cannot give modality some \(B05 .*s2: B02 B03 B04 B08"):
        store.read(KEY, [bands("B05")])


def test_pixels_of_a_tile_may_be_changed_without_changing_the_store(store: Packed) -> None:
    image = store.read(KEY, [OPTICAL]).images["s2"]
    image += 1
    np.testing.assert_array_equal(store.read(KEY, [OPTICAL]).images["s2"], image - 1)


def test_an_unknown_tile_is_named_with_one_that_there_is(store: Packed) -> None:
    for ask in (store.label, store.georeference, lambda key: store.read(key, [RADAR])):
        with pytest.raises(MapexError, match=r"has no tile 'x'\. Its tiles are named like tile 0, Straße"):
            ask("x")


def test_the_ids_of_a_split_are_a_sequence_like_any(store: Packed) -> None:
    keys, listed = store.keys("train"), Made("segmentation").keys("train")
    assert list(keys) == listed
    assert list(keys[1:-1:2]) == listed[1:-1:2]
    assert (keys[-1], listed[0] in keys, "tile" in keys) == (listed[-1], True, False)
    assert list(pickle.loads(pickle.dumps(keys))) == listed
    with pytest.raises(IndexError):
        keys[len(listed)]


def test_no_string_is_kept_for_a_tile(store: Packed) -> None:
    keys = store.keys("train")
    before = len(pickle.dumps(keys))
    assert [store.label(key) is None for key in keys]
    assert PackedMembers(Members(((store, keys),)), [OPTICAL], 80.0).tile.tolist() == keys.numbers.tolist()
    assert len(pickle.dumps(keys)) == before
    assert not [one for one in vars(store).values() if isinstance(one, dict) and KEY in one]


def test_what_goes_to_another_process_is_the_folder_and_no_pixel(store: Packed) -> None:
    before = len(pickle.dumps(Packed(store.root)))
    store.read(KEY, SENSORS)
    assert len(pickle.dumps(store)) == before


def _read(store: Packed, end: Connection) -> None:
    end.send(store.read(KEY, SENSORS).images["s2"].sum())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_read_what_this_one_reads(way: str, store: Packed) -> None:
    wanted = store.read(KEY, SENSORS).images["s2"].sum()
    context: Any = multiprocessing.get_context(way)
    here, there = context.Pipe()
    processes = [context.Process(target=_read, args=(store, there)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [here.recv() for _ in processes] == [wanted] * 3


def test_reading_leaves_no_file_behind(store: Packed) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.root.iterdir()}
    store.read(KEY, SENSORS)
    assert {path: path.stat().st_mtime_ns for path in store.root.iterdir()} == before


def test_files_are_mapped_read_only(store: Packed) -> None:
    (first, *_) = store._arrays("s2", store.files("s2"))
    with pytest.raises(ValueError, match="read-only"):
        first[:] = 0


@pytest.mark.parametrize("file", ["s2-00000.npy", "mask-00000.npy", "tiles.npy"])
def test_a_file_that_is_cut_short_or_gone_is_named(file: str, store: Packed) -> None:
    path = store.root / file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(MapexError, match=rf"{file} is missing or cut short .*sha256sum -c"):
        Packed(store.root).read(KEY, SENSORS)
    path.unlink()
    with pytest.raises(MapexError, match=rf"{file} is missing or cut short"):
        Packed(store.root).read(KEY, SENSORS)


def test_a_file_of_another_store_is_named(store: Packed) -> None:
    np.save(store.root / "s2-00000.npy", np.zeros((3, 4, 8, 8), dtype=np.uint8))
    with pytest.raises(MapexError, match=r"s2-00000\.npy holds uint8 .* and index\.json says uint16"):
        store.read(KEY, SENSORS)
