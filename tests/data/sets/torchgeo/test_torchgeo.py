"""Any data set of torchgeo: the mapping of a config, splits, labels, what is refused, and every config that ships."""

from __future__ import annotations

import inspect
import io
import pickle
import random
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import rasterio
import torch
import yaml
from jsonargparse import ArgumentParser
from torchgeo import datasets

from mapex_lightning.cli.words import packaged_configs
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.eurosat import EuroSAT
from mapex_lightning.data.sets.torchgeo import TorchGeo, library
from mapex_lightning.data.sets.torchgeo.channels import Channels
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, Modality, modalities
from tests import torchgeo_files as files

S1, S2 = modalities(["s1", "s2"])
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
OURS: dict[str, str | dict[str, Any]] = {split: split for split in SPLITS}


class Invented(datasets.NonGeoDataset):
    """A data set whose samples a test writes: what torchgeo's own do, in one."""

    samples: list[dict[str, Any]]
    classes = ("dry", "flood")

    def __init__(self, root: str = "data", part: str = "all", size: int | None = None) -> None:
        self.root, self.part, self.size = root, part, size

    def __len__(self) -> int:
        return len(self.samples) if self.size is None else self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.samples[index])


@pytest.fixture(autouse=True)
def invented(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Invented` as if torchgeo had it."""
    monkeypatch.setattr(datasets, "Invented", Invented, raising=False)
    monkeypatch.setattr(datasets, "__all__", (*datasets.__all__, "Invented"))


def place(**keys: Any) -> None:
    """Makes `Invented` a data set of a single sample."""
    Invented.samples = [{key: torch.as_tensor(value) for key, value in keys.items()}]


def a_set(sensors: dict[str, Channels] | None = None, **settings: Any) -> TorchGeo:
    """`Invented` with radar in its key image, if nothing else is said."""
    return TorchGeo("Invented", sensors or {"s1": Channels(("VV", "VH"), "dB", 10.0)}, **settings)


def radar(**settings: Any) -> dict[str, Channels]:
    return {"s1": Channels(("VV", "VH"), "dB", 10.0, **settings)}


def image(*values: float) -> np.ndarray:
    """A pixel per band."""
    return np.array(values, dtype=np.float32)[:, None, None]


@pytest.fixture
def eurosat(tmp_path: Path) -> TorchGeo:
    """EuroSAT100 as published, three tiles of 64 x 64 in each split and one pixel of every other class."""
    files.eurosat(tmp_path / "EuroSAT100")
    sensors = {"s2": Channels(BANDS, "reflectance x 10000", 10.0)}
    source = TorchGeo("EuroSAT100", sensors, OURS, task="multiclass", classes=files.EUROSAT_CLASSES)
    source.root = tmp_path
    return source


# The mapping


def test_bands_come_by_name(eurosat: TorchGeo) -> None:
    swir = Modality("swir", ("B12", "B8A"), 10.0, "reflectance x 10000", (0.0, 0.0), (1.0, 1.0))
    tile = eurosat.read(eurosat.keys("train")[1], [S2, swir])
    np.testing.assert_array_equal(tile.images["s2"][:, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8, 13, 9, 11, 12])
    np.testing.assert_array_equal(tile.images["swir"][:, 0, 0], [12, 13])
    assert tile.images["s2"].dtype == np.float32


def test_sensors_that_share_a_key_follow_one_another() -> None:
    place(image=image(-7, -12, 3, 80))
    height = Modality("height", ("canopy",), 10.0, "metres", (0.0,), (1.0,))
    sensors = radar() | {"lidar": Channels(("ground", "canopy"), "metres", 10.0)}
    images = a_set(sensors).read("0", [height, S1]).images
    np.testing.assert_array_equal(images["s1"], image(-7, -12))
    np.testing.assert_array_equal(images["height"], image(80))


@pytest.mark.parametrize("values", [(1,), (1, 2, 3)])
def test_every_channel_must_be_named(values: tuple[float, ...]) -> None:
    place(image=image(*values))
    with pytest.raises(MapexError, match=r"key image of tile 0 of torchgeo's Invented must hold 2 channels \(VV, VH\)"):
        a_set().read("0", [S1])


def test_values_are_scaled_where_the_mapping_says_so_and_nowhere_else() -> None:
    place(image=image(2, 4))
    np.testing.assert_array_equal(a_set().read("0", [S1]).images["s1"], image(2, 4))
    np.testing.assert_array_equal(a_set(radar(scale=0.5, offset=-3)).read("0", [S1]).images["s1"], image(-2, -1))


def test_linear_power_becomes_decibels_and_none_is_invalid() -> None:
    place(image=np.array([[[0.1, 0.0]], [[100.0, -1.0]]]))
    np.testing.assert_allclose(
        a_set(radar(decibels=True)).read("0", [S1]).images["s1"], [[[-10, np.nan]], [[20, np.nan]]]
    )


def test_nodata_and_what_is_not_finite_is_invalid() -> None:
    place(image=np.array([[[-9999, 1]], [[np.inf, np.nan]]]))
    expected = [[[np.nan, 2]], [[np.nan, np.nan]]]
    np.testing.assert_array_equal(a_set(radar(nodata=-9999, scale=2)).read("0", [S1]).images["s1"], expected)


def test_what_torchgeo_keeps_is_left_as_it_is() -> None:
    place(image=image(0, 1))
    a_set(radar(nodata=0)).read("0", [S1])
    np.testing.assert_array_equal(Invented.samples[0]["image"], image(0, 1))


def test_a_sensor_without_a_valid_pixel_is_absent() -> None:
    place(image=image(0, 0))
    assert a_set(radar(nodata=0)).read("0", [S1]).images == {}


def test_a_key_that_is_missing_is_an_error_unless_the_mapping_allows_it() -> None:
    place(images=image(1, 2))
    with pytest.raises(MapexError, match=r"no key 'image' in tile 0 .* Did you mean 'images'\?"):
        a_set().read("0", [S1])
    assert a_set(radar(optional=True)).read("0", [S1]).images == {}


def test_of_a_time_series_one_date_is_taken() -> None:
    place(image=np.stack([image(1, 2), image(3, 4)]))
    np.testing.assert_array_equal(a_set(radar(date=-1)).read("0", [S1]).images["s1"], image(3, 4))
    with pytest.raises(MapexError, match=r"A time series needs date"):
        a_set().read("0", [S1])
    with pytest.raises(MapexError, match=r"date 2; found shape \(2, 2, 1, 1\)"):
        a_set(radar(date=2)).read("0", [S1])


def test_a_band_without_an_axis_of_bands_is_one_channel() -> None:
    place(dem=np.full((2, 2), 5))
    dem = {"dem": Channels(("elevation",), "metres", 10.0, key="dem")}
    np.testing.assert_array_equal(a_set(dem).read("0", [MODALITIES["dem"]]).images["dem"], np.full((1, 2, 2), 5))


def test_it_offers_bands_in_their_unit_and_at_their_resolution(eurosat: TorchGeo) -> None:
    assert [name for name, one in MODALITIES.items() if eurosat.offers(one)] == [
        "s2", "s2_rgb", "s2_rededge", "s2_nir", "s2_swir"
    ]  # fmt: skip
    with pytest.raises(MapexError, match="TorchGeo EuroSAT100 cannot give modality s1"):
        eurosat.keys("train", [S1])


def test_data_sets_can_be_joined_by_the_number_of_the_sample() -> None:
    Invented.samples = [{"image": torch.tensor(image(n, n))} for n in range(3)]
    dem = Channels(("elevation", "slope"), "metres", 10.0, arguments={"part": "dem"})
    joined = a_set(radar() | {"dem": dem}, splits={"test": {"part": "radar"}})
    assert set(joined.read("test-2", [S1, MODALITIES["dem"]]).images) == {"s1", "dem"}
    assert len(joined._opened) == 2
    shorter = Channels(("elevation", "slope"), "metres", 10.0, arguments={"part": "dem", "size": 2})
    with pytest.raises(MapexError, match=r"must have as many samples; found 2 in Invented .*; 3 in"):
        a_set(radar() | {"dem": shorter}, splits={"test": {"part": "radar"}}).keys("test")


# Splits


def test_torchgeos_splits_are_ours(eurosat: TorchGeo) -> None:
    assert {split: eurosat.keys(split)[-1] for split in SPLITS} == {split: f"{split}-10" for split in SPLITS}


def test_tiles_without_splits_are_shared_out_and_stay_where_they_are() -> None:
    Invented.samples = [{}] * 1000
    keys = {split: a_set().keys(split) for split in SPLITS}
    assert sorted((key for split in SPLITS for key in keys[split]), key=int) == [str(number) for number in range(1000)]
    np.testing.assert_allclose([len(keys[split]) / 1000 for split in SPLITS], [0.6, 0.2, 0.2], atol=0.05)
    Invented.samples = [{}] * 1001
    assert all(set(keys[split]) == set(a_set().keys(split)) - {"1000"} for split in SPLITS)
    assert keys["val"] != a_set(seed=1).keys("val")


def test_splits_with_the_same_arguments_share_their_tiles() -> None:
    Invented.samples = [{}] * 400
    source = a_set(splits={"train": {"part": "a"}, "val": {"part": "a"}, "test": {"part": "b"}})
    assert len(source.keys("test")) == 400
    assert len(source.keys("train")) + len(source.keys("val")) == 400
    assert len(source.keys("train")) == pytest.approx(300, abs=40)
    assert source.keys("train")[0].startswith("train+val-")


def test_a_data_set_with_splits_of_its_own_must_say_which(tmp_path: Path) -> None:
    sensors = {"s2": Channels(BANDS, "reflectance x 10000", 10.0)}
    with pytest.raises(MapexError, match="EuroSAT100 has splits of its own: give splits"):
        TorchGeo("EuroSAT100", sensors, root=tmp_path).keys("train")


def test_a_split_that_is_not_given_is_empty() -> None:
    Invented.samples = [{}]
    assert a_set(splits={"train": {"part": "a"}}).keys("val") == []


# Labels


@pytest.mark.parametrize("stored", [1, [1], np.float32(1)])
def test_a_class_is_a_whole_number(stored: Any) -> None:
    place(image=image(1, 2), label=stored)
    source = a_set(task="multiclass")
    assert source.label("0") == source.read("0", [S1]).target == 1
    assert type(source.label("0")) is int


def test_classes_are_those_that_torchgeo_lists_unless_they_are_given(eurosat: TorchGeo) -> None:
    assert a_set(task="multiclass").classes == ("dry", "flood")
    assert a_set(task="multiclass", classes=["no", "yes"]).classes == ("no", "yes")
    assert a_set().classes == ()
    with pytest.raises(MapexError, match="EuroSAT100 does not name its classes"):
        print(TorchGeo("EuroSAT100", eurosat.sensors, OURS, task="multiclass").classes)


def test_several_labels_are_zeros_and_ones() -> None:
    place(image=image(1, 2), label=[0, 1])
    target = a_set(task="multilabel").label("0")
    assert isinstance(target, np.ndarray)
    assert target.dtype.name == "float32"
    assert target.tolist() == [0, 1]
    for wrong in ([0, 2], [0, 1, 1], 1):
        place(image=image(1, 2), label=wrong)
        with pytest.raises(MapexError, match="must be 0 or 1 for each of 2 classes"):
            a_set(task="multilabel").label("0")


@pytest.mark.parametrize("stored", [[[10, 20], [255, 10]], [[[10, 20], [255, 10]]], [[[10.0, 20.0], [np.nan, 10.0]]]])
def test_masks_become_class_indexes(stored: Any) -> None:
    place(image=image(1, 2), mask=stored)
    source = a_set(task="segmentation", classes=["a", "b"], values=[10, 20], ignore=[255])
    np.testing.assert_array_equal(np.asarray(source.label("0")), [[0, 1], [-1, 0]])
    assert np.asarray(source.label("0")).dtype == np.int64


def test_a_value_that_is_no_class_is_named() -> None:
    place(image=image(1, 2), mask=[[0, 7]], label=2)
    with pytest.raises(
        MapexError, match=r"label mask of tile 0 of torchgeo's Invented holds 7, which .* stored as 0, 1"
    ):
        a_set(task="segmentation").label("0")
    with pytest.raises(MapexError, match=r"holds 2, which stands for no class"):
        a_set(task="multiclass").label("0")


def test_the_key_of_the_label_can_be_named_and_a_wrong_one_is_told() -> None:
    place(image=image(1, 2), genus=0)
    assert a_set(task="multiclass", target="genus").label("0") == 0
    with pytest.raises(MapexError, match=r"no key 'label' in tile 0 .* Known: genus, image"):
        a_set(task="multiclass").label("0")


def test_labels_of_class_folders_cost_no_pixels(eurosat: TorchGeo, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {key: eurosat.read(key, [S2]).target for key in eurosat.keys("val")}
    monkeypatch.setattr(library, "sample", None)
    assert {key: eurosat.label(key) for key in labels} == labels
    assert set(labels.values()) == set(range(10))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"target": "label"}, "need a task"),
        ({"task": "multiclass", "ignore": [0]}, "ignore is for the pixels of masks"),
        ({"task": "multiclass", "values": [1, 2]}, "values needs classes"),
        ({"task": "segmentation", "values": [1], "classes": ["a", "b"]}, "values needs classes, and as many"),
        ({"task": "segmentaton"}, "Did you mean 'segmentation'"),
        ({"splits": {"trian": "train"}}, "Did you mean 'train'"),
        ({"sensors": {}}, "at least one sensor"),
        ({"cell": 8}, "give each sensor its nodata"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(MapexError, match=match):
        TorchGeo("Invented", **{"sensors": radar()} | settings)


def test_a_channel_is_named_once() -> None:
    with pytest.raises(MapexError, match="names each of its channels once"):
        Channels(("B6", "B6"), "8-bit", 30.0)


# The library


def test_constructing_reads_nothing() -> None:
    assert TorchGeo("EuroSAT", radar(), root="nowhere").root == Path("nowhere")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("EuroSat100", r"no data set 'EuroSat100' in torchgeo\.datasets\. Did you mean 'EuroSAT100'\?"),
        ("os.system", "no data set 'os.system'"),
        ("stack_samples", "no data set 'stack_samples'"),
        ("NonGeoDataset", "no data set 'NonGeoDataset'"),
        ("IntersectionDataset", "no data set 'IntersectionDataset'"),
        ("SKIPPD", "SKIPPD of torchgeo is not opened: it unpickles"),
    ],
)
def test_only_data_sets_are_looked_up_and_only_by_name(name: str, match: str) -> None:
    with pytest.raises(MapexError, match=match):
        TorchGeo(name, radar()).keys("train")


def test_all_that_runs_code_from_files_is_refused() -> None:
    sources = {file.stem: file.read_text() for file in Path(datasets.__file__).parent.rglob("*.py")}
    ways = r"allow_pickle=True|\bpickle\b|torch\.load|joblib|\beval\(|\bexec\(|yaml\.load\b"
    assert {name for name, text in sources.items() if re.search(ways, text)} == {
        name.lower() for name in library.UNSAFE
    }


def test_torchgeo_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchgeo.datasets", None)
    with pytest.raises(MapexError, match=r"package torchgeo: run `pip install 'mapex-lightning\[torchgeo\]'`"):
        a_set().keys("train")


def test_files_that_are_absent_are_told_with_a_way_out(tmp_path: Path) -> None:
    source = TorchGeo("EuroSAT100", radar(), OURS)
    source.root = tmp_path
    with pytest.raises(MapexError, match=r"finds no EuroSAT100 in .*EuroSAT100\. Give its .*\{download: true\}"):
        source.keys("train")
    with pytest.raises(MapexError, match=rf"finds no SEN12MS in {tmp_path}\. Give its folder as root, or fetch it"):
        TorchGeo("SEN12MS", radar(), OURS, root=tmp_path).keys("train")


@pytest.mark.parametrize("word", ["downlod", "root", "transforms"])
def test_arguments_are_those_of_the_constructor(word: str, tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=rf"no argument '{word}' of torchgeo's EuroSAT100.*Known: bands, checksum"):
        TorchGeo("EuroSAT100", radar(), OURS, {word: "x"}, root=tmp_path).keys("train")


def test_what_a_constructor_refuses_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"cannot open EuroSAT100 .* 'B99' is an invalid band name\."):
        TorchGeo("EuroSAT100", radar(), OURS, {"bands": ["B99"]}, root=tmp_path).keys("train")


def test_a_switch_is_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"argument download of torchgeo's EuroSAT100 is true or false; found 'tru'"):
        TorchGeo("EuroSAT100", radar(), OURS, {"download": "tru"}, root=tmp_path).keys("train")


def test_what_cannot_be_fetched_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchgeo.datasets.eurosat.download_url", fetch)
    with pytest.raises(MapexError, match=r"cannot fetch EuroSAT100 to .*: <urlopen error Name .*Check the connection"):
        TorchGeo("EuroSAT100", radar(), OURS, {"download": True}, root=tmp_path).keys("train")


def test_what_is_fetched_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, root: str, filename: str | None = None, md5: str | None = None, **_: Any) -> None:
        (Path(root) / Path(url).name).write_bytes(b"not what was asked for")
        raise RuntimeError("File not found or corrupted." if md5 else "not verified")

    monkeypatch.setattr("torchgeo.datasets.eurosat.download_url", fetch)
    tmp_path.joinpath("EuroSAT100").mkdir()
    source = TorchGeo("EuroSAT100", radar(), OURS, {"download": True})
    source.root = tmp_path
    with pytest.raises(MapexError, match="is not what torchgeo's checksum says"):
        source.keys("train")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar; only plain files have content."""
    found, content = tarfile.TarInfo(name), b"evil" if kind == tarfile.REGTYPE else b""
    found.type, found.linkname, found.size = kind, link, len(content)
    return found, content


ESCAPES: dict[str, Callable[[Path], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "above": lambda outside: [member("../escaped.txt")],
    "far above and back": lambda outside: [member(f"a/../../{outside.name}/../escaped.txt")],
    "absolute": lambda outside: [member(str(outside / "escaped.txt"))],
    "a link, and a file through it": lambda outside: [
        member("way", tarfile.SYMTYPE, str(outside)),
        member("way/escaped.txt"),
    ],
    "a link upwards, and a file through it": lambda outside: [
        member("way", tarfile.SYMTYPE, ".."),
        member("way/escaped.txt"),
    ],
    "a hard link to what is outside": lambda outside: [
        member("own.txt", tarfile.LNKTYPE, str(outside / "secret.txt")),
        member("own.txt"),
    ],
    "a device": lambda outside: [member("device", tarfile.CHRTYPE)],
    "a pipe": lambda outside: [member("pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_archive_cannot_write_outside_of_its_folder(escape: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(folder / "ssl4eo_l_oli_sr.tar.gz", "w:gz") as archive:
        for found, content in ESCAPES[escape](tmp_path):
            archive.addfile(found, io.BytesIO(content))
    whole = (folder / "ssl4eo_l_oli_sr.tar.gz").read_bytes()
    for suffix in datasets.SSL4EOL.checksums["oli_sr"]:
        (folder / f"ssl4eo_l_oli_sr.tar.gz{suffix}").write_bytes(whole if suffix == "aa" else b"")
    source = TorchGeo("SSL4EOL", radar(), arguments={"split": "oli_sr"}, root=folder)
    with pytest.raises(MapexError):
        source.keys("train")
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "secret.txt"}
    assert (tmp_path / "secret.txt").read_text() == "secret"
    assert all((path.is_file() or path.is_dir()) and not path.is_symlink() for path in folder.rglob("*"))


def test_a_zip_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    with zipfile.ZipFile(folder / datasets.EuroSAT100.filename, "w") as archive:
        for name in ("../escaped.txt", f"{tmp_path}/escaped.txt", "a/../../escaped.txt"):
            archive.writestr(name, "evil")
    with pytest.raises(MapexError):
        TorchGeo("EuroSAT100", radar(), OURS, root=folder).keys("train")
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_no_data_set_is_fetched_unasked() -> None:
    named = [getattr(datasets, name) for name in datasets.__all__]
    kinds = [kind for kind in named if inspect.isclass(kind) and issubclass(kind, torch.utils.data.Dataset)]
    defaults = [inspect.signature(kind).parameters.get("download") for kind in kinds]
    assert {asked.default for asked in defaults if asked is not None} == {False}


def test_a_python_that_cannot_unpack_safely_is_refused(eurosat: TorchGeo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(MapexError, match=r"from Python 3\.11\.4 on"):
        eurosat.keys("train")


def test_a_damaged_tile_is_named(eurosat: TorchGeo) -> None:
    key = eurosat.keys("train")[-1]
    path = Path(eurosat._open(eurosat._source(None, {"split": "train"})).samples[-1][0])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MapexError, match=f"torchgeo cannot read tile {key} of its EuroSAT100: SeaLake_1.tif"):
        eurosat.read(key, [S2])


@pytest.mark.parametrize("key", ["train-x", "11", "validation-1", "train-99"])
def test_a_tile_that_is_not_there_is_told(eurosat: TorchGeo, key: str) -> None:
    with pytest.raises(MapexError, match=key):
        eurosat.read(key, [S2])


def test_a_worker_process_reads_what_the_main_process_reads(eurosat: TorchGeo) -> None:
    key = eurosat.keys("train")[0]
    there = pickle.loads(pickle.dumps(eurosat))
    np.testing.assert_array_equal(there.read(key, [S2]).images["s2"], eurosat.read(key, [S2]).images["s2"])


def test_what_torchgeo_draws_by_chance_is_the_same_each_time_and_changes_nobodys_luck(tmp_path: Path) -> None:
    files.ssl4eo_l(tmp_path, places=1)
    for number, scene in enumerate(sorted((tmp_path / "ssl4eo_l_oli_sr/0000000").iterdir())):
        files.write(scene / "all_bands.tif", np.full((7, 264, 264), number + 1), "uint8")
    bands = ("coastal", "blue", "green", "red", "nir", "swir1", "swir2")
    sensors = {"landsat": Channels(bands, "reflectance", 30.0)}
    source = TorchGeo("SSL4EOL", sensors, arguments={"split": "oli_sr"}, root=tmp_path)
    seen = set()
    for seed in range(4):
        random.seed(seed)
        np.random.seed(seed)
        seen.add(float(source.read("0", [MODALITIES["landsat"]]).images["landsat"][0, 0, 0]))
        luck = random.random(), np.random.random()
        random.seed(seed)
        np.random.seed(seed)
        assert luck == (random.random(), np.random.random())
    assert len(seen) == 1


def test_real_tiles_are_those_that_our_own_reader_reads(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    ours = EuroSAT(shared_data("eurosat-ms"))
    folder = tmp_path / "ds/images/remote_sensing/otherDatasets/sentinel_2"
    folder.mkdir(parents=True)
    (folder / "tif").symlink_to(shared_data("eurosat-ms") / "EuroSAT_MS")
    keys = sorted(ours.keys("test", [S2]))
    (tmp_path / "eurosat-test.txt").write_text("".join(f"{key}.jpg\n" for key in keys))
    sensors = {"s2": Channels(BANDS, "reflectance x 10000", 10.0)}
    theirs = TorchGeo(
        "EuroSAT", sensors, {"test": "test"}, task="multiclass", classes=files.EUROSAT_CLASSES, root=tmp_path
    )
    assert len(theirs.keys("test")) == len(keys)
    for number in range(0, len(keys), 20):
        tile, same = theirs.read(f"test-{number}", [S2]), ours.read(keys[number], [S2])
        np.testing.assert_array_equal(tile.images["s2"], same.images["s2"])
        assert tile.target == same.target == theirs.label(f"test-{number}")


# Data sets that are places on a map


def orthophotos(root: Path, cell: int = 16, gsd: float = 0.25, **settings: Any) -> TorchGeo:
    sensors = {"aerial": Channels(("R", "G", "B"), "8-bit", gsd, nodata=0)}
    return TorchGeo("LandCoverAIGeo", sensors, task="segmentation", cell=cell, root=root, **settings)


AERIAL = Modality("aerial", ("R", "G", "B"), 0.25, "8-bit", (0.0,) * 3, (1.0,) * 3)


@pytest.mark.filterwarnings(
    "ignore:Use `@` matmul:PendingDeprecationWarning"
)  # rasterio 1.4 multiplies as affine 2 did
def test_a_map_is_cut_into_cells_that_say_where_they_lie(tmp_path: Path) -> None:
    files.landcoverai_geo(tmp_path, side=40)
    source = orthophotos(tmp_path)
    keys = sorted((key for split in SPLITS for key in source.keys(split)), key=int)
    assert len(keys) == 9
    seen = np.zeros((64, 64))  # with a cell's width around the picture
    for key in keys:
        tile, where = source.read(key, [AERIAL]), source.georeference(key)
        assert where is not None
        assert tile.images["aerial"].shape == (3, 16, 16)
        column, row = 16 + round((where.transform[2] - 400000) / 0.25), 16 + round((500000 - where.transform[5]) / 0.25)
        seen[row : row + 16, column : column + 16] += np.isfinite(tile.images["aerial"][0])
        assert rasterio.crs.CRS.from_wkt(where.crs).to_epsg() == 2180
    np.testing.assert_array_equal(seen[16:56, 16:56], 1)
    assert seen.sum() == 40 * 40


def test_a_map_of_other_pixels_than_the_sensors_is_refused(tmp_path: Path) -> None:
    files.landcoverai_geo(tmp_path, gsd=0.5)
    with pytest.raises(MapexError, match=r"pixels of 0\.5 x 0\.5 metre and its sensors are said to have 0\.25 m"):
        orthophotos(tmp_path).keys("train")
    assert orthophotos(tmp_path, gsd=0.5).keys("train")


def test_cells_are_for_maps_and_for_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="LandCoverAIGeo is asked for places on the map: give cell"):
        TorchGeo("LandCoverAIGeo", radar(), root=tmp_path).keys("train")
    with pytest.raises(MapexError, match="EuroSAT100 has samples of its own: leave cell out"):
        TorchGeo("EuroSAT100", radar(nodata=0), OURS, cell=8, root=tmp_path).keys("train")


def test_samples_of_a_set_without_a_map_do_not_say_where_they_lie(eurosat: TorchGeo) -> None:
    assert eurosat.georeference("train-0") is None


# Configs that ship

L2A: list[float] = [*range(1, 13)]
L1C: list[float] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13]
SEEN: dict[str, dict[str, list[float]]] = {
    "eurosat100": {"s2": [1, 2, 3, 4, 5, 6, 7, 8, 13, 9, 11, 12]},
    "dfc2020": {"s1": [-1, -2], "s2": L1C},
    "sen12ms": {"s1": [-1, -2], "s2": L1C},
    "so2sat": {
        "s1": [-10, -20], "s2_rgb": [300, 200, 100], "s2_rededge": [400, 500, 600], "s2_nir": [700, 800],
        "s2_swir": [900, 1000],
    },
    "ssl4eo_s12": {"s1": [-1, -2], "s2": L2A},
    "ssl4eo_l": {"landsat": [band * 0.3 / 256 for band in (2, 3, 4, 5, 6, 7)]},
    "mmearth": {
        "mmearth_s1": [1, 1], "mmearth_s2": [1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 4.5, 5.5, 6.5, 7], "mmearth_dem": [2, 2],
    },
    "landcoverai": {"aerial": [10, 20, 30]},
}  # fmt: skip
"""Per config the values of each band of a tile of `tests.torchgeo_files`."""


def configured(name: str, root: Path) -> TileData:
    """The data of a config that ships, on files that are written for it."""
    folder, put = files.LAYOUTS[name]
    put(root / folder)
    parser = ArgumentParser()
    parser.add_class_arguments(TileData, "data")
    given = yaml.safe_load((packaged_configs() / f"{name}.yaml").read_text())["data"]
    data: TileData = parser.instantiate(parser.parse_object({"data": given | {"root": str(root)}})).data
    return data


@pytest.mark.parametrize("name", SEEN)
def test_a_config_maps_the_bands_of_its_files(name: str, tmp_path: Path) -> None:
    data = configured(name, tmp_path)
    source = data.sets[0]
    key = next(key for split in SPLITS for key in source.keys(split, data.modalities))
    if name == "ssl4eo_s12":
        key = "0"  # torchgeo counts all of its places, whether they are there or not
    tile = source.read(key, data.modalities)
    assert {name: len(bands) for name, bands in SEEN[name].items()} == {
        modality.name: len(modality.bands) for modality in data.modalities
    }
    for modality, values in SEEN[name].items():
        np.testing.assert_allclose(tile.images[modality][:, -1, -1], values, rtol=1e-5, err_msg=modality)


def test_configs_of_torchgeo_are_all_tried() -> None:
    shipped = {file.stem for file in packaged_configs().glob("*.yaml") if "TorchGeo" in file.read_text()}
    assert shipped == set(SEEN) == set(files.LAYOUTS)


def test_labels_of_the_configs_are_right(tmp_path: Path) -> None:
    so2sat = configured("so2sat", tmp_path).sets[0]
    assert [so2sat.label(f"validation-{number}") for number in range(3)] == [16, 5, 0]
    assert so2sat.classes[16] == "Water"
    dfc2020 = configured("dfc2020", tmp_path).sets[0]
    mask = np.asarray(dfc2020.label("test-1"))
    assert [dfc2020.classes[mask[0, 0]], *mask[0, 1:3], dfc2020.classes[mask[1, 1]]] == ["water", -1, -1, "grassland"]
    sen12ms = configured("sen12ms", tmp_path).sets[0]
    mask = np.asarray(sen12ms.label("test-0"))
    assert [sen12ms.classes[mask[0, 0]], *mask[0, 1:3], mask[1, 1]] == ["water", -1, -1, 0]


def test_radar_that_a_place_of_mmearth_lacks_is_absent(tmp_path: Path) -> None:
    data = configured("mmearth", tmp_path)
    assert set(data.sets[0].read("4", data.modalities).images) == {"mmearth_s2", "mmearth_dem"}


def test_an_empty_pixel_of_landsat_is_invalid(tmp_path: Path) -> None:
    data = configured("ssl4eo_l", tmp_path)
    assert np.isnan(data.sets[0].read("1", data.modalities).images["landsat"][:, 0, 0]).all()
