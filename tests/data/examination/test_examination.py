"""Healthy tiles are found healthy, and every illness gets its sentence and a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform as warp

from mapex_lightning.data import checksums, raster
from mapex_lightning.data.examination import Finding, check_sums, examine
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.tileset import GeoReference, Split, Task
from mapex_lightning.modality import MODALITIES, Modality
from tests.builders import OPTICAL, RADAR

SIDE = 8
EXTENT = SIDE * 10.0
SENSORS = (RADAR, OPTICAL)


@dataclass
class Row:
    """One tile before it is written."""

    split: str
    label: str
    images: dict[str, np.ndarray]
    east: float
    mask: np.ndarray
    gsd: dict[str, float] = field(default_factory=lambda: {"s1": 10.0, "s2": 10.0})
    shift: dict[str, float] = field(default_factory=lambda: {"s1": 0.0, "s2": 0.0})
    epsg: dict[str, int] = field(default_factory=lambda: {"s1": 32632, "s2": 32632})
    north: float = 5e6


@dataclass
class Plan:
    """A folder of tiles before it is written."""

    rows: list[Row]
    bands: dict[str, list[str]]
    task: Task = "multiclass"
    classes: list[str] | None = None
    sensors: tuple[Modality, ...] = SENSORS
    after: Callable[[Path], object] = lambda folder: None

    def write(self, folder: Path) -> Folder:
        lines = ["tile,split,label,s1,s2"]
        for number, row in enumerate(self.rows):
            for name, image in row.images.items():
                place = placed(row.east + row.shift[name], row.gsd[name], row.epsg[name], row.north)
                raster.write(folder / f"{number}_{name}.tif", image, self.bands[name], place)
            raster.write_mask(folder / f"{number}.tif", row.mask, placed(row.east))
            label = f"{number}.tif" if self.task == "segmentation" else row.label
            lines.append(f"t{number},{row.split},{label},{number}_s1.tif,{number}_s2.tif")
        (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
        self.after(folder)
        return Folder(folder / "tiles.csv", self.task, self.classes)


def placed(east: float, gsd: float = 10.0, epsg: int = 32632, north: float = 5e6) -> GeoReference:
    return GeoReference(rasterio.CRS.from_epsg(epsg).to_wkt(), (gsd, 0.0, 5e5 + east, 0.0, -gsd, north))


def image(sensor: Modality, rng: np.random.Generator) -> np.ndarray:
    shape = (len(sensor.bands), SIDE, SIDE)
    mean, std = (np.array(values)[:, None, None] for values in (sensor.mean, sensor.std))
    drawn = (mean + std * rng.standard_normal(shape)).astype(np.float32)
    return drawn if sensor is RADAR else np.clip(np.round(drawn), 1, None)


def healthy() -> Plan:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        rows.append(
            Row(
                split=("train", "val", "train", "test")[number % 4],
                label=("Forest", "Water")[number // 2 % 2 if number % 2 else number // 4 % 2],
                images={sensor.name: image(sensor, rng) for sensor in SENSORS},
                east=200.0 * number,
                mask=rng.integers(0, 2, (SIDE, SIDE)),
            )
        )
    for row, label in zip((row for row in rows if row.split == "train"), ("Forest", "Water") * 3, strict=True):
        row.label = label
    return Plan(rows, {sensor.name: list(sensor.bands) for sensor in SENSORS})


def found(plan: Plan, folder: Path) -> list[Finding]:
    source = plan.write(folder)
    return list(examine([source], plan.sensors, EXTENT, wanted=True))


def marks(findings: Iterable[Finding]) -> set[str]:
    return {finding.mark for finding in findings}


@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_healthy_tiles_of_a_folder_are_all_ok(task: Task, tmp_path: Path) -> None:
    plan = healthy()
    plan.task, plan.classes = task, ["Forest", "Water"]
    findings = found(plan, tmp_path)
    assert [finding for finding in findings if finding.mark != "ok"] == []
    assert {"files", "splits", "reading", "sensors", "size", "values", "ground", "classes", "copies", "places"} == {
        finding.check for finding in findings
    }


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation"])
def test_synthetic_tiles_are_ok_and_the_one_thing_that_cannot_be_known_is_said(task: Task) -> None:
    source = Synthetic(task, train=40, val=16, test=16, size=32)
    findings = list(examine([source], [MODALITIES[name] for name in ("s1", "s2", "rgb", "dem")], 320.0, wanted=True))
    assert [finding.check for finding in findings if finding.mark == "unknown"] == ["places"]
    assert [finding for finding in findings if finding.mark not in ("ok", "unknown")] == []


def each(name: str, change: Callable[[np.ndarray], object]) -> Callable[[Plan], object]:
    """Changes the pixels of one sensor of every tile in place."""

    def plant(plan: Plan) -> None:
        for row in plan.rows:
            change(row.images[name])

    return plant


def setter(**values: Any) -> Callable[[Plan], object]:
    def plant(plan: Plan) -> None:
        for name, value in values.items():
            setattr(plan, name, value)

    return plant


def rows(change: Callable[[list[Row]], object]) -> Callable[[Plan], object]:
    return lambda plan: change(plan.rows)


def to(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Plan], object]:
    """Replaces the pixels of one sensor of every tile."""

    def plant(plan: Plan) -> None:
        for row in plan.rows:
            row.images[name] = value(row.images[name]).astype(np.float32)

    return plant


def of_split(split: str, change: Callable[[Row], object]) -> Callable[[Plan], object]:
    def plant(plan: Plan) -> None:
        for row in plan.rows:
            if row.split == split:
                change(row)

    return plant


def first(change: Callable[[Row], object]) -> Callable[[Plan], object]:
    return lambda plan: change(plan.rows[0])


def half(value: float) -> Callable[[np.ndarray], None]:
    def change(pixels: np.ndarray) -> None:
        pixels[:, : SIDE // 2 + 1] = value

    return change


def band(index: int, value: float) -> Callable[[np.ndarray], None]:
    def change(pixels: np.ndarray) -> None:
        pixels[index] = value

    return change


def cut(folder: Path) -> None:
    path = folder / "0_s2.tif"
    path.write_bytes(path.read_bytes()[:300])


def same_pixels(rows: list[Row]) -> None:
    rows[1].images["s2"] = rows[0].images["s2"]


def same_pixels_in_train(rows: list[Row]) -> None:
    rows[2].images["s2"] = rows[0].images["s2"]


def mixed_labels(rows: list[Row]) -> None:
    rows[0].label = ""


def rare_pixels(plan: Plan) -> None:
    plan.task, plan.classes = "segmentation", ["dry", "wet"]
    for row in plan.rows:
        row.mask[1:] = 0


def relabel(folder: Path, label: str) -> None:
    manifest = folder / "tiles.csv"
    manifest.write_text(re.sub("Forest|Water", label, manifest.read_text()))


def twice(folder: Path) -> None:
    manifest = folder / "tiles.csv"
    manifest.write_text(manifest.read_text() + "t0,val,Forest,0_s1.tif,0_s2.tif\n")


ILLNESSES: dict[str, tuple[Callable[[Plan], object], str, str, str]] = {
    "reflectance as a fraction": (
        to("s2", lambda pixels: pixels / 10_000),
        "wrong",
        "s2 of Folder: values lie between .* where reflectance x 10000 is expected; this looks like reflectance as a",
        "Multiply the values by 10,000",
    ),
    "a picture for reflectance": (
        to("s2", lambda pixels: np.clip(np.round(pixels / 20), 0, 255)),
        "wrong",
        "this looks like an 8-bit picture",
        "16-bit product",
    ),
    "linear radar": (
        to("s1", lambda pixels: 10 ** (pixels / 10)),
        "wrong",
        "s1 of Folder: .* where dB is expected; this looks like linear backscatter",
        "10 log10",
    ),
    "the offset of 2022": (
        to("s2", lambda pixels: pixels + 1000),
        "look",
        "offset of 1,000 that Sentinel-2 products have since processing baseline 04.00",
        "Subtract 1,000 from every band .*: mapex tiles --offset s2=-1000 --nodata s2=0 does it",
    ),
    "flat land": (
        setter(sensors=(RADAR, replace(OPTICAL, unit="metres", std=(3e5, 3e5, 9e5)))),
        "look",
        "the bands spread .* times less than the statistics of the modality say",
        "so uniform",
    ),
    "another unit": (
        setter(sensors=(RADAR, replace(OPTICAL, unit="counts", std=(3e7, 3e7, 9e7)))),
        "wrong",
        "the bands spread .* times smaller than the statistics of the modality say",
        "Check unit, mean and std",
    ),
    "another level": (
        to("s1", lambda pixels: pixels - 40),
        "wrong",
        r"s1 of Folder: VV lies around -52 dB, 8\.0 deviations from the modality's mean of -12",
        "Check unit and product.* the statistics are those of other places",
    ),
    "swapped optical bands": (
        setter(bands={"s1": ["VV", "VH"], "s2": ["B08", "B03", "B04"]}),
        "look",
        "s2 of Folder: by its values B04 looks like B08, B08 looks like B04: swapped bands",
        "band descriptions",
    ),
    "swapped radar bands": (
        setter(bands={"s1": ["VH", "VV"], "s2": list(OPTICAL.bands)}),
        "look",
        r"VH \(-1\d.*\) is brighter than VV \(-1\d.*\).*swapped bands",
        "band descriptions",
    ),
    "a constant band": (
        each("s2", band(1, 7.0)),
        "wrong",
        r"s2 of Folder: the band B03 \(7\) has one value everywhere in 12 tiles",
        "again, or leave it out",
    ),
    "a band that is constant in each tile": (
        each("s2", lambda pixels: band(1, float(pixels[1, 0, 0]))(pixels)),
        "look",
        r"in most of 12 tiles a band has one value only: B03 \(12\)",
        "nodata that is not declared",
    ),
    "a band of NaN": (
        each("s2", band(0, np.nan)),
        "wrong",
        "no pixel of B04 is valid in 12 tiles",
        "nodata value, or leave the band out",
    ),
    "nodata in half of the pixels": (
        each("s2", half(np.nan)),
        "look",
        "s2 of Folder: much is invalid: B04 62%",
        "Check the nodata value",
    ),
    "zeros for nodata": (
        each("s2", half(0.0)),
        "look",
        "62% of the pixels are exactly 0 in all bands",
        "declare 0 as nodata",
    ),
    "a filler that is not declared": (
        each("s1", lambda pixels: half(-9999.0)(pixels[:, :2])),
        "wrong",
        "s1 of Folder: VV holds -9999, VH holds -9999, which is how files mark that nothing was measured",
        "Declare it as nodata",
    ),
    "zeros for nodata that an offset was added to": (
        each("s2", half(-1000.0)),
        "wrong",
        "s2 of Folder: a hundredth of the pixels or more is exactly -1000 in every band, which is no value in reflect",
        "takes it as --nodata",
    ),
    "decibels of a small number for nodata": (
        each("s1", half(-99.7)),
        "wrong",
        r"s1 of Folder: a hundredth of the pixels or more is exactly -99\.7 in every band",
        "takes it as --nodata",
    ),
    "another gsd": (
        setter(sensors=(RADAR, replace(OPTICAL, gsd=20.0))),
        "wrong",
        "the pixels of s2 are 9.99 m wide by their georeference, and the modality has gsd: 20. Correct gsd",
        "Mend what the sentence names",
    ),
    "pixels a little larger than said": (
        setter(sensors=(replace(RADAR, gsd=9.0), replace(OPTICAL, gsd=9.0))),
        "look",
        r"s1 of Folder: pixels are 9\.99 m wide by the georeference \(tile t\d+\), and the modality has gsd: 9",
        "Correct gsd",
    ),
    "a sensor that is shifted": (
        rows(lambda rows: [row.shift.update(s2=80.0) for row in rows]),
        "wrong",
        "12 of 12 tiles that were tried cannot be read. t0: Tile t0: s1 and s2 cover different ground",
        "Mend what the sentence names",
    ),
    "a sensor in other coordinates": (
        first(lambda row: row.epsg.update(s2=32633)),
        "wrong",
        "1 of 12 tiles that were tried cannot be read. t0: Tile t0: s1 and s2 have different coordinate systems",
        "Mend what the sentence names",
    ),
    "a tile of another size": (
        first(lambda row: row.images.update({name: pixels[:, :4] for name, pixels in row.images.items()})),
        "look",
        "tiles are s1 4 x 8 or 8 x 8.*the shortest 40 m, and the config asks for 80 m",
        "Lower data.size",
    ),
    "a tile without a valid pixel": (
        first(lambda row: row.images.update({name: pixels * np.nan for name, pixels in row.images.items()})),
        "wrong",
        "1 of 12 tiles that were tried cannot be used. t0: Tile t0 has no valid pixel",
        "leave these tiles out",
    ),
    "a file that was cut short": (
        setter(after=cut),
        "wrong",
        "1 of 12 tiles that were tried cannot be read. t0: .*0_s2.tif (cannot be|is damaged or cut short)",
        "Mend what the sentence names",
    ),
    "a file that is missing": (
        setter(after=lambda folder: (folder / "3_s1.tif").unlink()),
        "wrong",
        "1 of 12 tiles that were tried cannot be read. t3: There is no raster .*3_s1.tif",
        "Mend what the sentence names",
    ),
    "no manifest": (
        setter(after=lambda folder: (folder / "tiles.csv").unlink()),
        "wrong",
        "There is no manifest",
        "other checks of this set were left out",
    ),
    "an id that occurs twice": (
        setter(after=twice),
        "wrong",
        "tile id 't0' is empty or occurs twice",
        "left out",
    ),
    "an empty split": (
        of_split("val", lambda row: setattr(row, "split", "train")),
        "wrong",
        "the split val has no tile",
        "Add tiles to val",
    ),
    "no test tiles": (
        of_split("test", lambda row: setattr(row, "split", "train")),
        "look",
        "the split test has no tile",
        "mapex test and predict",
    ),
    "a sensor that no set has": (
        setter(sensors=(*SENSORS, MODALITIES["dem"])),
        "wrong",
        "No set has dem: elevation in metres at 10 m",
        "Leave it out of data.modalities",
    ),
    "no sensor of the config": (
        setter(sensors=(MODALITIES["dem"],)),
        "wrong",
        "Folder has none of the sensors dem",
        "Leave the set out",
    ),
    "a label that is no class": (
        setter(classes=["Forest", "Meadow"]),
        "wrong",
        r"\d of 12 labels cannot be used: .*no class 'Water'",
        "Correct these labels",
    ),
    "a mask with a value that is no class": (
        setter(task="segmentation", classes=["dry"]),
        "wrong",
        "12 of 12 tiles that were tried cannot be read. t0: Mask .*0.tif of tile t0 holds 1, and there are 1 classes",
        "Mend what the sentence names",
    ),
    "labels for some": (
        rows(mixed_labels),
        "wrong",
        "1 of 12 tiles have no label, and others have: t0",
        "Label them or leave them out",
    ),
    "labels for none": (
        setter(after=lambda folder: relabel(folder, "")),
        "wrong",
        "no tile has a label, and the model is to be fine-tuned",
        "pre-train",
    ),
    "a class that is missing in train": (
        of_split("train", lambda row: setattr(row, "label", "Forest")),
        "wrong",
        "Water occurs in val or test and not in train",
        "never sees",
    ),
    "a class without tiles": (
        setter(classes=["Forest", "Meadow", "Water"]),
        "look",
        "Meadow occurs in no split",
        "Check the names",
    ),
    "rare pixels": (
        rare_pixels,
        "look",
        r"of dry there are \d+ times as many pixels in train as of wet",
        "figures per class",
    ),
    "the same place twice": (
        rows(lambda rows: setattr(rows[1], "east", rows[0].east + 30.0)),
        "wrong",
        "1 pair of tiles of different splits overlap on the ground, by up to 62%: train t0 and val t1",
        "Split by place",
    ),
    "places that touch a little": (
        rows(lambda rows: setattr(rows[1], "east", rows[0].east + 70.0)),
        "look",
        "overlap on the ground, by up to 12%",
        "Split by place",
    ),
    "the same pixels in two splits": (
        rows(same_pixels),
        "wrong",
        "1 image in one split and in another, to the last bit: train t0 = val t1",
        "Leave each out of one",
    ),
    "the same pixels twice in a split": (
        rows(same_pixels_in_train),
        "look",
        "1 image more than once in a split: train t0 = train t2",
        "copies",
    ),
}


@pytest.mark.parametrize(("plant", "mark", "sentence", "remedy"), ILLNESSES.values(), ids=ILLNESSES)
def test_every_illness_gets_its_sentence_and_a_remedy(
    plant: Callable[[Plan], object], mark: str, sentence: str, remedy: str, tmp_path: Path
) -> None:
    plan = healthy()
    plant(plan)
    findings = found(plan, tmp_path)
    matching = [f for f in findings if f.mark == mark and re.search(sentence, f.sentence)]
    assert matching, "\n".join(f.lines() for f in findings)
    assert re.search(remedy, matching[0].remedy), matching[0].lines()


@pytest.mark.parametrize(("name", "value"), [("s2", 1.0), ("s1", -35.0)], ids=["darkest", "clipped"])
def test_a_least_value_that_can_be_measured_is_no_nodata(name: str, value: float, tmp_path: Path) -> None:
    plan = healthy()
    each(name, lambda pixels: half(value)(pixels[:, :2]))(plan)
    assert not [f for f in found(plan, tmp_path) if f.check == "nodata"]


def test_the_other_checks_go_on_where_one_cannot(tmp_path: Path) -> None:
    plan = healthy()
    plan.after = cut
    assert {"values", "classes", "copies", "places"} <= {finding.check for finding in found(plan, tmp_path)}


def test_a_set_that_is_not_there_keeps_no_other_from_being_examined(tmp_path: Path) -> None:
    sets = [Folder(tmp_path / "none.csv", "multiclass"), Synthetic(train=4, val=2, test=2, size=8)]
    findings = list(examine(sets, [MODALITIES["s1"]], 80.0, labelled=False))
    assert marks(f for f in findings if f.sentence.startswith("Folder")) == {"wrong"}
    assert any(f.check == "values" and "Synthetic" in f.sentence for f in findings)


class Twice(Synthetic):
    """A set that has its first training tile in validation too."""

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        keys = list(super().keys(split, modalities))
        return ["train-000000", *keys] if split == "val" else keys


def test_an_id_in_two_splits_is_named() -> None:
    findings = list(examine([Twice(train=4, val=2, test=2, size=8, missing=0)], [MODALITIES["s1"]], 80.0))
    wrong = [finding for finding in findings if finding.mark == "wrong" and finding.check in ("splits", "copies")]
    assert "1 id more than once: train-000000 (train and val)" in wrong[0].sentence
    assert wrong[1].check == "copies"


def test_a_few_tiles_of_many_are_enough_and_the_sentence_says_how_many() -> None:
    findings = list(examine([Synthetic(train=900, val=2, test=2, size=8)], [MODALITIES["s1"]], 80.0, seconds=0.0))
    reading = next(finding for finding in findings if finding.check == "reading")
    assert "3 of 8" in reading.sentence
    copies = next(finding for finding in findings if finding.check == "copies")
    assert "tiles compared" in copies.sentence


def test_splits_that_look_different_are_told(tmp_path: Path) -> None:
    class Drift(Synthetic):
        def read(self, key: str, modalities: Sequence[Modality]) -> Any:
            tile = super().read(key, modalities)
            for pixels in tile.images.values():
                pixels += 12.0 * key.startswith("test")
            return tile

    findings = list(examine([Drift(train=20, val=20, test=20, size=8, missing=0)], [MODALITIES["s1"]], 80.0))
    told = [finding.sentence for finding in findings if finding.mark == "look"]
    assert len(told) == 1
    assert "in test is" in told[0]


def test_files_are_compared_with_their_list(tmp_path: Path) -> None:
    source = healthy().write(tmp_path)
    assert marks(check_sums([source])) == {"unknown"}
    checksums.write(tmp_path)
    assert marks(check_sums([source])) == {"ok"}
    (tmp_path / "0_s1.tif").write_bytes(b"other")
    (tmp_path / "1_s1.tif").unlink()
    told = list(check_sums([source]))
    assert [finding.mark for finding in told] == ["wrong", "wrong"]
    assert "1 file changed since the list was made: 0_s1.tif" in told[0].sentence
    assert "1 file missing: 1_s1.tif" in told[1].sentence
    (tmp_path / checksums.CHECKSUMS).write_text(f"{'0' * 64}  ../secret\n")
    assert "leads out of" in next(check_sums([source])).sentence


def test_the_list_of_a_folder_may_lie_beside_its_manifest_too(tmp_path: Path) -> None:
    written = healthy().write(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    checksums.write(tmp_path, ["tiles.csv"])
    source = Folder(written.manifest, "multiclass", root=tmp_path / "elsewhere")
    assert [finding.sentence for finding in check_sums([source, source])] == ["Folder (set 1): 1 file as listed."]


def test_the_same_place_is_found_in_another_coordinate_system(tmp_path: Path) -> None:
    plan = healthy()
    (x,), (y,) = warp("EPSG:32632", "EPSG:32633", [5e5], [5e6])
    plan.rows[1].epsg = {"s1": 32633, "s2": 32633}
    plan.rows[1].east, plan.rows[1].north = x - 5e5, y
    told = next(f for f in found(plan, tmp_path) if f.check == "places")
    assert told.mark == "wrong"
    assert "train t0 and val t1" in told.sentence


def test_tiles_that_do_not_say_where_they_lie_are_counted(tmp_path: Path) -> None:
    plan = healthy()
    first, total = plan.rows[0].images, len(plan.rows)

    def unplaced(folder: Path) -> None:
        for name, pixels in first.items():
            raster.write(folder / f"0_{name}.tif", pixels, plan.bands[name])

    plan.after = unplaced
    places = [finding for finding in found(plan, tmp_path) if finding.check == "places"]
    assert [finding.mark for finding in places] == ["unknown", "ok"]
    assert f"1 of {total} tiles lie" in places[0].sentence
    assert f"{total - 1} of {total} tiles compared" in places[1].sentence


def test_an_offset_is_not_taken_for_another_level(tmp_path: Path) -> None:
    blue = replace(
        OPTICAL, bands=("B02", *OPTICAL.bands[1:]), mean=(300.0, *OPTICAL.mean[1:]), std=(200.0, *OPTICAL.std[1:])
    )
    plan = healthy()
    plan.sensors, plan.bands["s2"] = (RADAR, blue), list(blue.bands)
    for row in plan.rows:
        row.images["s2"] = image(blue, np.random.default_rng(int(row.east))) + 1000
    told = [finding.sentence for finding in found(plan, tmp_path) if finding.mark != "ok"]
    assert any("offset of 1,000" in sentence for sentence in told)
    assert not any("level 1C" in sentence for sentence in told)


def test_classes_are_counted_in_all_sets_together(tmp_path: Path) -> None:
    sets = []
    for name in ("Forest", "Water"):
        plan = healthy()
        plan.classes = ["Forest", "Water"]
        for row in plan.rows:
            row.label = name
        (tmp_path / name).mkdir()
        sets.append(plan.write(tmp_path / name))
    (told,) = (finding for finding in examine(sets, SENSORS, EXTENT, wanted=True) if finding.check == "classes")
    assert told.mark == "ok"
    assert "Folder (set 1), Folder (set 2): 2 classes, 6 tiles each in train" in told.sentence
