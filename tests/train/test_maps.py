"""A scene becomes a map: the same one in any batches and on any number of processes, and nothing if it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import xarray
from torch import Tensor

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import KEY, Description, save, write
from mapex_lightning.data import raster
from mapex_lightning.data.module import TileData
from mapex_lightning.data.scenes.scene import Reading
from mapex_lightning.data.sets.synthetic import Synthetic, landscape
from mapex_lightning.data.tileset import GeoReference, Task
from mapex_lightning.errors import MapexError
from mapex_lightning.files import temporary
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.tiles import IGNORED, Tiles
from mapex_lightning.train.embed import Embed
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.maps import Maps, Outputs, maps_of, valid_cells
from tests.abandoned import dead
from tests.workshop import trainer_of

SENSORS = modalities(["s1", "s2"])
PLACE = GeoReference(rasterio.CRS.from_epsg(32632).to_wkt(), (10.0, 0.0, 500_005.0, 0.0, -10.0, 5_000_000.0))


def write_scene(folder: Path, height: int = 44, width: int = 50) -> dict[str, list[str]]:
    """A synthetic landscape as two files; nothing was seen of its first 20 rows and columns."""
    rng = np.random.default_rng(0)
    place = landscape.landscape(rng, max(height, width))
    images = {"s1": landscape.sentinel1(place, rng), "s2": landscape.sentinel2(place, rng)}
    for modality in SENSORS:
        image = images[modality.name][:, :height, :width].copy()
        image[:, :20, :20] = np.nan
        raster.write(folder / f"{modality.name}.tif", image, modality.bands, PLACE)
    return {name: [str(folder / f"{name}.tif")] for name in images}


def data_for(scene: dict[str, list[str]], task: Task = "segmentation", **settings: Any) -> TileData:
    settings = {"batch_size": 4, **settings}
    return TileData([Synthetic(task=task, size=16)], ["s1", "s2"], size=16, scene=scene, **settings)


def model_for(task: Task = "segmentation") -> FineTune:
    """An untrained model, always the same, that says something else everywhere."""
    torch.manual_seed(0)
    model = FineTune("nano", task, Synthetic().classes, ["s1", "s2"])
    with torch.no_grad():
        for weight in model.head.parameters():
            weight.mul_(20)
    return model


def keep(model: FineTune, path: Path) -> None:
    """Writes a checkpoint as a run does."""
    head = {"task": model.task, "classes": list(model.classes), "pool": model.pool}
    description = Description("finetune", model.encoder.config, ("made by a test",), head=head)
    write({"state_dict": model.state_dict(), KEY: description.plain()}, path)


def predict(model: FineTune | Embed, data: TileData, **outputs: str) -> None:
    maps = maps_of(model, data, Outputs(**outputs))
    trainer_of(callbacks=[maps]).predict(model, datamodule=data, return_predictions=False)


@pytest.fixture
def scene(tmp_path: Path) -> dict[str, list[str]]:
    return write_scene(tmp_path)


def test_a_scene_becomes_a_map_of_its_own_grid(scene: dict[str, list[str]], tmp_path: Path) -> None:
    out, likely = tmp_path / "map.tif", tmp_path / "likely.tif"
    predict(model_for(), data_for(scene), out=str(out), probabilities=str(likely))
    mask, classes = raster.read_mask(out), Synthetic().classes
    place = raster.georeference(out)
    assert place is not None
    assert place.transform == PLACE.transform
    assert mask.shape == (44, 50)
    assert len(np.unique(mask)) > 3
    empty = np.zeros((44, 50), dtype=bool)
    empty[:20, :20] = True
    np.testing.assert_array_equal(mask == IGNORED, empty)
    shares = raster.read(likely, classes)
    np.testing.assert_allclose(shares.sum(0)[~empty], 1, rtol=1e-4)
    np.testing.assert_array_equal(np.where(empty, IGNORED, np.nan_to_num(shares).argmax(0)), mask)


def test_a_scene_of_one_window_is_what_the_model_says_of_it(tmp_path: Path) -> None:
    scene, model = write_scene(tmp_path, 16, 16), model_for()
    predict(model, data_for(scene), probabilities=str(tmp_path / "map.tif"))
    assert np.isnan(raster.read(tmp_path / "map.tif", model.classes)).all()  # its 20 rows are empty
    scene = {name: [str(tmp_path / f"{name}-full.tif")] for name in scene}
    images = {}
    for modality in SENSORS:
        image = np.random.default_rng(1).normal(size=(len(modality.bands), 16, 16)).astype(np.float32)
        images[modality.name] = image * np.reshape(modality.std, (-1, 1, 1)) + np.reshape(modality.mean, (-1, 1, 1))
        raster.write(Path(scene[modality.name][0]), images[modality.name].astype(np.float32), modality.bands, PLACE)
    predict(model, data_for(scene), probabilities=str(tmp_path / "map.tif"))
    tiles = Tiles.of(**{name: torch.from_numpy(image).float()[None] for name, image in images.items()})
    with torch.no_grad():
        wanted = model(tiles).softmax(1)[0]
    np.testing.assert_allclose(raster.read(tmp_path / "map.tif", model.classes), wanted, atol=1e-5)


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 7, "workers": 2}])
def test_batches_and_workers_change_nothing(
    scene: dict[str, list[str]], tmp_path: Path, settings: dict[str, Any]
) -> None:
    classes = Synthetic().classes
    predict(model_for(), data_for(scene), probabilities=str(tmp_path / "one.tif"))
    predict(model_for(), data_for(scene, **settings), probabilities=str(tmp_path / "other.tif"))
    one, other = (raster.read(tmp_path / name, classes) for name in ("one.tif", "other.tif"))
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_labels_of_windows_become_a_coarser_map(scene: dict[str, list[str]], tmp_path: Path, task: Task) -> None:
    predict(model_for(task), data_for(scene, task), out=str(tmp_path / "map.tif"))
    with rasterio.open(tmp_path / "map.tif") as read:
        assert read.shape == (6, 7)
        assert (*read.transform[:6],) == (80.0, 0.0, 500_005.0, 0.0, -80.0, 5_000_000.0)
        assert read.count == (1 if task == "multiclass" else len(Synthetic().classes))
        found = read.read()
    assert (found[:, :2, :2] == 255).all()
    assert (found[:, 3:] != 255).all()


@pytest.mark.parametrize("name", ["map.tif", "map.zarr"])
def test_features_are_made_by_any_encoder(scene: dict[str, list[str]], tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    save(Encoder(preset("nano", SENSORS)), tmp_path / "encoder.ckpt")
    predict(Embed(str(tmp_path / "encoder.ckpt")), data_for(scene), embeddings=str(tmp_path / name))
    if name.endswith(".zarr"):
        with xarray.open_dataset(tmp_path / name, engine="zarr", consolidated=False) as read:
            found = read["features"].to_numpy()
    else:
        found = raster.read(tmp_path / name, [f"feature_{index}" for index in range(128)])
    assert found.shape == (128, 6, 7)
    assert np.isnan(found[:, :2, :2]).all()
    assert np.isfinite(found[:, 3:]).all()
    assert found[:, 3:].std() > 0.1


def test_a_sensor_may_be_left_out(scene: dict[str, list[str]], tmp_path: Path) -> None:
    predict(model_for(), data_for({"s1": scene["s1"]}), out=str(tmp_path / "map.tif"))
    assert (raster.read_mask(tmp_path / "map.tif")[20:] != IGNORED).all()


def test_it_is_said_how_a_scene_is_read_and_which_sensor_is_missing(
    scene: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading = {"s1": Reading(offset=-1.0)}
    predict(model_for(), data_for({"s1": scene["s1"]}, reading=reading), out=str(tmp_path / "map.tif"))
    said = capsys.readouterr().out
    assert "s1: VV VH, EPSG:32632 at 10 m -> EPSG:32632 at 10 m, as stored, values -1, read as dB" in said
    assert "look: s2 is not given, and the model reads it too" in said
    predict(model_for(), data_for(scene), out=str(tmp_path / "map.tif"))
    said = capsys.readouterr().out
    assert "s2: B01 B02" in said
    assert "look:" not in said


class Stumbles(Maps):
    """Fails in the middle of the scene."""

    def on_predict_batch_end(self, *arguments: Any) -> None:
        super().on_predict_batch_end(*arguments)
        if self.blender.top > 0:
            raise MapexError("stumbled")


def test_a_failure_leaves_nothing_behind(scene: dict[str, list[str]], tmp_path: Path) -> None:
    before, data, model = set(tmp_path.iterdir()), data_for(scene), model_for()
    made = maps_of(model, data, Outputs(out=str(tmp_path / "map.tif")))
    maps = Stumbles(made.windows, made.bands, made.products)
    with pytest.raises(MapexError, match="stumbled"):
        trainer_of(callbacks=[maps]).predict(model, datamodule=data, return_predictions=False)
    assert set(tmp_path.iterdir()) == before


def test_what_a_killed_process_has_left_of_a_map_is_swept(scene: dict[str, list[str]], tmp_path: Path) -> None:
    before, stray = set(tmp_path.iterdir()), temporary(tmp_path / "map.tif", "rank0", dead())
    stray.write_bytes(b"half")
    predict(model_for(), data_for({"s1": scene["s1"]}), out=str(tmp_path / "map.tif"))
    assert set(tmp_path.iterdir()) - before == {tmp_path / "map.tif", tmp_path / "map.tif.aux.xml"}


def test_a_map_does_not_take_the_place_of_its_scene(scene: dict[str, list[str]]) -> None:
    with pytest.raises(MapexError, match=r"s1\.tif is a file of the scene"):
        maps_of(model_for(), data_for(scene), Outputs(out=scene["s1"][0]))


@pytest.mark.parametrize(
    ("outputs", "scene", "says"),
    [
        (Outputs(out="map.tif"), False, "--data.scene"),
        (Outputs(), True, "--out map.tif"),
        (Outputs(out="map.tif", embeddings="map.zarr"), True, "a map of its own"),
        (Outputs(out="map.zarr"), True, "end in .tif"),
        (Outputs(embeddings="map.png"), True, "or .zarr"),
    ],
)
def test_outputs_that_make_no_sense_are_refused(outputs: Outputs, scene: bool, says: str) -> None:
    with pytest.raises(MapexError, match=says):
        outputs.check(scene)


def cells_of(tiles: Tiles, windows: Any) -> list[list[int]]:
    found: Tensor = valid_cells(tiles, windows)
    return found[0].int().tolist()


def test_a_cell_counts_if_any_sensor_saw_any_of_it(scene: dict[str, list[str]]) -> None:
    s1, s2 = torch.full((1, 2, 16, 16), torch.nan), torch.full((1, 12, 16, 16), torch.nan)
    s1[0, 0, 15, 0] = s2[0, 3, 2, 9] = 1.0
    data = data_for(scene)
    assert cells_of(Tiles.of(s1=s1, s2=s2), data.open_scene("patch", 8)) == [[0, 1], [1, 0]]
    assert cells_of(Tiles.of(s1=s1, s2=s2), data.open_scene("window", 8)) == [[0]]
    absent = Tiles({"s1": torch.zeros_like(s1), "s2": s2}, {"s1": torch.tensor([False]), "s2": torch.tensor([True])})
    assert cells_of(absent, data.open_scene("patch", 8)) == [[0, 1], [0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [44, 16])
def test_two_processes_make_the_map_of_one(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one of them has nothing to do."""
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path, rows, 50)
    keep(model_for(), tmp_path / "model.ckpt")
    words = ["predict", "--config", "segment.yaml", "--ckpt", "model.ckpt", "--data.size", "16"]
    words += ["--data.batch_size", "4", "--data.scene", "s1=s1.tif", "s2=s2.tif", "--trainer.accelerator", "cpu"]
    assert main([*words, "--out", "one.tif", "--probabilities", "one-likely.tif"]) == 0
    words += ["--config", "ddp.yaml", "--trainer.devices", "2", "--trainer.precision", "32-true"]
    words += ["--out", "two.tif", "--probabilities", "two-likely.tif"]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "mapex_lightning", *words]
    done = subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("one.tif", "one-likely.tif"):
        one, two = (rasterio.open(tmp_path / file).read() for file in (name, name.replace("one", "two")))
        np.testing.assert_array_equal(one, two)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("settings", [{"limit_predict_batches": 1}, {"fast_dev_run": True}])
def test_part_of_a_map_is_not_passed_off_as_all_of_it(
    settings: dict[str, Any], scene: dict[str, list[str]], tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    data = data_for(scene)
    maps = maps_of(model_for(), data, Outputs(out=str(tmp_path / "map.tif")))
    with pytest.raises(MapexError, match=r"A map needs all windows of its scene"):
        trainer_of(callbacks=[maps], **settings).predict(model_for(), datamodule=data, return_predictions=False)
    assert set(tmp_path.iterdir()) == before
