"""Cuts: one extent out of every tile, by chance that can be repeated, and what happens to tiles that cannot be used."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from mapex_lightning.data import raster
from mapex_lightning.data.cuts import BadTileWarning, Cuts
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import modalities
from tests.small import PLACE, folder, world

S1, S2, DEM = modalities(["s1", "s2", "dem"])


def test_a_mask_is_cut_and_turned_with_its_tile() -> None:
    source = world(task="segmentation", size=16, train=8)
    here = Cuts([(source, key) for key in source.keys("train")], [DEM], 80.0, True, 0.0, seed=0)
    whole = source.read("train-000003", [DEM])
    cut = here[0, 3]
    assert isinstance(whole.target, np.ndarray)
    assert isinstance(cut.target, np.ndarray)
    # Heights are all different, so each says which cover it came with.
    cover_at = dict(zip(whole.images["dem"].ravel().tolist(), whole.target.ravel().tolist(), strict=True))
    assert len(cover_at) == 16 * 16
    assert [cover_at[height] for height in cut.images["dem"].ravel().tolist()] == cut.target.ravel().tolist()


def test_augmentation_is_a_function_of_seed_epoch_and_index() -> None:
    source = world(size=16)
    members = [(source, key) for key in source.keys("train")]

    def seen(seed: int, epoch: int, index: int) -> np.ndarray:
        return Cuts(members, [S2], 80.0, True, 0.0, seed)[epoch, index].images["s2"]

    np.testing.assert_array_equal(seen(1, 2, 3), seen(1, 2, 3))
    looks = [seen(*at).tobytes() for at in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))]
    assert len(set(looks)) == 4


def test_what_was_read_before_does_not_change_a_tile() -> None:
    source = world(size=16)
    members = [(source, key) for key in source.keys("train")]
    fresh, used = (Cuts(members, [S2], 80.0, True, 0.0, 0) for _ in range(2))
    for index in range(4):
        used[0, index]
    np.testing.assert_array_equal(fresh[1, 5].images["s2"], used[1, 5].images["s2"])


def test_a_set_that_is_not_augmented_is_the_same_in_every_epoch() -> None:
    source = world(size=16)
    still = Cuts([(source, key) for key in source.keys("train")], [S2], 80.0, False, 0.0, 0)
    np.testing.assert_array_equal(still[0, 2].images["s2"], still[9, 2].images["s2"])


def test_a_bad_tile_is_skipped_whatever_makes_it_bad(tmp_path: Path) -> None:
    source = folder(tmp_path, ["train"] * 5, side=64)
    cut = tmp_path / "t1.tif"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    raster.write(tmp_path / "t2.tif", np.zeros((2, 8, 8), dtype=np.float32), ["VV", "HH"], PLACE)
    raster.write(tmp_path / "t3.tif", np.zeros((3, 8, 8), dtype=np.float32), ["", "", ""], PLACE)
    cuts = Cuts([(source, f"t{number}") for number in range(5)], [S1], 80.0, False, 0.5, 0)
    with pytest.warns(BadTileWarning) as caught:
        assert cuts[0, 1].name == "t4"
    said = [str(warning.message) for warning in caught]
    assert "t1.tif is damaged or cut short" in said[0]
    assert "no band 'VH'" in said[1]
    assert "t3.tif has 3 bands without names where 2 are expected" in said[2]


def test_too_many_bad_tiles_are_an_error_that_names_the_bound_and_the_last(tmp_path: Path) -> None:
    source = folder(tmp_path, ["train"] * 10, damaged=range(4, 10))
    cuts = Cuts([(source, f"t{number}") for number in range(10)], [S1], 80.0, False, 0.1, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(MapexError, match=r"4 of 4 tiles .* data\.most_bad=0\.1; the last: .*t7\.tif"):
            cuts[0, 4]
    assert len(caught) == 3


def test_as_many_bad_tiles_as_allowed_are_no_error(tmp_path: Path) -> None:
    source = folder(tmp_path, ["train"] * 10, damaged=[0, 2, 4, 6, 8])
    cuts = Cuts([(source, f"t{number}") for number in range(10)], [S1], 80.0, False, 0.5, 0)
    with pytest.warns(BadTileWarning):
        found = [cuts[0, index].name for index in (1, 0, 3, 2, 5, 4, 7, 6, 9, 8)]
    assert found == ["t1", "t1", "t3", "t3", "t5", "t5", "t7", "t7", "t9", "t9"]


def test_a_set_of_bad_tiles_alone_is_an_error_and_no_endless_search(tmp_path: Path) -> None:
    source = folder(tmp_path, ["train"] * 2, damaged=[0, 1])
    cuts = Cuts([(source, "t0"), (source, "t1")], [S1], 80.0, False, 1.0, 0)
    with pytest.warns(BadTileWarning), pytest.raises(MapexError, match="No tile of the data set can be read"):
        cuts[0, 0]
