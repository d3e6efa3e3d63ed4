"""What a run keeps is whole, and says what happened."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from mapex_lightning.data import raster
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.tileset import Split, Task
from mapex_lightning.data.transforms import parts
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.model.specialisation import specialisation
from mapex_lightning.tiles import IGNORED, Tile, Tiles, collate
from mapex_lightning.train.callbacks import (
    Bar,
    Pictures,
    PlainProgress,
    Predictions,
    Throughput,
    append_routing,
    write_confusion,
    write_results,
)
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.pretrain import Pretrain
from tests.abandoned import abandoned
from tests.workshop import trainer_of

CLASSES = ("forest", "meadow", "water")


def tiles_in() -> TileData:
    """Two training steps and a validation batch."""
    source = Synthetic(train=8, val=4, test=2, size=16, missing=0)
    return TileData([source], ["s1", "s2"], size=16, batch_size=4)


def lines(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_routing_is_a_line_per_block_and_time_under_one_header(tmp_path: Path) -> None:
    module, path = Pretrain("nano", ["s1", "s2"]), tmp_path / "new" / "routing.csv"
    apart = torch.tensor([[4.0, 0, 0, 0, 0, 0], [0, 2.0, 2.0, 0, 0, 0]])
    module.routing = {block: specialisation(apart) for block in module.encoder.mixtures}
    append_routing(path, module, "start")
    append_routing(path, module, "epoch001")
    header, *rows = lines(path)
    assert header == ["when", "block", "nmi", "dead", "effective_s1", "effective_s2"]
    wanted = ["1.0000", "3", "1.000", "2.000"]
    assert rows == [[when, block, *wanted] for when in ("start", "epoch001") for block in ("0", "2", "4")]


def test_pictures_and_routing_are_kept_after_validation(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path / "pictures", count=2)
    trainer_of(callbacks=[pictures]).fit(Pretrain("nano", ["s1", "s2"]), datamodule=tiles_in())
    found = {file.name: np.asarray(Image.open(file)) for file in (tmp_path / "pictures").iterdir()}
    assert set(found) == {"experts-epoch001.png", "reconstruction-epoch001.png"}
    assert found["reconstruction-epoch001.png"].shape == (18 + 2 * (14 + 100) + 20, 4 + 6 * 100, 3)
    assert [row[:2] for row in lines(tmp_path / "routing.csv")[1:]] == [["epoch001", b] for b in ("0", "2", "4")]


def tuned(task: Any) -> FineTune:
    return FineTune("nano", task, CLASSES, ["s1", "s2"])


def predicted(folder: Path, task: Task, *batches: tuple[tuple[str, ...], torch.Tensor]) -> None:
    trainer, module, writer = trainer_of(), tuned(task), Predictions(folder)
    for number, batch in enumerate(batches):
        writer.on_predict_batch_end(trainer, module, batch, None, number)
    writer.on_predict_end(trainer, module)


def test_several_labels_of_a_tile_are_joined(tmp_path: Path) -> None:
    first, second = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.25, 0.125]]), torch.tensor([[0.0, 1.0, 0.0]])
    predicted(tmp_path / "out", "multilabel", (("a", "b"), first), (("c",), second))
    assert lines(tmp_path / "out" / "predictions.csv") == [
        ["tile", "label", *CLASSES],
        ["a", "forest;water", "0.90000", "0.10000", "0.50000"],
        ["b", "", "0.20000", "0.25000", "0.12500"],
        ["c", "meadow", "0.00000", "1.00000", "0.00000"],
    ]


def test_the_one_class_of_a_tile_is_its_likeliest(tmp_path: Path) -> None:
    predicted(tmp_path, "multiclass", (("a", "b"), torch.tensor([[0.25, 0.375, 0.375 - 1e-3], [0.25, 0.25, 0.5]])))
    assert [row[:2] for row in lines(tmp_path / "predictions.csv")[1:]] == [["a", "meadow"], ["b", "water"]]


def test_a_segmentation_is_a_raster_of_the_likeliest_class_per_tile(tmp_path: Path) -> None:
    source = Synthetic(task="segmentation", train=4, val=4, test=2, size=16, missing=0)
    data = TileData([source], ["s1", "s2"], size=16, batch_size=2)
    model = FineTune("nano", data.task, data.classes, ["s1", "s2"])
    found = trainer_of(callbacks=[Predictions(tmp_path)]).predict(model, datamodule=data)
    assert found is not None
    names, probability = found[0]
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.tif" for name in names}
    for name, likely in zip(names, probability.argmax(1).numpy(), strict=True):
        assert np.array_equal(raster.read_mask(tmp_path / f"{name}.tif"), likely)


class Half(Synthetic):
    """Radar has not seen the left half of a tile, heights have not seen its upper half, and colours are missing."""

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        tile = super().read(key, modalities)
        images = {name: tile.images[name].copy() for name in ("s1", "dem")}
        images["s1"][:, :, :8] = np.nan
        images["dem"][:, :8] = np.nan
        return replace(tile, images=images)


def test_what_no_sensor_saw_of_a_tile_has_no_class(tmp_path: Path) -> None:
    source = Half(task="segmentation", train=4, val=4, test=2, size=16, missing=0)
    data = TileData([source], ["s1", "s2", "dem"], size=16, batch_size=2)
    model = FineTune("nano", data.task, data.classes, ["s1", "s2", "dem"])
    trainer_of(callbacks=[Predictions(tmp_path)]).predict(model, datamodule=data, return_predictions=False)
    unseen = np.zeros((16, 16), dtype=bool)
    unseen[:8, :8] = True
    for key in source.keys("test"):
        assert np.array_equal(raster.read_mask(tmp_path / f"{key}.tif") == IGNORED, unseen)


@pytest.mark.parametrize(("size", "earlier"), [(8, 4), (16, 12), (24, 0)])
def test_the_raster_of_a_tile_is_all_of_it_and_no_more_whatever_a_model_sees_at_once(
    size: int, earlier: int, tmp_path: Path
) -> None:
    source = Synthetic(task="segmentation", train=4, val=4, test=3, size=20, missing=0)
    data = TileData([source], ["s1", "s2"], size=size, batch_size=20)
    model = FineTune("nano", data.task, data.classes, ["s1", "s2"])
    trainer = trainer_of(callbacks=[Predictions(tmp_path)])
    trainer.predict(model, datamodule=data, return_predictions=False)
    for key in source.keys("test"):
        mask = raster.read_mask(tmp_path / f"{key}.tif")
        assert mask.shape == (20, 20)
        assert (mask != IGNORED).all()
        one = TileData([source], ["s1", "s2"], size=size).layout(key).corners[-1]
        tiles = collate([crops(source, key, data)[-1]], data.modalities, data.extent)
        with torch.no_grad():
            alone = model.eval()(tiles).argmax(1)[0].numpy()
        top, left = int(one.y / 10), int(one.x / 10)
        seen = alone[max(0, -top) :, max(0, -left) :][: 20 - max(0, top), : 20 - max(0, left)]
        fresh = slice(earlier, None)  # what earlier parts hold is theirs
        assert np.array_equal(mask[max(0, top) :, max(0, left) :][fresh, fresh], seen[fresh, fresh])


def crops(source: Synthetic, key: str, data: TileData) -> list[Tile]:
    """The parts of a tile."""
    tile = source.read(key, data.modalities)
    return [part.tile for part in parts(tile, data.modalities, data.extent)]


class Named(Synthetic):
    """A set whose tiles have ids of somebody's choice, and no labels but for some."""

    def __init__(self, ids: Sequence[str], **settings: Any) -> None:
        super().__init__(task="segmentation", train=0, val=0, test=len(ids), size=16, missing=0, **settings)
        self.ids = list(ids)

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> Sequence[str]:
        return self.ids if split == "test" else []

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        tile = super().read(f"test-{self.ids.index(key):06d}", modalities)
        return replace(tile, name=key, target=tile.target if self.ids.index(key) else None)


