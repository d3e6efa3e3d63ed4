"""Batches out of packed stores are, bit by bit, those of the data sets that were packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from mapex_lightning.data.members import Keys, Members
from mapex_lightning.data.module import Batch, TileData
from mapex_lightning.data.packed.batches import PackedMembers, Rows, Stored, turned
from mapex_lightning.data.packed.packing import Packing, pack
from mapex_lightning.data.sampler import EpochSampler
from mapex_lightning.data.sets.packed import Packed
from mapex_lightning.data.tileset import Task, TileSet
from mapex_lightning.data.transforms import symmetry
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import Tile, Tiles
from tests.made import COLOUR, HEIGHT, OPTICAL, RADAR, SENSORS, Made
from tests.workshop import trainer_of

TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "segmentation")


def store(source: Made, out: Path) -> Packed:
    pack(Packing(source, SENSORS, out, largest=4 * 4 * source.side**2 * 4))
    return Packed(out)


def data(sets: Sequence[TileSet], modalities: Sequence[Modality] = SENSORS, size: int = 8, **settings: Any) -> TileData:
    return TileData(list(sets), list(modalities), **({"size": size, "batch_size": 4} | settings))


def batches(tiles: TileData, split: str, epoch: int = 0) -> list[Batch]:
    loader = {"train": tiles.train_dataloader, "val": tiles.val_dataloader}[split]()
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(epoch)
    return [tiles.on_after_batch_transfer(batch, 0) for batch in loader]


def bits(tensor: Tensor) -> Tensor:
    """Floating point numbers as they are in memory: NaN equals NaN, and 0 is not -0."""
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


def same(ones: Sequence[Batch], others: Sequence[Batch]) -> None:
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        tiles, target = (one, None) if isinstance(one, Tiles) else one
        found, label = (other, None) if isinstance(other, Tiles) else other
        assert tiles.names == found.names
        assert list(tiles.images) == list(found.images)
        for name in tiles.images:
            assert tiles.images[name].dtype == found.images[name].dtype == torch.float32
            assert torch.equal(bits(tiles.images[name]), bits(found.images[name]))
            assert torch.equal(tiles.present[name], found.present[name])
        assert (target is None) == (label is None)
        if target is not None:
            assert label is not None
            assert target.dtype == label.dtype
            assert torch.equal(target, label)


@pytest.mark.parametrize("modalities", [SENSORS, (OPTICAL,), (HEIGHT, COLOUR)], ids=len)
@pytest.mark.parametrize("size", [8, 4, 12], ids=["whole", "cropped", "padded"])
@pytest.mark.parametrize("task", TASKS)
def test_packed_tiles_are_the_same_in_every_epoch(
    task: Task, size: int, modalities: Sequence[Modality], tmp_path: Path
) -> None:
    source = Made(task)
    plain, fast = (data([one], modalities, size) for one in (source, store(source, tmp_path)))
    for epoch in (0, 1):
        same(batches(plain, "train", epoch), batches(fast, "train", epoch))
    same(batches(plain, "val"), batches(fast, "val"))


def test_bands_in_another_order_are_the_same_too(tmp_path: Path) -> None:
    some = Modality("some", ("B08", "B02"), 10.0, OPTICAL.unit, (0.0,) * 2, (1.0,) * 2)

    class Some(Made):
        def offers(self, modality: Modality) -> bool:
            return True

        def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
            tile = super().read(key, [OPTICAL])
            return Tile(key, {"some": tile.images["s2"][[3, 0]]}, tile.target)

        def keys(self, split: Any, modalities: Any = None) -> Sequence[str]:
            return super().keys(split, [OPTICAL])

    fast = store(Made(), tmp_path)
    same(batches(data([Some()], [some], 4), "train"), batches(data([fast], [some], 4), "train"))


def test_a_mixture_of_packed_sets_and_others_is_the_same(tmp_path: Path) -> None:
    one, two, three = Made("segmentation"), Made("segmentation", count=9, side=16), Made("segmentation", count=8)
    packed = [store(one, tmp_path / "one"), store(two, tmp_path / "two"), three]
    plain, fast = data([one, two, three]), data(packed)
    for epoch in (0, 1):
        same(batches(plain, "train", epoch), batches(fast, "train", epoch))


def test_a_mixture_with_weights_is_the_same(tmp_path: Path) -> None:
    one, two = Made("multilabel"), Made("multilabel", count=9)
    plain, fast = (data(sets, weights=[1.0, 3.0], draws=12) for sets in ([one, two], [store(one, tmp_path), two]))
    same(batches(plain, "train"), batches(fast, "train"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    fast = store(Made("segmentation"), tmp_path)
    same(batches(data([fast]), "train", 1), batches(data([fast], workers=2), "train", 1))


def test_tiles_without_labels_are_the_same(tmp_path: Path) -> None:
    source = Made(labelled=False)
    fast = store(source, tmp_path)
    with pytest.raises(MapexError, match="has no label and others have"):
        batches(data([fast]), "train")
    other = Made("segmentation")  # of another task, so that no batch is labelled
    same(batches(data([source, other]), "train"), batches(data([fast, other]), "train"))


def test_a_crop_without_a_valid_pixel_is_skipped_as_it_would_be(tmp_path: Path) -> None:
    class Holed(Made):
        def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
            tile = super().read(key, modalities)
            if key.startswith("tile 7,"):
                tile.images["s1"][:] = np.nan
            return tile

        def keys(self, split: Any, modalities: Any = None) -> Sequence[str]:
            return [f"tile {number}, Straße" for number in (1, 4, 7, 10, 13)] if split == "train" else []

    found = []
    for source in (Holed(), store(Holed(), tmp_path)):
        with pytest.warns(UserWarning, match="Tile tile 7, Straße is skipped"):
            found.append(batches(data([source], [RADAR], batch_size=5), "train"))
    same(*found)


def test_what_a_loader_hands_over_are_small_numbers(tmp_path: Path) -> None:
    (batch, *_) = data([store(Made(), tmp_path)], [OPTICAL, COLOUR]).train_dataloader()
    assert isinstance(batch, Stored)
    kinds = {name: part.pixels.dtype for name, parts in batch.images.items() for part in parts}
    assert kinds == {"s2": torch.uint16, "rgb": torch.uint8}


class Witness(LightningModule):
    """Notes what a model is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    def training_step(self, batch: Any, number: int) -> None:
        self.given.append(batch)

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:.*returned .?None.*:UserWarning")
@pytest.mark.parametrize("step", ["fit", "validate", "test", "predict"])
def test_the_trainer_gives_a_model_tiles_in_every_step(step: str, tmp_path: Path) -> None:
    source = Made("segmentation")
    given = []
    for one in (source, store(source, tmp_path)):
        witness = Witness()
        getattr(trainer_of(log_every_n_steps=1), step)(witness, datamodule=data([one]))
        given.append(witness.given)
    same(*given)


