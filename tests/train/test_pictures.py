"""Pictures show what the model saw and made of it, and another pattern where there was nothing to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.heatmap import Picture
from mapex_lightning.modality import MODALITIES
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.pictures import (
    FOOT,
    GAP,
    HEAD,
    HIDDEN,
    NAME,
    SIDE,
    display_bands,
    hatched,
    reconstructions,
    sheet,
    stretch,
)
from mapex_lightning.train.pretrain import Pretrain


def panel(picture: Picture, row: int, column: int, above: int = 0) -> Picture:
    """One picture of a sheet, with so many pixels above each row for its name."""
    top, left = HEAD + row * (above + SIDE + GAP) + above, GAP + column * (SIDE + GAP)
    return picture[top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 2)])
def test_a_sheet_is_as_large_as_its_pictures_need(columns: int, rows: int) -> None:
    pictures = [np.zeros((8, 8, 3), np.uint8)] * rows
    found = sheet([("title", pictures)] * columns)
    assert found.dtype == np.uint8
    assert found.shape == (HEAD + rows * (SIDE + GAP), GAP + columns * (SIDE + GAP), 3)


def test_a_sheet_shows_each_picture_in_its_row_and_column_whatever_its_size() -> None:
    shades = [[10, 20], [30, 40], [50, 60]]
    columns = [
        ("t", [np.full((side, side, 3), shade, np.uint8) for side, shade in zip((4, 7), s, strict=True)])
        for s in shades
    ]
    found = sheet(columns)
    for column, wanted in enumerate(shades):
        for row, shade in enumerate(wanted):
            assert (panel(found, row, column) == shade).all()


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("s2", (3, 2, 1)),
        ("s2_rgb", (0, 1, 2)),
        ("rgb", (0, 1, 2)),
        ("landsat", (2, 1, 0)),
        ("s2_rededge", (0, 1, 2)),
        ("s2_nir", (0,)),
        ("s1", (0,)),
        ("dem", (0,)),
    ],
)
def test_true_colour_is_shown_where_there_is_one(name: str, bands: tuple[int, ...]) -> None:
    assert display_bands(MODALITIES[name]) == bands


def test_one_band_is_stretched_to_grey_and_nodata_is_middle_grey() -> None:
    image = torch.linspace(-30, 10, 101)[None, None].clone()
    image[0, 0, 50] = torch.nan
    found = stretch(image, image)
    assert found.shape == (1, 101, 3)
    assert found[0, [0, 50, 100]].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    assert (np.diff(np.delete(found[0, :, 0], 50).astype(int)) >= 0).all()


def test_an_image_without_a_valid_pixel_is_grey() -> None:
    nothing = torch.full((3, 4, 4), torch.nan)
    assert (stretch(nothing, nothing) == 128).all()


@pytest.fixture(scope="module")
def model() -> Pretrain:
    """A model of three sensors with the random weights of one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Pretrain("nano", ["s1", "s2", "dem"], visible=0.5).eval()


@pytest.fixture(scope="module")
def tiles() -> Tiles:
    """Three tiles of 2 x 2 patches; the second lacks Sentinel-2."""
    source = Synthetic(train=0, val=3, test=0, size=16, missing=0)
    found = TileData([source], ["s1", "s2", "dem"], size=16).examples(3)
    found.present["s2"][1] = False
    found.images["s2"][1] = torch.nan  # whatever lies there must not be shown
    return found


@pytest.fixture(scope="module")
def shown(model: Pretrain, tiles: Tiles) -> Picture:
    """Their reconstructions."""
    return reconstructions(model.encoder, model.decoder, tiles, model.visible, torch.Generator().manual_seed(0))


def test_reconstructions_have_a_row_per_tile_and_three_columns_per_sensor(shown: Picture) -> None:
    assert shown.dtype == np.uint8
    assert shown.shape == (HEAD + 3 * (NAME + SIDE + GAP) + FOOT, GAP + 9 * (SIDE + GAP), 3)


def test_an_absent_sensor_is_hatched_and_a_present_one_is_not(shown: Picture) -> None:
    for row in range(3):
        for column in range(9):
            absent = row == 1 and 3 <= column < 6
            assert np.array_equal(panel(shown, row, column, NAME), hatched()) == absent, (row, column)


def test_hidden_patches_are_slate_and_visible_ones_are_the_image(model: Pretrain, tiles: Tiles, shown: Picture) -> None:
    found = reconstruct(model.encoder, model.decoder, tiles, model.visible, torch.Generator().manual_seed(0))
    assert found.visible.any()
    slate = np.full((SIDE // 2, SIDE // 2, 3), HIDDEN, np.uint8)
    half = SIDE // 2
    for row in range(3):
        for token, visible in enumerate(found.visible[row].tolist()):
            column, place = 3 * (token // 4), token % 4
            top, left = half * (place // 2), half * (place % 2)
            image, seen = (
                panel(shown, row, c, NAME)[top : top + half, left : left + half] for c in (column, column + 1)
            )
            if row != 1 or column != 3:  # absent
                assert np.array_equal(seen, image if visible else slate), (row, token)


def test_the_name_of_a_tile_stands_above_its_row_and_the_legend_below_all() -> None:
    pictures = [("t", [np.zeros((8, 8, 3), np.uint8)] * 2)] * 2
    found = sheet(pictures, ["one", "two"], [("absent", hatched())])
    assert not found[HEAD + NAME : HEAD + NAME + SIDE, GAP : GAP + SIDE].any()
    for row in range(2):
        top = HEAD + row * (NAME + SIDE + GAP)
        assert (found[top : top + NAME] < 128).any()
    assert np.array_equal(found[-FOOT + 2 : -FOOT + 14, GAP : GAP + 24], hatched()[:12, :24])
