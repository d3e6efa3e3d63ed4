"""TileData: batches out of one data set or several, and what happens to tiles that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor
from torch.utils.data import DataLoader

from mapex_lightning.data import raster
from mapex_lightning.data.cuts import BadTileWarning
from mapex_lightning.data.module import TileData
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sampler import EpochSampler
from mapex_lightning.data.scenes.scene import Reading
from mapex_lightning.data.sets.eurosat import EuroSAT
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.sets.packed import Packed
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.tileset import DATA, Split, TileSet
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality, modalities
from mapex_lightning.tiles import IGNORED, Tile, Tiles
from tests.small import PLACE, folder, world
from tests.workshop import trainer_of

S1, S2, DEM = modalities(["s1", "s2", "dem"])


def data(sets: Sequence[TileSet], names: Sequence[str | Modality] = ("s1",), **settings: Any) -> TileData:
    return TileData(list(sets), list(names), **({"size": 8, "batch_size": 2} | settings))


def unlabelled(batches: DataLoader[Tile], epoch: int = 0) -> Iterator[Tiles]:
    """The tiles of every batch of an epoch, with or without labels."""
    assert isinstance(batches.sampler, EpochSampler)
    batches.sampler.set_epoch(epoch)
    for batch in batches:
        yield batch if isinstance(batch, Tiles) else batch[0]


def names(batches: DataLoader[Tile], epoch: int = 0) -> list[str]:
    return [name for tiles in unlabelled(batches, epoch) for name in tiles.names]


def pixels(batches: DataLoader[Tile], epoch: int = 0, sensor: str = "s2") -> np.ndarray:
    """All images of a sensor in an epoch, in order."""
    return np.concatenate([tiles.images[sensor].numpy() for tiles in unlabelled(batches, epoch)])


# Batches


def test_a_labelled_batch_is_tiles_and_targets() -> None:
    source = world()
    tiles, target = next(iter(data([source], ["s1", "s2"]).val_dataloader()))
    assert {name: image.shape for name, image in tiles.images.items()} == {"s1": (2, 2, 8, 8), "s2": (2, 12, 8, 8)}
    assert target.tolist() == [source.label("val-000000"), source.label("val-000001")]


@pytest.mark.parametrize(("task", "shape"), [("multilabel", (2, 10)), ("segmentation", (2, 8, 8))])
def test_targets_of_every_task_are_stacked(task: str, shape: tuple[int, ...]) -> None:
    _, target = next(iter(data([world(task=task)]).val_dataloader()))
    assert isinstance(target, Tensor)
    assert target.shape == shape


def test_evaluation_takes_the_centre() -> None:
    source = world(size=16)
    whole = source.read("val-000000", [S2]).images["s2"]
    np.testing.assert_array_equal(pixels(data([source], ["s2"]).val_dataloader())[0], whole[:, 4:12, 4:12])


def test_the_size_counts_pixels_of_the_finest_sensor() -> None:
    coarse = Modality("coarse", ("a",), 20.0, "one", (0.0,), (1.0,))
    assert data([world()], ["s2", coarse], size=6).extent == 60.0
    assert data([world()], [coarse], size=6).extent == 120.0


def test_pixels_that_are_nan_stay_nan_and_no_other_is(tmp_path: Path) -> None:
    source = folder(tmp_path, ["train", "train"])
    holes = np.arange(128, dtype=np.float32).reshape(2, 8, 8)
    holes[1, 2, 3] = np.nan
    raster.write(tmp_path / "t1.tif", holes, S1.bands, PLACE)
    found = np.isnan(pixels(data([source]).train_dataloader(), sensor="s1"))
    assert found.sum() == 1


def test_examples_are_spread_over_a_split_and_always_the_same() -> None:
    some, all_tiles = (data([world(val=9)]).examples(count) for count in (3, 100))
    assert all_tiles.batch_size == 9
    assert some.names == all_tiles.names[::3]
    assert torch.equal(some.images["s1"], data([world(val=9)]).examples(3).images["s1"])


def test_examples_come_from_every_set() -> None:
    found = data([world(val=6), world(val=2, seed=1)]).examples(4)
    assert torch.equal(found.images["s1"][3], data([world(val=2, seed=1)]).examples(1).images["s1"][0])


def test_prediction_goes_once_through_the_split_asked_for() -> None:
    split: Split = "val"
    assert names(data([world()], predict=split).predict_dataloader()) == [f"val-{at:06d}" for at in range(4)]
    assert names(data([world()]).predict_dataloader()) == ["test-000000", "test-000001"]


def test_a_tile_of_the_predicted_split_is_where_its_data_set_says(tmp_path: Path) -> None:
    source = folder(tmp_path, ["test"])
    found = data([world(), source]).layout("t0").place
    assert found is not None
    assert found == source.georeference("t0")
    assert data([world()]).layout("test-000000").place is None


@pytest.mark.parametrize("gsd", [2.5, 5.0, 20.0])
def test_a_tile_is_placed_in_pixels_of_what_is_read_whatever_the_resolution_of_its_mask(
    gsd: float, tmp_path: Path
) -> None:
    labelled = folder(tmp_path, ["test"], labels=["mask.tif"])
    place = PLACE._replace(transform=(gsd, 0.0, 500_000.0, 0.0, -gsd, 5_000_000.0))
    side = int(80 / gsd)
    raster.write_mask(tmp_path / "mask.tif", np.zeros((side, side), dtype=np.int64), place)
    source = Folder(labelled.manifest, "segmentation", ["x"])
    found = data([source], size=4).layout("t0").place
    assert found is not None
    assert found.transform == (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
    assert found.shape == (8, 8)


# All of a tile, and its centre


def dense(**settings: Any) -> TileData:
    source = Synthetic(task="segmentation", train=4, val=3, test=3, size=20, missing=0)
    return data([source], ["s1"], **({"batch_size": 20} | settings))


@pytest.mark.parametrize("split", ["val", "test"])
def test_where_every_pixel_has_a_class_every_pixel_of_a_tile_is_judged_once(split: Split) -> None:
    module = dense()
    loader = module.val_dataloader() if split == "val" else module.test_dataloader()
    found: dict[str, list[int]] = {}
    for tiles, target in loader:
        assert tiles.images["s1"].shape[1:] == (2, 8, 8)
        for name, mask in zip(tiles.names, target, strict=True):
            found.setdefault(name, []).extend(mask[mask != IGNORED].tolist())
    source = module.sets[0]
    for key in source.keys(split):
        assert sorted(found[key]) == sorted(np.asarray(source.label(key)).ravel().tolist())
    assert list(found) == list(source.keys(split))


def test_a_batch_has_about_as_many_parts_as_it_has_tiles_in_training() -> None:
    sizes = [[tiles.batch_size for tiles, _ in dense(batch_size=size).test_dataloader()] for size in (2, 9, 20)]
    assert sizes == [[9, 9, 9], [9, 9, 9], [18, 9]]


def test_while_a_model_is_trained_the_centre_is_judged_and_afterwards_all_of_a_tile() -> None:
    class Count(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(torch.zeros(1, 32), batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            rows.append(batch[0].batch_size)

    rows: list[int] = []
    module, model, trainer = dense(batch_size=4), Count(), trainer_of()
    trainer.fit(model, datamodule=module)
    assert rows == [3]
    trainer.validate(model, datamodule=module, verbose=False)
    assert rows == [3, 9, 9, 9]


def test_labels_of_whole_tiles_are_judged_by_the_centre() -> None:
    source = Synthetic(train=4, val=3, test=3, size=20, missing=0)
    (batch,) = data([source], batch_size=4).test_dataloader()
    assert batch[0].batch_size == 3


def test_parts_without_a_valid_pixel_are_left_out_and_a_tile_without_one_is_refused(tmp_path: Path) -> None:
    made = folder(tmp_path, ["test"], labels=["mask.tif"])
    image = np.full((2, 8, 8), np.nan, dtype=np.float32)
    image[:, :, 5] = 1.0
    raster.write(tmp_path / "t0.tif", image, S1.bands, PLACE)
    raster.write_mask(tmp_path / "mask.tif", np.zeros((8, 8), dtype=np.int64), PLACE)
    source = Folder(made.manifest, "segmentation", ["x"])
    ((tiles, _),) = data([source], size=4, batch_size=4).test_dataloader()
    assert tiles.images["s1"][:, 0, 0, 1].tolist() == [1.0, 1.0]
    assert [float(corner.x) for corner in data([source], size=4).layout("t0").corners] == [40.0, 40.0]
    raster.write(tmp_path / "t0.tif", image * np.nan, S1.bands, PLACE)
    with pytest.raises(MapexError, match="Tile t0 has no valid pixel; leave it out"):
        data([source], size=4).test_dataloader()


@pytest.mark.parametrize("size", [8, 20, 24])
def test_packed_tiles_are_judged_as_the_same_tiles_are(size: int, tmp_path: Path) -> None:
    plain = dense(size=size)
    pack(Packing(plain.sets[0], (S1,), tmp_path))
    packed = data([Packed(tmp_path)], ["s1"], size=size, batch_size=20)
    for wanted, stored in zip(plain.test_dataloader(), packed.test_dataloader(), strict=True):
        batch = packed.on_after_batch_transfer(stored, 0)
        assert not isinstance(batch, Tiles)
        tiles, target = batch
        assert tiles.names == wanted[0].names
        assert torch.equal(tiles.images["s1"].nan_to_num(), wanted[0].images["s1"].nan_to_num())
        assert torch.equal(target, wanted[1])


# Mixtures and sensors that are absent


def test_a_sensor_that_is_absent_is_zero_and_not_present(tmp_path: Path) -> None:
    radar, heights = folder(tmp_path / "a", ["val"]), folder(tmp_path / "b", ["val"], sensor="dem")
    raster.write(tmp_path / "a" / "t0.tif", np.ones((2, 8, 8), dtype=np.float32), S1.bands, PLACE)
    raster.write(tmp_path / "b" / "t0.tif", np.ones((1, 8, 8), dtype=np.float32), DEM.bands, PLACE)
    tiles, _ = next(iter(data([radar, heights], ["s1", "dem"]).val_dataloader()))
    assert {name: here.tolist() for name, here in tiles.present.items()} == {"s1": [True, False], "dem": [False, True]}
    for name, here in tiles.present.items():
        np.testing.assert_array_equal(tiles.images[name].amax((1, 2, 3)), here.float())
        np.testing.assert_array_equal(tiles.images[name].amin((1, 2, 3)), here.float())


def test_presence_is_what_each_tile_of_a_set_has() -> None:
    source = world(missing=0.5, val=12)
    tiles = next(unlabelled(data([source], ["s1", "s2"], batch_size=12).val_dataloader()))
    for row, name in enumerate(tiles.names):
        had = source.read(name, [S1, S2]).images
        assert {sensor for sensor in ("s1", "s2") if tiles.present[sensor][row]} == set(had)


def test_a_tile_without_any_of_the_sensors_is_left_out() -> None:
    source = world(missing=0.8, val=30)
    having = [key for key in source.keys("val") if source.read(key, [DEM]).images]
    assert names(data([source], ["dem"]).val_dataloader()) == having
    assert 0 < len(having) < 30


def test_a_mixture_is_every_tile_of_every_set() -> None:
    both = data([world(), world(seed=1)])
    assert [key for _, key in both.members("val")] == [f"val-{at:06d}" for at in (*range(4), *range(4))]


def test_sets_of_one_task_and_classes_stay_labelled() -> None:
    both = data([world(), world(seed=1)])
    assert (both.task, both.classes) == ("multiclass", list(world().classes))
    assert not isinstance(next(iter(both.val_dataloader())), Tiles)


@pytest.mark.parametrize("other", [world(task="segmentation"), EuroSAT()], ids=["task", "classes"])
def test_sets_of_different_labels_are_tiles_alone(other: TileSet) -> None:
    mixed = data([world(), other])
    assert (mixed.task, mixed.classes, mixed.labelled) == (None, [], False)


def test_batches_of_sets_with_different_labels_hold_no_target() -> None:
    assert isinstance(next(iter(data([world(), world(task="multilabel")]).val_dataloader())), Tiles)


def test_tiles_without_a_label_are_tiles_alone(tmp_path: Path) -> None:
    source = folder(tmp_path, ["train"] * 2, labels=["", ""])
    assert isinstance(next(iter(data([source]).train_dataloader())), Tiles)


def test_a_sensor_that_no_set_offers_is_refused() -> None:
    with pytest.raises(MapexError, match=r"No data set \(Synthetic\) offers modality landsat .*data\.modalities"):
        data([world()], ["s1", "landsat"]).train_dataloader()


def test_a_known_sensor_in_another_unit_is_refused() -> None:
    fraction = Modality("s2", S2.bands, 10.0, "reflectance", S2.mean, S2.std)
    with pytest.raises(MapexError, match=r"offers modality s2 with bands B01.* in reflectance at 10 m"):
        data([world()], [fraction]).train_dataloader()


def test_a_set_that_offers_none_of_the_sensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match=r"Folder offers none of the modalities s2; leave it out of data\.sets"):
        data([world(), folder(tmp_path, ["train"])], ["s2"]).train_dataloader()


def test_a_size_that_cuts_pixels_is_refused_with_one_that_does_not(tmp_path: Path) -> None:
    coarse = Modality("s1", S1.bands, 30.0, S1.unit, S1.mean, S1.std)
    fine = Modality("dem", DEM.bands, 20.0, DEM.unit, DEM.mean, DEM.std)
    radar = folder(tmp_path / "a", ["val"], place=None)
    heights = folder(tmp_path / "b", ["val"], sensor="dem", place=None)
    with pytest.raises(MapexError, match=r"A tile of 160 m is no whole number .* Choose a multiple of 60 m"):
        next(iter(data([radar, heights], [coarse, fine]).val_dataloader()))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(MapexError, match="The split test of Synthetic holds no tile"):
        data([world(test=0)]).test_dataloader()


# Which tiles an epoch takes


def test_an_epoch_of_training_takes_every_tile_once_in_a_new_order() -> None:
    loader = data([world(train=16)]).train_dataloader()
    first, second = names(loader, 0), names(loader, 1)
    assert sorted(first) == sorted(second) == list(world(train=16).keys("train"))
    assert first != second


def test_evaluation_takes_every_tile_once_and_in_order() -> None:
    whole = data([world(val=5)], batch_size=2)
    assert names(whole.val_dataloader(), 0) == names(whole.val_dataloader(), 3) == list(world(val=5).keys("val"))


def test_batches_of_training_are_of_equal_size_even_when_tiles_are_few() -> None:
    def sizes(tiles: int, batch: int) -> list[int]:
        loader = data([world(train=tiles)], batch_size=batch).train_dataloader()
        return [batch.batch_size for batch in unlabelled(loader)]

    assert sizes(7, 3) == [3, 3]
    assert sizes(3, 64) == [3]


def test_each_process_takes_its_own_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "world_size", 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(Trainer, "global_rank", rank)
        share = data([world(val=5)])
        share.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, barebones=True)
        shares.append(names(share.val_dataloader()))
    assert [len(share) for share in shares] == [3, 2]
    assert sorted(shares[0] + shares[1]) == list(world(val=5).keys("val"))


@pytest.mark.parametrize("stage", ["train", "val", "test", "predict"])
def test_no_process_is_left_without_a_tile(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "world_size", 3)
    source = data([world(train=2, val=2, test=2)])
    source.trainer = Trainer(logger=False, barebones=True, accelerator="cpu")
    with pytest.raises(MapexError, match="There are 2 tiles for 3 processes, and each needs one or more; use fewer"):
        getattr(source, f"{stage}_dataloader")()


def test_no_process_is_left_without_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "world_size", 3)
    source = data([world()], weights=[1.0], draws=2)
    source.trainer = Trainer(logger=False, barebones=True, accelerator="cpu")
    with pytest.raises(MapexError, match=r"2 tiles for 3 processes.*or more data\.draws"):
        source.train_dataloader()


def test_shots_are_that_many_tiles_of_every_class() -> None:
    source = world(train=300)
    labels = [source.label(key) for _, key in data([source], shots=3).members("train")]
    assert sorted(map(int, labels)) == [index for index in range(10) for _ in range(3)]


def test_shots_take_all_of_a_class_that_has_fewer(tmp_path: Path) -> None:
    source = folder(tmp_path, ["train"] * 5, labels=["a", "a", "a", "a", "b"])
    found = [key for _, key in data([source], shots=2).members("train")]
    assert len(found) == 3
    assert "t4" in found


def test_shots_are_drawn_by_the_seed_and_leave_evaluation_alone() -> None:
    source = world(train=300, val=100)
    one, same, other = (data([source], shots=2, seed=seed).members("train") for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert len(data([source], shots=2).members("val")) == 100


def test_shots_of_labels_that_are_no_single_class_are_refused() -> None:
    with pytest.raises(MapexError, match=r"data\.shots needs one class.*tile train-000000 has a multilabel label"):
        data([world(task="multilabel")], shots=1).members("train")


def test_weights_are_the_shares_of_the_sets_whatever_their_sizes(tmp_path: Path) -> None:
    many = folder(tmp_path / "many", ["train"] * 20)
    one = folder(tmp_path / "one", ["train"], labels=["y"])
    mixed = data([many, one], weights=[1.0, 3.0], draws=4000)
    members, sampler = mixed.members("train"), mixed.train_dataloader().sampler
    drawn = [members[index][0] is one for _, index in sampler]
    assert len(drawn) == 4000
    assert abs(np.mean(drawn) - 0.75) < 0.03


def test_without_draws_a_weighted_epoch_is_as_long_as_the_sets() -> None:
    assert len(names(data([world(), world(seed=1)], weights=[1.0, 3.0]).train_dataloader())) == 12


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -2.0]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(MapexError, match=r"data\.weights needs a positive number per set \(2\)"):
        data([world(), world(seed=1)], weights=weights)


def test_no_set_at_all_is_refused() -> None:
    with pytest.raises(MapexError, match=r"data\.sets is empty"):
        data([])


# Augmentation


def test_training_is_augmented_unless_told_otherwise() -> None:
    def sorted_tiles(augment: bool, epoch: int) -> np.ndarray:
        loader = data([world(size=16)], ["s2"], augment=augment).train_dataloader()
        order = np.argsort(names(loader, epoch))
        found: np.ndarray = pixels(loader, epoch)[order]
        return found

    np.testing.assert_array_equal(sorted_tiles(False, 0), sorted_tiles(False, 1))
    assert not np.array_equal(sorted_tiles(True, 0), sorted_tiles(True, 1))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_yield_what_this_one_yields_in_every_epoch() -> None:
    here, there = (data([world(size=16)], ["s2"], workers=workers).train_dataloader() for workers in (0, 2))
    for epoch in (0, 1):
        np.testing.assert_array_equal(pixels(here, epoch), pixels(there, epoch))


# Tiles that cannot be read


def test_a_bad_tile_in_training_is_named_and_another_takes_its_place(tmp_path: Path) -> None:
    source = folder(tmp_path, ["train"] * 4, damaged=[1])
    loader = data([source], most_bad=0.5).train_dataloader()
    with pytest.warns(BadTileWarning, match=r"Tile t1 is skipped: There is no raster .*t1\.tif"):
        found = names(loader)
    assert sorted(found) == ["t0", "t2", "t2", "t3"]


def test_a_bound_of_zero_allows_no_bad_tile(tmp_path: Path) -> None:
    loader = data([folder(tmp_path, ["train"] * 4, damaged=[1])], most_bad=0.0).train_dataloader()
    with pytest.raises(MapexError, match=r"There is no raster .*t1\.tif"):
        names(loader)


@pytest.mark.parametrize("split", ["val", "test", "predict"])
def test_a_bad_tile_in_evaluation_is_an_error(tmp_path: Path, split: str) -> None:
    source = folder(tmp_path, ["val", "val", "test", "test"], damaged=[1, 3])
    whole = data([source], most_bad=1.0)
    loader = {"val": whole.val_dataloader, "test": whole.test_dataloader, "predict": whole.predict_dataloader}[split]()
    with pytest.raises(MapexError, match=r"There is no raster .*t[13]\.tif"):
        names(loader)


# Where data sets look for their files


def test_the_root_takes_the_place_of_the_default_and_of_no_other(tmp_path: Path) -> None:
    default, own, table = EuroSAT(), EuroSAT(tmp_path / "own"), Folder(tmp_path / "tables" / "tiles.csv", "multiclass")
    data([default, own, table], root=str(tmp_path / "given"))
    assert [source.root.relative_to(tmp_path).name for source in (default, own, table)] == ["given", "own", "tables"]


def test_without_a_root_every_set_keeps_its_own(tmp_path: Path) -> None:
    default, own = EuroSAT(), EuroSAT(tmp_path)
    data([default, own])
    assert (default.root, own.root) == (DATA, tmp_path)


def test_making_the_module_reads_no_file(tmp_path: Path) -> None:
    absent = data([EuroSAT(tmp_path / "absent"), Folder(tmp_path / "absent.csv", "multiclass")], ["s2"])
    with pytest.raises(MapexError, match=r"absent"):
        absent.train_dataloader()


def test_a_batch_is_of_plain_tensors_and_names() -> None:
    tiles = next(unlabelled(data([world()]).val_dataloader()))
    assert {image.dtype for image in tiles.images.values()} == {torch.float32}
    assert {here.dtype for here in tiles.present.values()} == {torch.bool}
    assert tiles.names == ("val-000000", "val-000001")


def test_the_files_of_a_scene_are_read_as_the_config_says(tmp_path: Path) -> None:
    power = np.full((2, 16, 16), 0.01, dtype=np.float32)
    raster.write(tmp_path / "s1.tif", power, ["vv", "vh"], PLACE)
    reading = {"s1": Reading(bands=("VV", "VH"), decibels=True)}
    data = TileData([world()], ["s1"], size=16, overlap=0.0, scene={"s1": [str(tmp_path / "s1.tif")]}, reading=reading)
    np.testing.assert_allclose(data.open_scene("window", 8)[0].images["s1"], -20, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"size": 0}, {"batch_size": 0}, {"workers": -1}])
def test_numbers_that_make_no_batches_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MapexError, match=r"data\.batch_size are 1 or more and data\.workers is 0 or more; found"):
        data([world()], ("s1",), **settings)
