"""Laws of crops and symmetries: what lies together stays together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import lcm

import numpy as np
import pytest
from einops import repeat
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.data.transforms import Drawn, Layout, crop, dihedral, draws, parts, place_of, symmetry
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.tiles import IGNORED, Tile


def sensor(name: str, gsd: float) -> Modality:
    return Modality(name, ("a",), gsd, "one", (0.0,), (1.0,))


def scene(gsds: list[int], rows: int, columns: int, mask_gsd: int = 1) -> tuple[Tile, list[Modality]]:
    """Sensors of several gsds over the same ground of rows x columns blocks, each block with a value of its own."""
    block = lcm(*gsds)
    ground = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)

    def seen(gsd: int) -> np.ndarray:
        return repeat(ground, "h w -> (h a) (w b)", a=block // gsd, b=block // gsd)

    tile = Tile("t", {f"m{gsd}": seen(gsd)[None] for gsd in gsds}, seen(mask_gsd).astype(np.int64))
    return tile, [sensor(f"m{gsd}", gsd) for gsd in gsds]


def agree(tile: Tile, modalities: list[Modality], mask_gsd: int = 1) -> None:
    """All sensors and the mask show the same blocks at the same places."""
    fine = {
        one.name: repeat(tile.images[one.name][0], "h w -> (h a) (w b)", a=int(one.gsd), b=int(one.gsd))
        for one in modalities
    }
    first, *others = fine.values()
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert isinstance(tile.target, np.ndarray)
    mask = repeat(tile.target, "h w -> (h a) (w b)", a=mask_gsd, b=mask_gsd)
    np.testing.assert_array_equal(np.where(np.isnan(first), IGNORED, first), mask)


scenes = st.builds(
    scene,
    st.lists(st.sampled_from([1, 2, 3, 6]), min_size=1, max_size=3, unique=True),
    st.integers(1, 9),
    st.integers(1, 9),
)
seeds = st.one_of(st.none(), st.integers(0, 99).map(np.random.default_rng))


@given(scenes, st.integers(1, 12), seeds)
def test_sensors_stay_co_registered_under_any_crop(
    given_scene: tuple[Tile, list[Modality]], blocks: int, rng: np.random.Generator | None
) -> None:
    tile, modalities = given_scene
    extent = blocks * lcm(*(int(one.gsd) for one in modalities))
    cut = crop(tile, modalities, extent, rng)
    assert all(cut.images[one.name].shape == (1, extent / one.gsd, extent / one.gsd) for one in modalities)
    agree(cut, modalities)


@given(scenes, st.integers(0, 7))
def test_sensors_stay_co_registered_under_any_symmetry(given_scene: tuple[Tile, list[Modality]], element: int) -> None:
    tile, modalities = given_scene
    agree(symmetry(tile, element), modalities)


@given(scenes, seeds)
def test_a_crop_invents_no_value(given_scene: tuple[Tile, list[Modality]], rng: np.random.Generator | None) -> None:
    tile, modalities = given_scene
    cut = crop(tile, modalities, 12, rng)
    for name, image in cut.images.items():
        assert set(image[np.isfinite(image)]) <= set(tile.images[name].ravel())


@given(st.integers(1, 8), st.integers(8, 14))
def test_a_small_tile_is_kept_whole_in_a_frame_of_nan(side: int, extent: int) -> None:
    image = np.ones((2, side, side), dtype=np.float32)
    cut = crop(Tile("t", {"m": image}), [sensor("m", 1)], extent, None).images["m"]
    assert np.nansum(cut) == image.sum()
    assert np.isnan(cut).sum() == 2 * (extent**2 - side**2)


def test_a_tile_smaller_than_a_step_is_still_there() -> None:
    image = np.ones((1, 10, 10), dtype=np.float32)
    cut = crop(Tile("t", {"fine": image}), [sensor("fine", 1), sensor("coarse", 60)], 60, None)
    assert np.nansum(cut.images["fine"]) == 100


def test_random_crops_reach_every_place_and_no_other() -> None:
    image = np.arange(5, dtype=np.float32).reshape(1, 1, 5).repeat(5, axis=1)
    rng = np.random.default_rng(0)
    starts = {crop(Tile("t", {"m": image}), [sensor("m", 1)], 3, rng).images["m"][0, 0, 0] for _ in range(100)}
    assert starts == {0, 1, 2}


def test_without_a_generator_the_centre_is_taken() -> None:
    image = np.arange(25, dtype=np.float32).reshape(1, 5, 5)
    cut = crop(Tile("t", {"m": image}), [sensor("m", 1)], 3, None)
    np.testing.assert_array_equal(cut.images["m"], image[:, 1:4, 1:4])


@given(scenes, st.integers(1, 12))
def test_the_corner_is_where_the_centre_crop_begins(given_scene: tuple[Tile, list[Modality]], blocks: int) -> None:
    tile, modalities = given_scene
    gsd, step = modalities[0].gsd, lcm(*(int(one.gsd) for one in modalities))
    finest = min(one.gsd for one in modalities)
    found = place_of(tile, GeoReference("", (finest, 0.0, 0.0, 0.0, finest, 0.0)), modalities, blocks * step)
    x, y = found.transform[2], found.transform[5]
    whole = tile.images[modalities[0].name][0]
    cut = crop(tile, modalities, blocks * step, None).images[modalities[0].name][0]
    row, column = max(0, int(-y / gsd)), max(0, int(-x / gsd))
    assert cut[row, column] == whole[int(row + y / gsd), int(column + x / gsd)]


def test_a_mask_coarser_than_the_finest_image_follows_along() -> None:
    tile, modalities = scene([1, 6], 4, 4, mask_gsd=2)
    agree(crop(tile, modalities, 12, np.random.default_rng(1)), modalities, mask_gsd=2)


def test_labels_without_a_place_stay_as_they_are() -> None:
    hot = np.array([0, 1, 0], dtype=np.float32)
    tile = Tile("t", {"m": np.zeros((1, 4, 4), dtype=np.float32)}, hot)
    assert crop(tile, [sensor("m", 1)], 2, None).target is hot
    assert symmetry(replace(tile, target=2), 5).target == 2


@pytest.mark.parametrize("element", range(8))
def test_every_symmetry_has_an_inverse(element: int) -> None:
    tile = Tile("t", {"m": np.arange(12, dtype=np.float32).reshape(1, 3, 4)})
    inverse = (8 - element) % 4 if element < 4 else element
    np.testing.assert_array_equal(symmetry(symmetry(tile, element), inverse).images["m"], tile.images["m"])


def test_the_eight_symmetries_differ_and_are_all_drawn() -> None:
    tile = Tile("t", {"m": np.arange(9, dtype=np.float32).reshape(1, 3, 3)})
    rng = np.random.default_rng(0)
    assert len({dihedral(tile, rng).images["m"].tobytes() for _ in range(200)}) == 8


@pytest.mark.parametrize("move", [lambda t: symmetry(t, 5), lambda t: crop(t, [sensor("m", 1)], 2, None)])
def test_the_tile_given_is_never_changed(move: Callable[[Tile], Tile]) -> None:
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    moved = move(Tile("t", {"m": image})).images["m"]
    moved[:] = -1
    np.testing.assert_array_equal(image, np.arange(9).reshape(1, 3, 3))


def test_pixels_of_thirty_centimetres_add_up() -> None:
    tile = Tile("t", {"m": np.zeros((1, 100, 100), dtype=np.float32)})
    assert crop(tile, [sensor("m", 0.3)], 9.0, None).images["m"].shape == (1, 30, 30)


def test_an_extent_that_cuts_pixels_is_refused() -> None:
    tile, modalities = scene([2, 3], 4, 4)
    with pytest.raises(MapexError, match="Choose a multiple of 6 m"):
        crop(tile, modalities, 10, None)


def test_images_of_different_ground_are_refused() -> None:
    tile = Tile("t", {name: np.zeros((1, 4, 4), dtype=np.float32) for name in ("a", "b")})
    with pytest.raises(MapexError, match="same ground; found a 40 x 40 m, b 80 x 80 m"):
        crop(tile, [sensor("a", 10), sensor("b", 20)], 40, None)


def test_a_mask_that_fits_no_grid_is_refused() -> None:
    tile = Tile("t", {"a": np.zeros((1, 8, 8), dtype=np.float32)}, np.zeros((3, 3), dtype=np.int64))
    with pytest.raises(MapexError, match="does not fit 80 x 80 m cropped to 40 m"):
        crop(tile, [sensor("a", 10)], 40, None)


def test_draws_are_a_function_of_seed_epoch_and_index_alone() -> None:
    many = draws(1, 2, np.arange(100))
    np.testing.assert_array_equal(draws(1, 2, np.array([7, 99])), many[[7, 99]])
    others = [draws(*at, np.array([7])) for at in ((0, 2), (1, 3), (2, 1))]
    assert len({drawn.tobytes() for drawn in (many[7], *others)}) == 4


def test_draws_are_even_and_know_nothing_of_each_other() -> None:
    drawn = np.concatenate([draws(seed, epoch, np.arange(5000)) for seed in (0, 1) for epoch in (0, 1)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    shares = [np.histogram(column, 8, (0, 1))[0] / len(drawn) for column in drawn.T]
    assert np.abs(np.array(shares) - 1 / 8).max() < 0.01
    neighbours = np.concatenate([drawn[:-1], drawn[1:]], axis=1)
    assert np.abs(np.corrcoef(neighbours.T) - np.eye(6)).max() < 0.03


def test_numbers_drawn_beforehand_are_used_one_after_the_other() -> None:
    chance = Drawn([0.0, 0.5, 0.999])
    assert [chance.integers(8) for _ in range(3)] == [0, 4, 7]


# Parts


@given(scenes, st.integers(1, 5))
def test_parts_hold_every_pixel_of_a_mask_once_and_all_sensors_agree(
    made: tuple[Tile, list[Modality]], blocks: int
) -> None:
    tile, modalities = made
    assert isinstance(tile.target, np.ndarray)
    counted: list[int] = []
    for part in parts(tile, modalities, blocks * lcm(*(int(one.gsd) for one in modalities))):
        target = part.tile.target
        assert isinstance(target, np.ndarray)
        counted += target[target != IGNORED].tolist()
        whole = replace(part.tile, target=crop_at(tile, part.corner.y, part.corner.x, len(target)))
        agree(whole, modalities)
    assert sorted(counted) == sorted(tile.target.ravel().tolist())


def crop_at(tile: Tile, top: Fraction, left: Fraction, side: int) -> np.ndarray:
    """The mask, of pixels of a metre, that begins there."""
    assert isinstance(tile.target, np.ndarray)
    wide = np.pad(tile.target, side, constant_values=IGNORED)
    first, second = int(top) + side, int(left) + side
    return wide[first : first + side, second : second + side]


@given(scenes, st.integers(1, 5))
def test_the_masks_of_the_parts_joined_are_the_mask_of_the_tile(made: tuple[Tile, list[Modality]], blocks: int) -> None:
    tile, modalities = made
    extent = blocks * lcm(*(int(one.gsd) for one in modalities))
    masks = np.stack([np.asarray(part.tile.target) for part in parts(tile, modalities, extent)])
    np.testing.assert_array_equal(Layout.of(tile, None, modalities, extent).joined(masks), tile.target)


def test_a_part_in_which_nothing_is_valid_is_left_out_and_has_no_class() -> None:
    tile, modalities = scene([1], 4, 6)
    tile.images["m1"][:, :, :2] = np.nan
    layout = Layout.of(tile, None, modalities, 2.0)
    assert [(int(corner.y), int(corner.x)) for corner in layout.corners] == [(0, 2), (0, 4), (2, 2), (2, 4)]
    joined = layout.joined(np.ones((4, 4, 4), dtype=np.int16))
    assert joined.shape == (8, 12)
    assert (joined[:, :4] == IGNORED).all()
    assert (joined[:, 4:] == 1).all()


@given(scenes)
def test_a_tile_no_larger_than_a_part_has_one_which_is_its_centre_crop(made: tuple[Tile, list[Modality]]) -> None:
    tile, modalities = made
    extent = 9.0 * lcm(*(int(one.gsd) for one in modalities))
    (part,) = parts(tile, modalities, extent)
    wanted = crop(tile, modalities, extent, None)
    np.testing.assert_array_equal(np.asarray(part.tile.target), np.asarray(wanted.target))
    for name, image in wanted.images.items():
        np.testing.assert_array_equal(part.tile.images[name], image)
