"""A batch holds what was there and says what was not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from mapex_lightning.errors import MapexError
from mapex_lightning.tiles import Tile, Tiles, collate, drop_sensors
from tests.builders import HEIGHT, OPTICAL, RADAR, SENSORS

EXTENT = 160.0


def image(bands: int, side: int, value: float) -> np.ndarray:
    return np.full((bands, side, side), value, dtype=np.float32)


RADAR_ONLY = Tile("a", {"s1": image(2, 16, 1.0)})
BOTH = Tile("b", {"s1": image(2, 16, 2.0), "dem": image(1, 8, 3.0)})


def test_every_modality_of_the_batch_is_a_key() -> None:
    tiles = collate([RADAR_ONLY, BOTH], SENSORS, EXTENT)
    assert list(tiles.images) == list(tiles.present) == ["s1", "s2", "dem"]


def test_an_absent_sensor_is_zeros_and_not_present() -> None:
    tiles = collate([RADAR_ONLY, BOTH], SENSORS, EXTENT)
    assert {name: here.tolist() for name, here in tiles.present.items()} == {
        "s1": [True, True],
        "s2": [False, False],
        "dem": [False, True],
    }
    assert tiles.images["s2"].shape == (2, 3, 16, 16)
    assert not tiles.images["s2"].any()
    assert not tiles.images["dem"][0].any()


def test_pixels_arrive_in_the_row_of_their_tile() -> None:
    tiles = collate([RADAR_ONLY, BOTH], SENSORS, EXTENT)
    assert tiles.images["s1"][:, 0, 0, 0].tolist() == [1.0, 2.0]
    assert tiles.images["dem"][1].eq(3.0).all()
    assert tiles.names == ("a", "b")


def test_nodata_stays_nan() -> None:
    holed = image(2, 16, 1.0)
    holed[0, 3, 5] = np.nan
    found = collate([Tile("a", {"s1": holed})], [RADAR], EXTENT).images["s1"]
    assert found.isnan().nonzero().tolist() == [[0, 0, 3, 5]]


def test_a_sensor_that_is_not_asked_for_is_left_out() -> None:
    assert list(collate([BOTH], [HEIGHT], EXTENT).images) == ["dem"]


def test_an_image_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(MapexError, match=r"Tile b: modality dem .* \(1, 16, 16\).* found \(1, 8, 8\)"):
        collate([BOTH], [RADAR, HEIGHT.__class__(**{**HEIGHT.describe(), "gsd": 10.0})], EXTENT)


def test_a_tile_with_none_of_the_modalities_is_refused_by_name() -> None:
    with pytest.raises(MapexError, match="Tile a has none of the modalities s2, dem"):
        collate([BOTH, RADAR_ONLY], [OPTICAL, HEIGHT], EXTENT)


def test_given_images_are_all_present() -> None:
    tiles = Tiles.of(s1=torch.zeros(3, 2, 8, 8), s2=torch.zeros(3, 3, 8, 8))
    assert tiles.batch_size == 3
    assert all(here.all() and len(here) == 3 for here in tiles.present.values())


def test_batches_pass_the_default_collate_of_torch() -> None:
    single = Tiles({"s1": torch.ones(2, 8, 8)}, {"s1": torch.tensor(True)})
    batch = default_collate([single, single])
    assert isinstance(batch, Tiles)
    assert batch.images["s1"].shape == (2, 2, 8, 8)


def test_some_sensors_of_a_batch_keep_their_pixels_and_the_order_that_is_asked_for() -> None:
    tiles = collate([RADAR_ONLY, BOTH], SENSORS, EXTENT)
    found = tiles.only(["dem", "s1", "never"])
    assert list(found.images) == list(found.present) == ["dem", "s1"]
    assert found.images["dem"] is tiles.images["dem"]
    assert found.names == ("a", "b")


def test_some_rows_of_a_batch_are_those_tiles() -> None:
    tiles = collate([RADAR_ONLY, BOTH], SENSORS, EXTENT)
    found = tiles.rows(torch.tensor([1]))
    assert found.names == ("b",)
    assert found.images["dem"].eq(3.0).all()
    assert found.present["dem"].tolist() == [True]


def test_tiles_without_names_have_rows_too() -> None:
    found = Tiles.of(s1=torch.arange(3.0)[:, None, None, None]).rows(torch.tensor([2, 0]))
    assert found.images["s1"].flatten().tolist() == [2.0, 0.0]
    assert found.names == ()


@pytest.mark.parametrize(("size", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (5, [3])])
def test_parts_of_a_batch_are_all_of_it(size: int, sizes: list[int]) -> None:
    parts = Tiles.of(s1=torch.arange(3.0)[:, None, None, None]).parts(size)
    assert [part.batch_size for part in parts] == sizes
    assert [float(value) for part in parts for value in part.images["s1"]] == [0.0, 1.0, 2.0]


def test_tiles_move_to_a_device_whole() -> None:
    found = collate([RADAR_ONLY], SENSORS, EXTENT).to(torch.device("meta"))
    assert {value.device.type for part in (found.images, found.present) for value in part.values()} == {"meta"}
    assert found.names == ("a",)


def many(tiles: int = 3000) -> Tiles:
    """All sensors, but for every third tile, which has two."""
    batch = Tiles.of(**{name: torch.ones(tiles, 1, 1, 1) for name in ("s1", "s2", "dem")})
    batch.present["s1"][::3] = False
    batch.images["s1"][::3] = 0.0
    return batch


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9])
def test_dropped_sensors_are_as_if_they_had_not_been_there_and_a_tile_keeps_one(probability: float) -> None:
    tiles = many()
    found = drop_sensors(tiles, probability, torch.Generator().manual_seed(0))
    assert torch.stack(list(found.present.values())).any(0).all()
    for name, here in found.present.items():
        assert not (here & ~tiles.present[name]).any()
        assert torch.equal(found.images[name][:, 0, 0, 0], here.float())


def test_the_sensor_that_a_tile_keeps_is_one_that_sees_it() -> None:
    tiles = many()
    blind = {"s1": tiles.images["s1"].masked_fill(torch.ones((), dtype=torch.bool), torch.nan)}
    found = drop_sensors(tiles._replace(images=tiles.images | blind), 0.5, torch.Generator().manual_seed(0))
    others = torch.stack([here for name, here in tiles.present.items() if name != "s1"]).any(0)
    assert others.any()
    assert torch.equal(torch.stack([here for name, here in found.seen.items() if name != "s1"]).any(0), others)
    assert not found.present["s1"].any()


@pytest.mark.parametrize("probability", [0.3, 0.9])
def test_sensors_are_dropped_as_often_as_asked_but_for_the_last(probability: float) -> None:
    found = drop_sensors(many(), probability, torch.Generator().manual_seed(0))
    number = torch.stack(list(found.present.values())).sum(0)
    of_two, of_three = number[::3].float(), torch.cat([number[1::3], number[2::3]]).float()
    for counts, sensors in ((of_two, 2), (of_three, 3)):
        expected = sensors * (1 - probability) + probability**sensors  # where all would go, one stays
        assert counts.mean() == pytest.approx(expected, abs=0.06)


def test_the_same_seed_drops_the_same_sensors() -> None:
    one, other, third = (drop_sensors(many(), 0.5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.present["s2"], other.present["s2"])
    assert not torch.equal(one.present["s2"], third.present["s2"])
