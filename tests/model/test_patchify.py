"""Pixels become tokens, in physical units on the one side and without any on the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mapex_lightning.errors import MapexError
from mapex_lightning.model.patchify import Patchify, grid_places, patches, standardise
from mapex_lightning.tiles import Tiles
from tests.builders import HEIGHT, OPTICAL, RADAR, config_of, encoder_of, only, tiles_of

CONFIG = config_of()


def patchify() -> Patchify:
    return encoder_of(CONFIG).patchify


def test_a_standardised_sensor_has_mean_zero_and_deviation_one() -> None:
    mean, std = (torch.tensor(v)[:, None, None] for v in (RADAR.mean, RADAR.std))
    image = torch.stack([mean - std, mean, mean + std]).expand(3, 2, 4, 4)
    found = standardise(image, RADAR)
    torch.testing.assert_close(found, torch.tensor([-1.0, 0, 1]).view(3, 1, 1, 1).expand(3, 2, 4, 4))


def test_patches_are_cut_row_by_row() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert patches(image, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_places_are_centres_in_metres_from_the_tiles_centre() -> None:
    found = grid_places(2, 3, 10.0, torch.device("cpu"))
    assert found.tolist() == [[-5, -10], [-5, 0], [-5, 10], [5, -10], [5, 0], [5, 10]]


def test_tokens_come_in_the_order_of_the_encoders_sensors_whatever_the_tiles_order() -> None:
    tiles = tiles_of(CONFIG)
    turned = only(tiles, "dem", "s2", "s1")
    for one, other in zip(patchify()(tiles), patchify()(turned), strict=True):
        assert torch.equal(one, other)
    assert patchify()(tiles).modality[0].tolist() == [0] * 4 + [1] * 4 + [2]


def test_sensors_of_different_resolution_share_one_frame() -> None:
    place = patchify()(tiles_of(CONFIG)).place[0]
    assert torch.equal(place[:4], place[4:8])
    assert place[8].tolist() == [0, 0]


def test_the_unit_of_a_sensor_does_not_matter_once_its_statistics_say_so() -> None:
    other = replace(OPTICAL, mean=tuple(m / 1e4 for m in OPTICAL.mean), std=tuple(s / 1e4 for s in OPTICAL.std))
    tiles = only(tiles_of(CONFIG), "s2")
    here = encoder_of(config_of(sensors=(OPTICAL,))).patchify(tiles)
    there = encoder_of(config_of(sensors=(other,))).patchify(Tiles.of(s2=tiles.images["s2"] / 1e4))
    torch.testing.assert_close(here.values, there.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_an_invalid_pixel_counts_as_the_mean(bad: float) -> None:
    tiles, mean = tiles_of(CONFIG), tiles_of(CONFIG)
    tiles.images["s1"][:, 1, :, :3] = bad
    mean.images["s1"][:, 1, :, :3] = RADAR.mean[1]
    assert torch.equal(patchify()(tiles).values, patchify()(mean).values)
    assert patchify()(tiles).present.all()


def test_a_patch_without_a_valid_pixel_is_an_absent_token() -> None:
    tiles = tiles_of(CONFIG)
    tiles.images["s2"][1, :, :8, 8:] = torch.nan
    absent = (~patchify()(tiles).present).nonzero()
    assert absent.tolist() == [[1, 5]]


def test_an_absent_sensors_tokens_are_absent() -> None:
    tiles = tiles_of(CONFIG)
    tiles.present["s2"][2] = False
    assert (~patchify()(tiles).present).nonzero().tolist() == [[2, 4], [2, 5], [2, 6], [2, 7]]


def test_a_sensor_that_the_encoder_does_not_read_is_refused() -> None:
    with pytest.raises(MapexError, match=r"'rgb' in this encoder.*Leave it out"):
        patchify()(Tiles.of(rgb=torch.zeros(1, 3, 16, 16)))


def test_tiles_without_any_sensor_are_refused() -> None:
    with pytest.raises(MapexError, match="The tiles are empty"):
        patchify()(Tiles({}, {}))


@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (3, 16, 16)])
def test_other_bands_are_refused_with_the_bands_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(MapexError, match="with the bands B04, B03, B08; found shape"):
        patchify().grid("s2", torch.zeros(shape))


@pytest.mark.parametrize(("rows", "columns"), [(16, 12), (4, 8), (0, 8)])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused(rows: int, columns: int) -> None:
    with pytest.raises(MapexError, match=f"found {rows} x {columns}"):
        patchify().grid("dem", torch.zeros(1, len(HEIGHT.bands), rows, columns))
