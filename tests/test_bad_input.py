"""A hundred damaged inputs: each gets a sentence that says what is wrong and what to do, and writes nothing."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio

from mapex_lightning.commands import tiles
from mapex_lightning.data import checksums, raster
from mapex_lightning.data.module import TileData
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sets import Folder, Packed, TerraMesh, TorchGeo
from mapex_lightning.data.sets.torchgeo.channels import Channels
from mapex_lightning.data.tileset import GeoReference, Task
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import S2_BANDS, modalities
from tests.sharding import write_set

Damage = Callable[[Path], None]
SIDE = 16
TILING = ["--size", "8", "--split", "1,0,0"]


class Case(NamedTuple):
    """One thing that users bring.

    Attributes:
        name: what is wrong, in words.
        damage: does it to a folder of healthy tiles.
        says: what the sentence must name: the file or the row, the band where there is one, the remedy.
        task: of the tiles.
    """

    name: str
    damage: Damage
    says: tuple[str, ...]
    task: Task = "multiclass"


def place(gsd: float = 10.0, east: float = 0.0, epsg: int = 32632) -> GeoReference:
    return GeoReference(rasterio.CRS.from_epsg(epsg).to_wkt(), (gsd, 0.0, 500_000.0 + east, 0.0, -gsd, 5_000_000.0))


def radar(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).normal(-12.0, 3.0, (2, side, side)).astype(np.float32)


def optical(seed: int, side: int = SIDE, bands: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, (bands, side, side)).astype(np.uint16)


def plain(path: Path, image: np.ndarray, bands: tuple[str, ...]) -> None:
    """A GeoTIFF without compression."""
    profile = {"count": len(image), "height": image.shape[1], "width": image.shape[2], "dtype": image.dtype.name}
    transform = rasterio.Affine(*place().transform)
    with rasterio.open(path, "w", driver="GTiff", crs=place().crs, transform=transform, **profile) as target:
        target.write(image)
        target.descriptions = bands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tiles a, b (train), c (val) and d (test): radar, multispectral, a class and a mask."""
    root = tmp_path / "tiles"
    root.mkdir()
    rows = ["tile,split,label,s1,s2"]
    for number, (tile, split) in enumerate((("a", "train"), ("b", "train"), ("c", "val"), ("d", "test"))):
        plain(root / f"{tile}_s1.tif", radar(number), ("VV", "VH"))
        raster.write(root / f"{tile}_s2.tif", optical(number), S2_BANDS, place())
        raster.write_mask(root / f"{tile}_mask.tif", np.full((SIDE, SIDE), number % 2), place())
        rows.append(f"{tile},{split},{'Forest' if number % 2 else 'River'},{tile}_s1.tif,{tile}_s2.tif")
    (root / "tiles.csv").write_text("\n".join(rows) + "\n")
    return root


def masked(root: Path) -> None:
    """Masks in place of classes."""
    text = (root / "tiles.csv").read_text()
    for tile in "abcd":
        text = text.replace(f"Forest,{tile}_s1", f"{tile}_mask.tif,{tile}_s1").replace(
            f"River,{tile}_s1", f"{tile}_mask.tif,{tile}_s1"
        )
    (root / "tiles.csv").write_text(text)


def read_all(root: Path, task: Task = "multiclass") -> None:
    """What a run does: every tile of every split, as batches."""
    classes = {"multiclass": ["Forest", "River"], "multilabel": ["Forest", "River"], "segmentation": ["dry", "wet"]}
    source = Folder(root / "tiles.csv", task, classes[task])
    data = TileData([source], ["s1", "s2"], size=SIDE, batch_size=2, most_bad=0.0)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for _ in loader:
            pass