def predict_named(folder: Path, *sources: Named) -> None:
    data = TileData(list(sources), ["s1", "s2"], size=16, batch_size=2)
    model = FineTune("nano", data.task, data.classes, ["s1", "s2"])
    trainer_of(callbacks=[Predictions(folder)]).predict(model, datamodule=data, return_predictions=False)


def test_tiles_with_and_without_labels_are_predicted_together(tmp_path: Path) -> None:
    predict_named(tmp_path, Named(["a", "folder/b", "c..d"]))
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.tif")}
    assert files == {"a.tif", "folder/b.tif", "c..d.tif"}


def test_predictions_begin_by_sweeping_their_folder(tmp_path: Path) -> None:
    strays = [abandoned(tmp_path / "a.tif"), abandoned(tmp_path / "folder" / "b.tif")]
    predict_named(tmp_path, Named(["a", "folder/b"]))
    assert not any(stray.exists() for stray in strays)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out"])
def test_no_tile_is_written_outside_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=f"The raster of tile {name} would lie outside of .*predictions"):
        predict_named(tmp_path / "predictions", Named(["a", name]))
    assert not list(tmp_path.iterdir())


def test_no_tile_is_written_over_another_of_its_name(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="Several of the data sets have a tile b, and one raster would take the place"):
        predict_named(tmp_path, Named(["a", "b"]), Named(["b"], seed=1))
    assert not list(tmp_path.iterdir())


