"""A packed store holds what was packed, and is the same bytes however often packing was interrupted."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapex_lightning.data.checksums import verify
from mapex_lightning.data.packed import packing
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sets.packed import Packed
from mapex_lightning.data.tileset import SPLITS, Task
from mapex_lightning.data.transforms import crop
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile
from tests.made import COLOUR, HEIGHT, OPTICAL, RADAR, SENSORS, Made

TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "segmentation")
SMALL = 4 * 4 * 64 * 4
"""Bytes of a file of four tiles, so that a store has several files."""


def packed(source: Made, out: Path, largest: int = SMALL) -> Packed:
    pack(Packing(source, SENSORS, out, largest=largest))
    return Packed(out)


def same(one: Tile, other: Tile) -> None:
    assert one.name == other.name
    assert set(one.images) == set(other.images)
    for name, image in one.images.items():
        assert other.images[name].dtype == np.float32
        np.testing.assert_array_equal(image, other.images[name])
    assert type(one.target) is type(other.target)
    np.testing.assert_array_equal(np.asarray(one.target, dtype=float), np.asarray(other.target, dtype=float))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_a_store_holds_what_was_packed(task: Task, labelled: bool, tmp_path: Path) -> None:
    source = Made(task, labelled=labelled)
    store = packed(source, tmp_path)
    assert (store.task, store.classes) == (source.task, source.classes)
    for split in SPLITS:
        for wanted in (None, SENSORS, [RADAR], [OPTICAL, HEIGHT]):
            assert list(store.keys(split, wanted)) == source.keys(split, wanted)
        for key in source.keys(split):
            same(source.read(key, SENSORS), store.read(key, SENSORS))
            assert store.georeference(key) == source.georeference(key)


def test_every_sensor_is_stored_in_the_smallest_type_for_all_of_its_files(tmp_path: Path) -> None:
    index = packed(Made(), tmp_path).index
    found = {name: (files.dtype, files.nodata) for name, files in index.sensors.items()}
    assert found == {
        "s1": ("float32", None),
        "s2": ("uint16", None),
        "dem": ("int16", -32768),
        "rgb": ("uint8", None),
    }
    for files in index.sensors.values():
        assert {np.load(tmp_path / file).dtype.name for file in files.tiles} == {files.dtype}


def test_no_file_is_larger_than_asked_for(tmp_path: Path) -> None:
    packed(Made(count=40), tmp_path)
    files = list(tmp_path.glob("*-*.npy"))
    assert len(files) > 20
    assert max(np.load(path).nbytes for path in files) <= SMALL


def test_the_checksums_are_those_of_all_files_in_the_format_of_sha256sum(tmp_path: Path) -> None:
    packed(Made("segmentation"), tmp_path)
    found = contents(tmp_path)
    lines = found.pop("checksums.sha256").decode().splitlines()
    assert lines == [f"{sha256(found[name]).hexdigest()}  {name}" for name in sorted(found)]
    assert verify(tmp_path) == (tuple(sorted(found)), (), ())


def few(out: Path) -> None:
    """Packs few files, among them one that is written anew for the sake of another."""
    pack(Packing(Made("segmentation", count=9), (HEIGHT, COLOUR), out, largest=5 * 3 * 64 * 4))


def kill_at(moment: int, out: Path) -> bool:
    """Packs in a process that is killed when it has written its `moment`-th file, before that gets its name."""

    def child() -> None:
        written = 0

        def fatal(descriptor: Any) -> None:
            nonlocal written
            written += stat.S_ISREG(os.fstat(descriptor).st_mode)  # and no folder
            if written > moment:
                os.kill(os.getpid(), signal.SIGKILL)

        pytest.MonkeyPatch().setattr(os, "fsync", fatal)
        few(out)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_packing_that_is_killed_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it is the process that dies, not the machine
    few(tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    moment = 0
    while kill_at(moment, out := tmp_path / str(moment)):
        assert not (out / "index.json").exists()
        with pytest.raises(MapexError, match="holds no packed tiles"):
            Packed(out).keys("train")
        few(out)
        assert contents(out) == wanted
        moment += 1
    assert moment == 13


def test_packing_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Failing(Made):
        def read(self, key: str, modalities: object) -> Tile:
            read.append(key)
            if len(read) == 7:
                raise MapexError("A file is damaged.")
            return super().read(key, SENSORS)

    with pytest.raises(MapexError, match="damaged"):
        packed(Failing(), tmp_path)
    before = set(read[1:5])  # the first look is at its size, then come the four tiles of the first file
    read[:] = ["none"] * 10
    packed(Failing(), tmp_path)
    assert not before & set(read[11:])


def test_a_store_that_is_whole_is_left_alone(tmp_path: Path) -> None:
    packed(Made(), tmp_path)
    (tmp_path / "rgb-00000.npy").write_bytes(b"")
    packed(Made(), tmp_path)
    assert (tmp_path / "rgb-00000.npy").read_bytes() == b""


@pytest.mark.parametrize("kind", ["other tiles", "a stranger's file"])
def test_a_folder_that_holds_something_else_is_refused(kind: str, tmp_path: Path) -> None:
    if kind == "other tiles":
        packed(Made(count=20), tmp_path)
    else:
        (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    says = "a packed store that is not what would be packed now" if kind == "other tiles" else "something else"
    with pytest.raises(MapexError, match=rf"holds {says}\. .*--out"):
        packed(Made(), tmp_path)
    assert contents(tmp_path) == before


def test_the_beginning_of_another_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_finish", lambda *_: (_ for _ in ()).throw(MapexError("stop")))
    with pytest.raises(MapexError, match="stop"):
        packed(Made(), tmp_path)
    with pytest.raises(MapexError, match=r"the beginning of a packed store that .*Changed since: --file-size\. Remove"):
        packed(Made(), tmp_path, largest=10 * SMALL)
    with pytest.raises(MapexError, match=r"the beginning of a packed store that .*Changed since: task\."):
        packed(Made("segmentation"), tmp_path)


class Other(Made):
    """Has classes of other names."""

    @property
    def classes(self) -> tuple[str, ...]:
        return ("wood", "grass", "lake")


@pytest.mark.parametrize(
    ("source", "size", "changed"),
    [
        (Made("multilabel"), None, "task"),
        (Other(), None, "data set; classes"),
        (Made(labelled=False), None, "files, labels or settings of the data set"),
        (Made(), 4, "--size"),
    ],
    ids=["task", "classes", "labels", "size"],
)
def test_a_store_that_is_no_longer_what_would_be_packed_is_refused_and_left(
    source: Made, size: int | None, changed: str, tmp_path: Path
) -> None:
    packed(Made(), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(MapexError, match=rf"Changed since: {changed}\. Remove the folder to pack anew, or .*--out"):
        pack(Packing(source, SENSORS, tmp_path, size=size, largest=SMALL))
    assert contents(tmp_path) == before


def test_a_store_of_another_root_is_refused(tmp_path: Path) -> None:
    source = Made()
    packed(source, tmp_path / "store")
    source.root = tmp_path
    with pytest.raises(MapexError, match=r"Changed since: root\."):
        packed(source, tmp_path / "store")


def test_a_store_from_before_there_were_digests_is_read_and_not_added_to(tmp_path: Path) -> None:
    packed(Made(), tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "plan": "0123"}))
    assert list(Packed(tmp_path).keys("train")) == Made().keys("train")
    with pytest.raises(MapexError, match=r"Changed since: version of mapex-lightning\."):
        packed(Made(), tmp_path)


class Uneven(Made):
    """One tile is larger than the others."""

    def read(self, key: str, modalities: object) -> Tile:
        large = key.startswith("tile 8,")
        return Made(self.task, side=16).read(key, SENSORS) if large else super().read(key, SENSORS)


@pytest.mark.parametrize("task", TASKS)
def test_tiles_of_different_sizes_are_refused_unless_their_centres_are_cut_out(task: Task, tmp_path: Path) -> None:
    source = Uneven(task)
    with pytest.raises(MapexError, match=r"Tile tile 8, .* 16 x 16 pixels and others have 8 x 8.*--size PIXELS"):
        packed(source, tmp_path / "whole")
    pack(Packing(source, SENSORS, tmp_path / "cut", size=6))
    store = Packed(tmp_path / "cut")
    for key in source.keys("train"):
        same(crop(source.read(key, SENSORS), SENSORS, 60.0, None), store.read(key, SENSORS))


def test_the_place_of_a_centre_is_where_it_was_cut_out(tmp_path: Path) -> None:
    source = Made(side=16)
    pack(Packing(source, (COLOUR,), tmp_path, size=8))
    whole, cut = (one.georeference("tile 2, Straße") for one in (source, Packed(tmp_path)))
    assert whole is not None
    assert cut is not None
    a, _, c, _, e, f = whole.transform
    assert cut.transform == (a, 0.0, c + 4 * a, 0.0, e, f + 4 * e)


class Heights(Made):
    """No tile has any other sensor."""

    def _has(self, number: int, sensor: str) -> bool:
        return sensor == "dem"


@pytest.mark.parametrize("size", [None, 8])
def test_a_place_is_right_where_no_tile_has_the_finest_sensor(size: int | None, tmp_path: Path) -> None:
    source = Heights()
    pack(Packing(source, (RADAR, HEIGHT), tmp_path, size=size))
    whole, found = (one.georeference("tile 2, Straße") for one in (source, Packed(tmp_path)))
    assert whole is not None
    assert found == whole.on(4, 4)


def test_a_store_of_some_sensors_holds_the_tiles_that_have_one(tmp_path: Path) -> None:
    source = Made()
    pack(Packing(source, (RADAR,), tmp_path))
    assert list(Packed(tmp_path).keys("train")) == source.keys("train", [RADAR])
    assert not Packed(tmp_path).offers(OPTICAL)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_that_read_change_no_byte(tmp_path: Path) -> None:
    for workers in (0, 2):
        pack(Packing(Made(), SENSORS, tmp_path / str(workers), workers=workers, largest=SMALL))
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_progress_ends_with_all_tiles(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    pack(Packing(Made(), SENSORS, tmp_path, largest=SMALL), lambda done, of: heard.append((done, of)))
    assert heard[0] == (0, 14)
    assert heard[-1] == (14, 14)
    assert heard == sorted(heard)


def test_sensors_that_cover_different_ground_are_refused(tmp_path: Path) -> None:
    coarse = Modality("dem", HEIGHT.bands, 30.0, HEIGHT.unit, HEIGHT.mean, HEIGHT.std)
    with pytest.raises(MapexError, match=r"must cover the same ground; found .*rgb 80 x 80 m.*|dem 120 x 120 m"):
        pack(Packing(Made(), (coarse, COLOUR), tmp_path))