def test_examples_are_tiles_from_the_start(tmp_path: Path) -> None:
    source = Made()
    same([data([source]).examples(2)], [data([store(source, tmp_path)]).examples(2)])


def test_masks_of_different_sizes_are_refused(tmp_path: Path) -> None:
    class Coarse(Made):
        def label(self, key: str) -> Any:
            mask: Any = super().label(key)
            return mask[::2, ::2]

    one, two = Made("segmentation"), Coarse("segmentation")
    sets = [store(one, tmp_path / "one"), store(two, tmp_path / "two")]
    with pytest.raises(MapexError, match=r"has a label of shape \(4, 4\) where tile .* has \(8, 8\)|\(8, 8\) where"):
        batches(data(sets, batch_size=16), "train")


@pytest.mark.parametrize("element", range(8))
def test_tensors_are_turned_as_tiles_are(element: int) -> None:
    image = np.arange(2 * 5 * 5, dtype=np.float32).reshape(2, 5, 5)
    np.testing.assert_array_equal(
        turned(torch.from_numpy(image), element).numpy(), symmetry(Tile("", {"x": image}), element).images["x"]
    )


def test_the_code_of_invalid_pixels_is_nan_and_no_other_number_is() -> None:
    pixels = torch.tensor([[[[65535, 65534], [0, 1]]]], dtype=torch.int32).to(torch.uint16)
    batch = torch.zeros(2, 1, 2, 2)
    Rows(torch.tensor([1]), [1, 0, 0, 0, 0, 0, 0, 0], pixels, 65535).put(batch)
    assert batch[1, 0].isnan().tolist() == [[True, False], [False, False]]
    assert batch[1, 0].nan_to_num(-1).tolist() == [[-1, 65534], [0, 1]]
    assert not batch[0].any()


def test_members_beside_packed_ones_are_not_touched(tmp_path: Path) -> None:
    def never(shard: int, place: int) -> str:
        raise AssertionError((shard, place))

    packed = store(Made(), tmp_path)
    keys = packed.keys("train")
    members = Members(((Made(), Keys([5, 6], never)), (packed, keys)))
    found = PackedMembers(members, SENSORS, 80.0)
    assert found.store.tolist() == [-1] * 11 + [0] * len(keys)
    assert found.tile.tolist() == [-1] * 11 + [packed.number(key) for key in keys]