def test_predictions_are_not_kept_in_memory(tmp_path: Path) -> None:
    writer, trainer, model = Predictions(tmp_path), trainer_of(), tuned("segmentation")
    vars(trainer)["datamodule"] = TileData([Named(["a", "b"])], ["s1", "s2"], size=16)
    batch = Tiles.of(s1=torch.zeros(2, 2, 16, 16))
    writer.on_predict_batch_end(trainer, model, (("a", "b"), torch.rand(2, 3, 16, 16)), batch, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "b.tif"}
    assert not writer.rows


def test_results_are_plain_numbers(tmp_path: Path) -> None:
    write_results(tmp_path / "test.json", {"ckpt": "last.ckpt", "loss": torch.tensor(0.5), "share": np.float32(0.25)})
    assert json.loads((tmp_path / "test.json").read_text()) == {"ckpt": "last.ckpt", "loss": 0.5, "share": 0.25}


def test_a_confusion_matrix_has_a_row_per_label_and_a_column_per_prediction(tmp_path: Path) -> None:
    names = ('water, "deep"', "bebauung ä")
    write_confusion(tmp_path / "test-confusion.csv", names, torch.tensor([[3, 1], [0, 20_000_000]]))
    with (tmp_path / "test-confusion.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["label", *names], [names[0], "3", "1"], [names[1], "0", "20000000"]]
    assert [path.name for path in tmp_path.iterdir()] == ["test-confusion.csv"]


def test_throughput_is_measured_even_in_an_epoch_shorter_than_the_interval(capsys: pytest.CaptureFixture[str]) -> None:
    throughput = Throughput()
    progress = PlainProgress(throughput, seconds=0.0)
    trainer_of(callbacks=[throughput, progress], log_every_n_steps=50).fit(
        Pretrain("nano", ["s1", "s2"]), datamodule=tiles_in()
    )
    assert 0 < throughput.latest < 1e6
    printed = capsys.readouterr().out
    assert "epoch 1/1  step 1/2  loss " in printed
    assert f"{throughput.latest:.0f} tiles/s  waiting {100 * throughput.waiting:.0f} %" in printed
    assert "val/loss " in printed


def test_who_prints_nothing_does_not_wait_for_the_loss() -> None:
    trainer: Any = SimpleNamespace(is_global_zero=False)
    progress = PlainProgress(Throughput(), seconds=0.0)
    progress.on_train_batch_end(trainer, Pretrain("nano", ["s1"]), {"loss": "not to be looked at"}, {}, 0)


class Slow(Synthetic):
    """Reading a tile takes three ticks of a clock that only reading and training move."""

    ticks = 0.0

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        Slow.ticks += 3
        return super().read(key, modalities)


class Work(Callback):
    """A step takes four ticks, validation a thousand."""

    def on_train_batch_start(self, *_: Any) -> None:
        Slow.ticks += 4

    def on_validation_start(self, *_: Any) -> None:
        Slow.ticks += 1000


def test_waiting_is_the_share_of_time_between_steps_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapex_lightning.train.callbacks.time.monotonic", lambda: Slow.ticks)
    throughput = Throughput()
    source = Slow(train=16, val=4, test=2, size=16, missing=0)
    data = TileData([source], ["s1"], size=16, batch_size=4)
    trainer = trainer_of(callbacks=[throughput, Work()], log_every_n_steps=4, val_check_interval=4)
    trainer.fit(Pretrain("nano", ["s1"]), datamodule=data)
    assert throughput.waiting == 4 * 3 / (4 * 3 + 4)
    assert throughput.shown() == {"tiles/s": "0", "waiting": "75 %"}


def test_the_bar_shows_what_the_line_shows() -> None:
    throughput = Throughput()
    trainer = trainer_of(callbacks=[throughput], log_every_n_steps=1)
    trainer.fit(Pretrain("nano", ["s1", "s2"]), datamodule=tiles_in())
    assert Bar(throughput).get_metrics(trainer, trainer.lightning_module).items() >= throughput.shown().items()
