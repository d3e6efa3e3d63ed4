"""``mapex tiles``: scenes that lie differently become tiles that lie on each other, and a config names them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from mapex_lightning.__main__ import main
from mapex_lightning.data import checksums, raster
from mapex_lightning.data.scenes.grid import Grid
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.modality import MODALITIES, Modality
from mapex_lightning.tiles import IGNORED
from tests import scenes
from tests.workshop import SMALL, light

S1, DEM = MODALITIES["s1"], MODALITIES["dem"]
THERMAL = Modality("thermal", ("lwir",), 20.0, "kelvin", (0.0,), (1.0,))
GROUND = scenes.grid(10.0, 64, width=80)
SIZE = ["--size", "16", "--block", "1"]


def uneven(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    return np.asarray(scenes.ramp(east, north) + 3 * np.sin(east / 30) * np.cos(north / 20))


def classes(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Codes 10 and 80 in stripes of 70 m."""
    return np.asarray(10.0 + 70.0 * (np.floor(east / 70) % 2))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radar at 10 m, a height model in the next zone at 30 m that ends early, thermal in degrees, and classes."""
    folder = tmp_path_factory.mktemp("place")
    scenes.write(folder / "s1.tif", GROUND, ["VH", "VV"], uneven)
    north = scenes.beside(30.0, 40, scenes.EAST - 120, scenes.NORTH + 120, 32633)
    scenes.write(folder / "dem.tif", north._replace(width=19), [""])
    degrees = scenes.beside(1 / 7200, 80, scenes.EAST - 100, scenes.NORTH + 100, 4326)
    scenes.write(folder / "scene_lwir.tif", degrees, [""])
    codes = scenes.values(GROUND, classes).astype(np.int64)
    codes[:16, :16] = IGNORED
    raster.write_mask(folder / "cover.tif", codes, GROUND.place)
    (folder / "sensors.yaml").write_text("- {name: thermal, bands: [lwir], gsd: 20.0, unit: kelvin}\n")
    return folder


def words(place: Path, out: Path, *further: str) -> list[str]:
    shown = [f"{name}={place / file}" for name, file in (("s1", "s1.tif"), ("dem", "dem.tif"))]
    own = [f"thermal={place / 'scene_lwir.tif'}", "--sensors", str(place / "sensors.yaml")]
    cover = ["--mask", str(place / "cover.tif"), "--classes", "10=field,80=water"]
    return ["tiles", *shown, *own, *cover, "--out", str(out), *SIZE, *further]


@pytest.fixture(scope="module")
def cut(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "bern"
    assert main(words(place, out)) == 0
    return out


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def everything(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_folder_set_reads_every_tile_of_every_sensor(cut: Path) -> None:
    folder = Folder(cut / "manifest.csv", "segmentation", ["field", "water"])
    keys = [key for split in ("train", "val", "test") for key in folder.keys(split)]
    assert len(keys) == len(rows(cut)) == 4 * 5 - 1
    for key in keys:
        tile = folder.read(key, [S1, DEM, THERMAL])
        assert tile.images["s1"].shape == (2, 16, 16)
        assert tile.images["thermal"].shape == (1, 8, 8)


def test_pixels_of_the_finest_sensor_are_those_of_its_scene(cut: Path, place: Path) -> None:
    stored = raster.read(place / "s1.tif", S1.bands)
    found, where = raster.read_placed(cut / "s1" / "bern-r00016-c00064.tif", S1.bands)
    np.testing.assert_array_equal(found, stored[:, 16:32, 64:80])
    assert where is not None
    assert where.transform == GROUND.window(16, 64, 16, 16).transform


def test_pixels_that_pass_for_those_of_the_sensor_stay_as_they_are(tmp_path: Path) -> None:
    path = scenes.write(tmp_path / "s1.tif", scenes.grid(9.96, 64), S1.bands, uneven)
    assert main(["tiles", f"s1={path}", "--out", str(tmp_path / "near"), *SIZE]) == 0
    found = raster.read(tmp_path / "near" / "s1" / "near-r00016-c00032.tif", S1.bands)
    np.testing.assert_array_equal(found, raster.read(path, S1.bands)[:, 16:32, 32:48])


def test_other_sensors_are_the_function_of_the_same_ground(cut: Path) -> None:
    for name, bands, gsd, tolerance in (("thermal", ["lwir"], 20.0, 0.06), ("dem", ["elevation"], 10.0, 0.001)):
        file = cut / name / "bern-r00016-c00016.tif"
        assert Grid.of(file)[1:] == GROUND.window(16, 16, 16, 16).at(gsd)[1:]
        np.testing.assert_allclose(raster.read(file, bands)[0], scenes.values(Grid.of(file)), atol=tolerance)


def test_a_sensor_whose_scene_ends_is_absent_and_the_tile_stays(cut: Path) -> None:
    there = {row["tile"][-5:]: bool(row["dem"]) for row in rows(cut)}
    assert there["00016"]
    assert not there["00064"]
    assert all(row["s1"] for row in rows(cut))


def test_codes_become_class_indexes_and_unlabelled_tiles_are_left_out(cut: Path, place: Path) -> None:
    assert "bern-r00000-c00000" not in {row["tile"] for row in rows(cut)}
    mask = raster.read_mask(cut / "mask" / "bern-r00016-c00016.tif")
    codes = raster.read_mask(place / "cover.tif")[16:32, 16:32]
    np.testing.assert_array_equal(mask, np.where(codes == 10, 0, 1))


def test_the_config_holds_the_statistics_of_the_training_tiles(cut: Path) -> None:
    data = yaml.safe_load((cut / "data.yaml").read_text())["data"]
    training = [row["tile"] for row in rows(cut) if row["split"] == "train"]
    pixels = np.concatenate([raster.read(cut / "s1" / f"{key}.tif", S1.bands) for key in training], axis=1)
    s1 = data["modalities"][0]
    np.testing.assert_allclose(s1["mean"], pixels.mean((1, 2), dtype=np.float64), rtol=1e-4)
    np.testing.assert_allclose(s1["std"], pixels.std((1, 2), dtype=np.float64), rtol=1e-4)
    assert s1["speckle"] is True
    figures = yaml.safe_load((cut / "statistics.yaml").read_text())
    assert figures["s1"]["VV"]["max"] == pytest.approx(float(pixels[0].max()), rel=1e-5)


def test_the_config_trains(cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "pretrain.yaml", "--config", str(cut / "data.yaml"), *SMALL]) == 0
    assert (tmp_path / "runs" / "pretrain" / "last.ckpt").is_file()


def test_checksums_are_those_of_sha256sum(cut: Path) -> None:
    compared = checksums.verify(cut)
    assert not (*compared.changed, *compared.missing)
    assert {f"s1/{row['tile']}.tif" for row in rows(cut)} < set(compared.same)
    done = subprocess.run(["sha256sum", "-c", "--quiet", "checksums.sha256"], cwd=cut, capture_output=True, timeout=60)
    assert done.returncode == 0


def test_any_number_of_workers_cuts_the_same_tiles(cut: Path, place: Path, tmp_path: Path) -> None:
    assert main(words(place, tmp_path / "bern", "--workers", "2")) == 0
    one, other = everything(cut), everything(tmp_path / "bern")
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == {"data.yaml"}  # it says where the manifest is


def test_whole_tiles_are_kept_and_missing_or_cut_ones_are_made_again(cut: Path, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "bern"
    shutil.copytree(cut, out)
    whole = everything(out)
    kept, gone, short = (out / "s1" / f"bern-r000{row}-c00032.tif" for row in ("16", "32", "48"))
    before = kept.stat().st_mtime_ns
    gone.unlink()
    short.write_bytes(short.read_bytes()[:100])
    (out / "manifest.csv").unlink()
    assert main(words(place, out)) == 0
    again = everything(out)
    assert {name for name in whole if whole[name] != again.get(name)} == {"data.yaml"}
    assert kept.stat().st_mtime_ns == before


def test_a_changed_request_is_refused_and_says_what_changed(
    cut: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(cut)
    assert main(words(place, cut, "--seed", "3", "--stride", "8")) == 2
    assert "another request, which differs in seed, stride" in capsys.readouterr().err
    assert everything(cut) == before


def test_a_folder_that_lost_its_record_is_not_cut_into_again(
    cut: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(cut, out, ignore=shutil.ignore_patterns(".*"))
    before = everything(out)
    assert main(words(place, out, "--seed", "3")) == 2
    assert "another request, which differs in seed" in capsys.readouterr().err
    assert everything(out) == before


@pytest.mark.parametrize("text", ['{"bbox": [7, 46, 8, 47]}', "[]", "none of ours"])
def test_another_programs_request_is_left_alone(
    text: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "request.json").write_text(text)
    assert main(words(place, tmp_path)) == 2
    assert "holds no tiles of ours" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"request.json": text}


def test_a_folder_of_other_things_is_left_alone(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    assert main(words(place, tmp_path)) == 2
    assert "is not empty and holds no tiles of ours" in capsys.readouterr().err
    assert everything(tmp_path) == {"thesis.txt": b"all of it"}


def test_values_are_converted_only_as_asked_and_strange_ones_are_pointed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def power(east: np.ndarray, north: np.ndarray) -> np.ndarray:
        return np.asarray(10 ** ((uneven(east, north) - 12) / 10) / 1000)

    files = [scenes.write(tmp_path / f"rtc_{band}.tif", GROUND, [""], power) for band in S1.bands]
    common = ["tiles", *(f"s1={file}" for file in files), *SIZE]
    assert main([*common, "--out", str(tmp_path / "stored")]) == 0
    assert "look: s1 has values like" in capsys.readouterr().out
    converting = ["--scale", "s1=1000", "--decibels", "s1"]
    assert main([*common, *converting, "--out", str(tmp_path / "converted")]) == 0
    said = capsys.readouterr().out
    assert "values x 1000 in decibels, read as dB" in said
    assert "look:" not in said
    config = yaml.safe_load((tmp_path / "converted" / "data.yaml").read_text())
    assert config["data"]["reading"] == {"s1": {"scale": 1000.0, "decibels": True}}
    found = raster.read(tmp_path / "converted" / "s1" / "converted-r00016-c00016.tif", ["VV"])
    wanted = scenes.values(GROUND.window(16, 16, 16, 16), uneven) - 12
    np.testing.assert_allclose(found[0], wanted, atol=1e-3)


def test_decibels_of_what_is_in_decibels_are_pointed_out(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = scenes.write(tmp_path / "s1.tif", GROUND, S1.bands, lambda east, north: 0 * east - 112)
    common = ["tiles", f"s1={quiet}", f"dem={place / 'dem.tif'}", *SIZE, "--decibels", "s1"]
    assert main([*common, "--out", str(tmp_path / "twice")]) == 0
    said = capsys.readouterr().out
    assert "s1 in 0" in said
    assert "its values are decibels already: leave --decibels out" in said


def test_zeros_that_an_offset_was_added_to_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stored(east: np.ndarray, north: np.ndarray) -> np.ndarray:
        return np.where(east < scenes.EAST + 200, 0, np.round(uneven(east, north) * 20 + 2500))

    bands = MODALITIES["s2_rgb"].bands
    files = [f"s2_rgb={scenes.write(tmp_path / f'{band}.tif', GROUND, [''], stored)}" for band in bands]
    common = ["tiles", *files, *SIZE, "--split", "1,0,0", "--offset", "s2_rgb=-1000"]
    assert main([*common, "--out", str(tmp_path / "blank")]) == 0
    assert "look: s2_rgb stores 0, which becomes -1000 and counts as a value" in capsys.readouterr().out
    assert main([*common, "--nodata", "s2_rgb=0", "--out", str(tmp_path / "known")]) == 0
    assert "look:" not in capsys.readouterr().out


def test_the_offset_of_newer_products_is_pointed_out_with_what_takes_it_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stored(east: np.ndarray, north: np.ndarray) -> np.ndarray:
        return np.asarray(np.round(1100 + 0.5 * (east - scenes.EAST) % 1500))

    bands = MODALITIES["s2_rgb"].bands
    files = [f"s2_rgb={scenes.write(tmp_path / f'{band}.tif', GROUND, [''], stored)}" for band in bands]
    common = ["tiles", *files, *SIZE, "--split", "1,0,0"]
    assert main([*common, "--out", str(tmp_path / "with")]) == 0
    (look,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("look:")]
    assert "the offset of 1,000" in look
    assert look.endswith("take it off with mapex tiles --offset s2_rgb=-1000 --nodata s2_rgb=0")
    assert main([*common, *look.split()[-4:], "--out", str(tmp_path / "without")]) == 0
    assert "look:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("block", "seed", "counts", "remedy"),
    [
        ("2", "6", "6 train, 12 val, 2 test", "a smaller --block, such as 1"),
        ("1", "7", "7 train, 9 val, 4 test", "another --seed"),
        ("2", "1", "", ""),
    ],
)
def test_splits_far_from_the_shares_asked_for_are_pointed_out_with_a_way_out(
    block: str, seed: str, counts: str, remedy: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["tiles", f"s1={place / 's1.tif'}", "--size", "16"]
    assert main([*common, "--block", block, "--seed", seed, "--out", str(tmp_path / "out")]) == 0
    looks = [line for line in capsys.readouterr().out.splitlines() if line.startswith("look:")]
    assert len(looks) == bool(counts)
    assert all(
        line.startswith(f"look: {counts} tiles are far from the shares 0.6") and f"one side: take {remedy}" in line
        for line in looks
    )


def test_a_config_whose_paths_depend_on_the_folder_says_so_and_what_reads_it_says_which_tiles(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert main(["tiles", f"s1={place / 's1.tif'}", "--out", "bern", *SIZE]) == 0
    config = tmp_path / "here" / "bern" / "data.yaml"
    said = f"# Paths count from the folder in which mapex is called; these tiles were cut in '{tmp_path / 'here'}'."
    assert said in config.read_text().splitlines()
    capsys.readouterr()
    assert main(["fit", "--config", "pretrain.yaml", "--config", str(config), *SMALL]) == 0
    read = tmp_path / "there" / "bern" / "manifest.csv"
    assert f"tiles of {read}\n" in capsys.readouterr().out
    main(["doctor", "--config", "pretrain.yaml", "--config", str(config), *SMALL, "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [its["sentence"] for its in findings if its["check"] == "files"] == [f"Folder: the tiles of {read}."]


def test_overlapping_tiles_in_another_zone_are_cut_too(place: Path, tmp_path: Path) -> None:
    further = ["--crs", "EPSG:32633", "--stride", "8", "--split", "1,0,0", "--max-nodata", "0"]
    assert main(["tiles", f"s1={place / 's1.tif'}", "--out", str(tmp_path / "next"), *SIZE, *further]) == 0
    first = rows(tmp_path / "next")[0]
    assert {row["split"] for row in rows(tmp_path / "next")} == {"train"}
    image = raster.read(tmp_path / "next" / first["s1"], ["VV"])
    assert np.isfinite(image).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["s3=x.tif"], "no sensor 's3'. Known: dem"),
        (["s1"], "SENSOR=VALUE"),
        (["mask=x.tif"], "The mask is no sensor"),
        (["--workers", "0"], "not 1 or more"),
        (["--scale", "s2=10"], "no sensor 's2' among the scenes"),
        (["--scale", "s1=ten"], "--scale takes SENSOR=NUMBER"),
        (["--decibels", "s2"], "no sensor 's2' among the scenes"),
        (["--split", "0.5,0.2,0.2"], "three shares"),
        (["--split", "x"], "--split"),
        (["--size", "0"], "not 1 or more"),
        (["--size", "17"], "17 pixels of 10 m is 8.5 pixels of thermal"),
        (["--max-nodata", "2"], "not between 0 and 1"),
        (["--classes", "10=field"], "holds 80, and classes are given for 10"),
        (["--classes", "field=10"], "--classes is NAME,NAME"),
        (["--mask", "none.tif"], "There is no raster none.tif"),
        (["--sensors", "none.yaml"], "--sensors none.yaml cannot be read"),
        (["--colour", "red"], "nrecognized arguments: --colour"),
        (["--bands", "s1=VV"], "1 band names were given (VV) for 2 bands"),
        (["--block", "100"], "No tile falls to"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    change: list[str], sentence: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(place, tmp_path / "out")
    given = [given[0], change[0], *given[1:]] if not change[0].startswith("--") else [*given, *change]
    assert main(given) == 2
    found = capsys.readouterr().err
    assert sentence in found
    assert "Traceback" not in found
    assert not (tmp_path / "out" / "manifest.csv").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no list of sensor blocks"),
        ("data:", "holds no list of sensor blocks"),
        ("data: [s1]", "no sensor 'thermal'"),
        ("data: {modalities: 3}", "holds no list of sensor blocks"),
        ("- {name: x, bands: , gsd: 10, unit: dB}", "bands"),
        ("- {name: x, bands: 3, gsd: 10, unit: dB}", "bands"),
    ],
)
def test_sensors_that_are_none_are_refused_in_a_sentence(
    text: str, sentence: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    assert main([*words(place, tmp_path / "out"), "--sensors", str(tmp_path / "own.yaml")]) == 2
    assert sentence in capsys.readouterr().err


def test_masks_and_classes_belong_together(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["tiles", f"s1={place / 's1.tif'}", "--out", str(tmp_path / "out"), *SIZE]
    assert main([*common, "--classes", "a,b"]) == 2
    assert main([*common, "--mask", str(place / "cover.tif")]) == 2
    assert "name its classes" in capsys.readouterr().err


def test_a_corrected_request_is_taken_where_nothing_was_cut(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(words(place, out, "--classes", "10=field")) == 2
    assert main(words(place, out)) == 0


def test_cutting_imports_no_trainer(place: Path, tmp_path: Path) -> None:
    light("tiles", "--help")


def test_real_scenes_of_four_sensors_become_tiles(
    shared_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_data("terramind-examples") / "examples"
    name = sorted(path.name for path in (folder / "DEM").glob("*.tif"))[0]
    shown = [f"{sensor}={folder / part / name}" for sensor, part in (("s2", "S2L2A"), ("s1", "S1RTC"), ("dem", "DEM"))]
    common = ["--bands", "dem=elevation", "--size", "32", "--block", "1", "--out", str(tmp_path / "real")]
    assert main(["tiles", *shown, *common]) == 0
    assert len(rows(tmp_path / "real")) == 36
    request = json.loads((tmp_path / "real" / "request.json").read_text())
    assert request["size"] == 32