def everything(folder: Path) -> dict[Path, bytes]:
    """Every file with what is in it; links by where they lead."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path: str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() for path in files}


def cut(name: str, share: float) -> Damage:
    """A transfer that broke off."""

    def damage(root: Path) -> None:
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[: int(len(whole) * share)])

    return damage


def scribbled(name: str, start: float) -> Damage:
    """A tenth of the bytes, from some place on, are others."""

    def damage(root: Path) -> None:
        whole = bytearray((root / name).read_bytes())
        begin, length = int(len(whole) * start), max(16, len(whole) // 10)
        whole[begin : begin + length] = np.random.default_rng(0).bytes(length)[: len(whole[begin : begin + length])]
        (root / name).write_bytes(bytes(whole))

    return damage


def replaced(name: str, text: str) -> Damage:
    return lambda root: void((root / name).write_text(text))


def void(_: object) -> None:
    """Some calls return what nobody needs."""


def edited(old: str, new: str, count: int = 1) -> Damage:
    """Another manifest."""

    def damage(root: Path) -> None:
        text = (root / "tiles.csv").read_text()
        assert old in text, old
        (root / "tiles.csv").write_text(text.replace(old, new, count))

    return damage


def rewritten(name: str, image: np.ndarray, bands: tuple[str, ...], where: GeoReference | None = None) -> Damage:
    """Another raster under the same name."""
    return lambda root: raster.write(root / name, image, bands, where or place())


def as_folder(name: str) -> Damage:
    def damage(root: Path) -> None:
        (root / name).unlink()
        (root / name).mkdir()

    return damage


def linked(name: str, target: str) -> Damage:
    def damage(root: Path) -> None:
        outside = root.parent / "elsewhere.tif"
        outside.write_bytes((root / name).read_bytes())
        (root / name).unlink()
        (root / name).symlink_to(target)

    return damage


def moved_out(root: Path) -> None:
    (root / "a_s1.tif").rename(root.parent / "a_s1.tif")
    edited("a_s1.tif", "../a_s1.tif")(root)


def dangling(root: Path) -> None:
    (root / "a_s1.tif").unlink()
    (root / "a_s1.tif").symlink_to("nowhere.tif")


def mask_of(name: str, values: np.ndarray, where: GeoReference | None = None) -> Damage:
    def damage(root: Path) -> None:
        masked(root)
        raster.write(root / name, values[None].astype(np.int16), ("class",), where or place())

    return damage


def float_mask(root: Path) -> None:
    masked(root)
    raster.write(root / "a_mask.tif", np.full((1, SIDE, SIDE), 0.5, dtype=np.float32), ("class",), place())


def many_masks(root: Path) -> None:
    masked(root)
    raster.write(root / "a_mask.tif", np.zeros((3, SIDE, SIDE), dtype=np.uint8), ("r", "g", "b"), place())


def no_mask(root: Path) -> None:
    masked(root)
    (root / "a_mask.tif").unlink()


def all_nodata(name: str) -> Damage:
    """Declared, so that no pixel of either sensor is valid."""

    def damage(root: Path) -> None:
        raster.write(root / "a_s1.tif", np.full((2, SIDE, SIDE), np.nan, dtype=np.float32), ("VV", "VH"), place())
        raster.write(root / "a_s2.tif", np.zeros((12, SIDE, SIDE), dtype=np.uint16), S2_BANDS, place())
        with rasterio.open(root / "a_s2.tif", "r+") as target:
            target.nodata = 0

    return damage


def nothing_finite(value: float) -> Damage:
    def damage(root: Path) -> None:
        raster.write(root / "a_s1.tif", np.full((2, SIDE, SIDE), value, dtype=np.float32), ("VV", "VH"), place())
        edited("a_s1.tif,a_s2.tif", "a_s1.tif,")(root)

    return damage


CUTS = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)
FILES = [
    *(Case(f"plain GeoTIFF cut at {share:g}", cut("a_s1.tif", share), ("a_s1.tif", "again")) for share in CUTS),
    *(Case(f"compressed GeoTIFF cut at {share:g}", cut("a_s2.tif", share), ("a_s2.tif", "again")) for share in CUTS),
    Case("compressed pixels overwritten", scribbled("a_s2.tif", 0.5), ("a_s2.tif", "B01", "again")),
    Case("header overwritten", scribbled("a_s1.tif", 0.0), ("a_s1.tif", "again")),
    Case("text in place of a raster", replaced("a_s1.tif", "<html>404</html>"), ("a_s1.tif", "again")),
    Case("a pointer of Git LFS", replaced("a_s1.tif", "version https://git-lfs\noid 1\n"), ("a_s1.tif", "again")),
    Case("a folder in place of a raster", as_folder("a_s1.tif"), ("a_s1.tif", "folder", "Give the file")),
    Case("a missing raster", lambda root: (root / "a_s1.tif").unlink(), ("no raster", "a_s1.tif", "unpacked in full")),
    Case("a missing raster of validation", lambda root: (root / "c_s2.tif").unlink(), ("c_s2.tif", "unpacked in full")),
    Case("a dangling link", dangling, ("a_s1.tif", "unpacked in full")),
    Case("a link out of the root", linked("a_s1.tif", "../elsewhere.tif"), ("a_s1.tif", "elsewhere.tif", "outside")),
    Case("a link to a file of the system", linked("a_s1.tif", "/etc/hostname"), ("a_s1.tif", "outside: true")),
    Case("a path that climbs out of the root", moved_out, ("../a_s1.tif", "tiles.csv", "outside: true")),
    Case("a path from the top", edited("a_s1.tif", "/etc/hostname"), ("/etc/hostname", "tiles.csv", "outside: true")),
]

PIXELS = [
    Case(
        "one band too few",
        rewritten("a_s2.tif", optical(0, bands=11), S2_BANDS[:11]),
        ("B12", "a_s2.tif", "ask for a band that it has"),
    ),
    Case(
        "one band too many, none named",
        rewritten("a_s2.tif", optical(0, bands=13), ("",) * 13),
        ("a_s2.tif", "13 bands", "12 are expected", "Set band descriptions"),
    ),
    Case(
        "one band too few, none named",
        rewritten("a_s2.tif", optical(0, bands=11), ("",) * 11),
        ("a_s2.tif", "11 bands", "Set band descriptions"),
    ),
    Case("a band misspelt", rewritten("a_s1.tif", radar(0), ("VV", "VX")), ("VH", "a_s1.tif", "ask for a band")),
    Case("the case of a band", rewritten("a_s1.tif", radar(0), ("vv", "vh")), ("VV", "a_s1.tif", "Known: vh, vv")),
    Case("two bands of one name", rewritten("a_s1.tif", radar(0), ("VV", "VV")), ("VV", "a_s1.tif", "unique")),
    Case(
        "two bands of one name beside all others",
        rewritten("a_s1.tif", np.concatenate([radar(0), radar(1)[:1]]), ("VV", "VH", "VV")),
        ("a_s1.tif", "2 bands named VV", "unique"),
    ),
    Case("one name of two", rewritten("a_s1.tif", radar(0), ("VV", "")), ("VH", "a_s1.tif")),
    Case("the other sensor's file", edited("a_s1.tif,a_s2.tif", "a_s2.tif,a_s1.tif"), ("VV", "a_s2.tif", "B01")),
    Case(
        "complex numbers",
        lambda root: plain(root / "a_s1.tif", radar(0).astype(np.complex64), ("VV", "VH")),
        ("a_s1.tif", "complex", "dB"),
    ),
    Case("fewer pixels than the other sensor", rewritten("a_s1.tif", radar(0, 8), ("VV", "VH")), ("a", "s1", "s2")),
    Case("more pixels than the other sensor", rewritten("a_s2.tif", optical(0, 32), S2_BANDS), ("a", "s1", "s2")),
    Case(
        "not square where the other is",
        rewritten("a_s1.tif", radar(0)[:, :, :12], ("VV", "VH")),
        ("a", "s1", "s2", "same bounds"),
    ),
    Case(
        "another coordinate system",
        rewritten("a_s1.tif", radar(0), ("VV", "VH"), place(epsg=32633)),
        ("Tile a", "s1 and s2", "rio warp"),
    ),
    Case(
        "degrees beside metres",
        rewritten("a_s1.tif", radar(0), ("VV", "VH"), place(epsg=4326)),
        ("Tile a", "s1 and s2", "rio warp"),
    ),
    Case(
        "a kilometre to the east",
        rewritten("a_s1.tif", radar(0), ("VV", "VH"), place(east=1000.0)),
        ("Tile a", "s1 and s2", "same bounds"),
    ),
    Case(
        "a pixel to the east",
        rewritten("a_s1.tif", radar(0), ("VV", "VH"), place(east=10.0)),
        ("Tile a", "half a pixel", "same bounds"),
    ),
    Case(
        "pixels of another size than the other sensor's",
        rewritten("a_s1.tif", radar(0), ("VV", "VH"), place(gsd=20.0)),
        ("Tile a", "s1", "s2"),
    ),
    Case("no valid pixel in any sensor", all_nodata("a"), ("Tile a", "no valid pixel", "leave it out")),
    Case("nothing but NaN", nothing_finite(np.nan), ("Tile a", "no valid pixel", "leave it out")),
    Case("nothing but infinity", nothing_finite(np.inf), ("Tile a", "no valid pixel", "leave it out")),
    Case("nothing but minus infinity", nothing_finite(-np.inf), ("Tile a", "no valid pixel", "leave it out")),
]

TABLES = [
    Case("no manifest", lambda root: (root / "tiles.csv").unlink(), ("tiles.csv", "tile, split, label")),
    Case("an empty manifest", replaced("tiles.csv", ""), ("tiles.csv", "empty", "tile, split, label")),
    Case("a manifest of column names alone", replaced("tiles.csv", "tile,split,label,s1,s2\n"), ("train", "Folder")),
    Case("a folder in place of the manifest", as_folder("tiles.csv"), ("tiles.csv", "tile, split, label")),
    Case(
        "bytes in place of text",
        lambda root: void((root / "tiles.csv").write_bytes(b"tile,split,label\n\xff\xfe")),
        ("tiles.csv", "UTF-8", "Save it as one"),
    ),
    Case("semicolons", edited(",", ";", 99), ("tile", "tiles.csv", "Add the column")),
    Case("tabs", edited(",", "\t", 99), ("tile", "tiles.csv", "Add the column")),
    Case("no column split", edited("split", "part"), ("split", "tiles.csv", "Add the column")),
    Case("no column label", edited("label", "class"), ("label", "tiles.csv", "Add the column")),
    Case("no column tile", edited("tile", "id"), ("tile", "tiles.csv", "Add the column")),
    Case("no column of a sensor", edited("s1,s2", "s1,sentinel2"), ("s2", "data.modalities")),
    Case("two columns of one name", edited("s1,s2", "s1,s1"), ("tiles.csv", "s1", "a name of its own")),
    Case("a cell too few", edited(",a_s2.tif", ""), ("tiles.csv", "row 1", "Quote the commas")),
    Case("a cell too many", edited("a_s2.tif", "a_s2.tif,x"), ("tiles.csv", "row 1", "Quote the commas")),
    Case("an id twice", edited("\nb,", "\na,"), ("tiles.csv", "row 2", "'a'", "id of its own")),
    Case("an id twice, in two splits", edited("\nc,", "\na,"), ("tiles.csv", "row 3", "'a'", "id of its own")),
    Case("no id", edited("\nb,", "\n,"), ("tiles.csv", "row 2", "id of its own")),
    Case("a split misspelt", edited(",val,", ",valid,"), ("tiles.csv", "row 3", "val", "Correct")),
    Case("a split in capitals", edited(",test,", ",TEST,"), ("tiles.csv", "row 4", "test", "Correct")),
    Case("no split", edited(",val,", ",,"), ("tiles.csv", "row 3", "Correct")),
    Case("no tile to train on", edited(",train,", ",val,", 9), ("train", "no tile")),
    Case("no tile to validate on", edited(",val,", ",train,"), ("val", "no tile")),
    Case("no tile to test on", edited(",test,", ",train,"), ("test", "no tile")),
    Case("a file in two splits", edited("c_s1.tif", "a_s1.tif"), ("a_s1.tif", "train", "val", "one split")),
]

LABELS = [
    Case("a class that is none", edited("River", "Desert"), ("Desert", "tile a", "Known: Forest, River", "Correct")),
    Case("a class misspelt", edited("Forest", "Forrest"), ("Forrest", "Did you mean 'Forest'?", "Correct")),
    Case("a class in lower case", edited("River", "river"), ("river", "tile a", "Correct")),
    Case("a number in place of a class", edited("River", "1"), ("'1'", "tile a", "Correct")),
    Case("some tiles without a label", edited("River", ""), ("Tile a", "label", "leave it out")),
    Case("one of several classes is none", edited("River", "River;Bog"), ("Bog", "tile a", "Correct"), "multilabel"),
    Case(
        "commas between several classes",
        edited("River", '"River,Forest"'),
        ("River,Forest", "tile a", "Correct"),
        "multilabel",
    ),
    Case(
        "a mask with a class too many",
        mask_of("a_mask.tif", np.full((SIDE, SIDE), 2)),
        ("a_mask.tif", "2", "nodata"),
        "segmentation",
    ),
    Case("a mask of 255", mask_of("a_mask.tif", np.full((SIDE, SIDE), 255)), ("a_mask.tif", "255"), "segmentation"),
    Case("a mask below -1", mask_of("a_mask.tif", np.full((SIDE, SIDE), -2)), ("a_mask.tif", "-2"), "segmentation"),
    Case(
        "a mask of the place beside",
        mask_of("a_mask.tif", np.zeros((SIDE, SIDE), dtype=np.int64), place(east=160.0)),
        ("Tile a", "its mask", "same bounds"),
        "segmentation",
    ),
    Case("a mask of fractions", float_mask, ("a_mask.tif", "fractions", "nodata"), "segmentation"),
    Case("a mask of several bands", many_masks, ("a_mask.tif", "one band", "3 bands"), "segmentation"),
    Case("no mask where one is named", no_mask, ("a_mask.tif", "unpacked in full"), "segmentation"),
    Case(
        "a mask of another size",
        mask_of("a_mask.tif", np.zeros((7, 7), dtype=np.int64), place(gsd=SIDE * 10 / 7)),
        ("Tile b", "(7, 7)", "grid of the same sensor"),
        "segmentation",
    ),
    Case("class names in place of masks", lambda root: None, ("no raster", "River"), "segmentation"),
]

CASES = [*FILES, *PIXELS, *TABLES, *LABELS]


def pack_them(root: Path) -> None:
    """The healthy tiles as a packed store, in a folder of their own."""
    source = Folder(root / "tiles.csv", "multiclass", ["Forest", "River"])
    pack(Packing(source, modalities(["s1", "s2"]), root / "store"))


def packed(root: Path) -> None:
    """What a run does with a packed store."""
    data = TileData([Packed(root / "store")], ["s1", "s2"], size=SIDE, batch_size=2, most_bad=0.0)
    for batch in data.train_dataloader():
        data.on_after_batch_transfer(batch, 0)


def shard_them(root: Path) -> None:
    """Shards of radar and height."""
    for split in ("train", "val"):
        write_set(root / "shards", split, "a", ["S1RTC", "DEM"], range(3))


def sharded(root: Path) -> None:
    """What a run does with shards."""
    data = TileData([TerraMesh(root / "shards")], ["s1", "dem"], size=SIDE, batch_size=1, most_bad=0.0)
    for _ in data.train_dataloader():
        pass


def tiled(*words: str) -> Damage:
    """What ``mapex tiles`` does with scenes."""
    return lambda root: tiles.run([*(word.replace("ROOT", str(root)) for word in words), *TILING])


def summed(root: Path) -> None:
    """What ``--checksums`` does with a list."""
    found = checksums.verify(root)
    if found.changed or found.missing:
        raise MapexError(f"Changed: {found.changed}; missing: {found.missing}. Fetch them again.")


def both(first: Damage, second: Damage) -> Damage:
    """One after the other."""

    def damage(root: Path) -> None:
        first(root)
        second(root)

    return damage


def objects(name: str) -> Damage:
    """A NumPy file that would run code when its objects are made."""
    return lambda root: np.save(root / name, np.array([print], dtype=object), allow_pickle=True)


def without_place(root: Path) -> None:
    raster.write(root / "a_s1.tif", radar(0), ("VV", "VH"))


def foreign_folder(root: Path) -> None:
    (root / "cut").mkdir()
    (root / "cut" / "thesis.txt").write_text("years of work")


def evil_archive(root: Path) -> None:
    """As somebody could publish it."""
    with tarfile.open(root / "ssl4eo_l_oli_sr.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    whole = (root / "ssl4eo_l_oli_sr.tar.gz").read_bytes()
    for suffix in ("aa", "ab", "ac", "ad", "ae", "af", "ag"):
        (root / f"ssl4eo_l_oli_sr.tar.gz{suffix}").write_bytes(whole if suffix == "aa" else b"")


def unpacked(root: Path) -> None:
    """What a run does with a data set of torchgeo that is still packed."""
    sensors = {"s1": Channels(bands=("VV", "VH"), unit="dB", gsd=10.0, key="image")}
    TorchGeo("SSL4EOL", sensors, arguments={"split": "oli_sr"}, root=root).keys("train")


STORED = [
    Case("a store without its index", lambda root: (root / "store/index.json").unlink(), ("store", "index.json")),
    Case("a store whose index is cut", cut("store/index.json", 0.5), ("index.json", "again")),
    Case("a store whose index is empty", cut("store/index.json", 0.0), ("index.json", "again")),
    Case("a store of a later format", lambda root: later(root / "store/index.json"), ("index.json", "format")),
    Case("a store whose table is cut", cut("store/tiles.npy", 0.9), ("tiles.npy", "again")),
    Case("a store whose table is missing", lambda root: (root / "store/tiles.npy").unlink(), ("tiles.npy", "again")),
    Case("a store whose pixels are cut", cut("store/s1-00000.npy", 0.9), ("s1-00000.npy", "again")),
    Case("a store without pixels", lambda root: (root / "store/s2-00000.npy").unlink(), ("s2-00000.npy", "again")),
    Case("a store of objects", objects("store/s1-00000.npy"), ("s1-00000.npy", "again")),
    Case("a store of other pixels", lambda root: others(root / "store/s1-00000.npy"), ("s1-00000.npy", "again")),
]

SHARDED = [
    Case("a shard that is cut", cut("shards/train/S1RTC/a.tar", 0.5), ("a.tar", "again")),
    Case("a shard that is empty", cut("shards/train/S1RTC/a.tar", 0.0), ("a.tar", "again")),
    Case("a shard overwritten", scribbled("shards/train/S1RTC/a.tar", 0.0), ("a.tar", "again")),
    Case("text in place of a shard", replaced("shards/train/S1RTC/a.tar", "<html>404</html>"), ("a.tar", "again")),
    Case("no shards", lambda root: shutil.rmtree(root / "shards"), ("TerraMesh", "train", "Fetch")),
]

LISTS = [
    Case("a byte that flipped", scribbled("a_s1.tif", 0.6), ("a_s1.tif", "again")),
    Case("a listed file that is missing", lambda root: (root / "b_s2.tif").unlink(), ("b_s2.tif", "again")),
    Case("no list", lambda root: (root / "checksums.sha256").unlink(), ("checksums.sha256", "sha256sum")),
    Case("a list of something else", replaced("checksums.sha256", "hello\n"), ("line 1", "sha256sum")),
    Case("a list that leads out", replaced("checksums.sha256", f"{'0' * 64}  ../a.tif\n"), ("../a.tif", "Take it")),
    Case("a list from the top", replaced("checksums.sha256", f"{'0' * 64}  /etc/passwd\n"), ("/etc/passwd", "Take it")),
    Case("a listed link out of the root", linked("a_s1.tif", "../elsewhere.tif"), ("a_s1.tif", "Take it")),
]

SCENES = [
    (
        Case("a scene cut short", cut("a_s1.tif", 0.5), ("a_s1.tif", "again")),
        tiled("s1=ROOT/a_s1.tif", "--out", "ROOT/cut"),
    ),
    (Case("a missing scene", void, ("ROOT/none.tif",)), tiled("s1=ROOT/none.tif", "--out", "ROOT/cut")),
    (
        Case("a scene that lies nowhere", without_place, ("a_s1.tif", "coordinate")),
        tiled("s1=ROOT/a_s1.tif", "--out", "ROOT/cut"),
    ),
    (Case("a scene of another sensor", void, ("B01", "a_s1.tif")), tiled("s2=ROOT/a_s1.tif", "--out", "ROOT/cut")),
    (Case("a scene of an unknown sensor", void, ("s3", "Known")), tiled("s3=ROOT/a_s1.tif", "--out", "ROOT/cut")),
    (Case("tiles among other things", foreign_folder, ("cut",)), tiled("s1=ROOT/a_s1.tif", "--out", "ROOT/cut")),
    (Case("tiles in place of a file", void, ("tiles.csv",)), tiled("s1=ROOT/a_s1.tif", "--out", "ROOT/tiles.csv")),
]

OTHERS = [
    *((case._replace(damage=both(pack_them, case.damage)), packed) for case in STORED),
    *((case._replace(damage=both(shard_them, case.damage)), sharded) for case in SHARDED),
    *((case._replace(damage=both(lambda root: void(checksums.write(root)), case.damage)), summed) for case in LISTS),
    *SCENES,
    (
        Case(
            "an archive that writes outside its folder",
            evil_archive,
            ("archive of SSL4EOL", "escaped.txt", "Delete it"),
        ),
        unpacked,
    ),
]
"""Each with what reads it."""


def later(path: Path) -> None:
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))


def others(path: Path) -> None:
    np.save(path, np.zeros((4, 2, SIDE, SIDE), dtype=np.int64))


def test_healthy_tiles_are_read(folder: Path) -> None:
    read_all(folder)
    masked(folder)
    read_all(folder, "segmentation")


def test_every_case_is_another() -> None:
    names = [case.name for case in (*CASES, *(case for case, _ in OTHERS))]
    assert len(set(names)) == len(names) >= 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_written(case: Case, folder: Path) -> None:
    refused(case, folder, lambda root: read_all(root, case.task))


@pytest.mark.parametrize(("case", "read"), OTHERS, ids=lambda value: value.name if isinstance(value, Case) else "")
def test_so_it_is_for_stores_shards_lists_scenes_and_archives(case: Case, read: Damage, folder: Path) -> None:
    refused(case, folder, read)


def refused(case: Case, folder: Path, read: Damage) -> None:
    case.damage(folder)
    before = everything(folder.parent)
    with pytest.raises(MapexError) as caught:
        read(folder)
    sentence = str(caught.value)
    assert [word for word in case.says if word.replace("ROOT", str(folder)) not in sentence] == [], sentence
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    assert everything(folder.parent) == before
