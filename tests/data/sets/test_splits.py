"""Splits that follow from names."""

from __future__ import annotations

import numpy as np
import pytest

from mapex_lightning.data.sets.eurosat import CLASSES
from mapex_lightning.data.sets.splits import share_of, split_of
from mapex_lightning.data.tileset import SPLITS, Split


def test_a_share_follows_from_name_and_seed_and_is_even() -> None:
    names = [f"tile-{number}" for number in range(2000)]
    shares = np.array([share_of(name) for name in names])
    assert shares.tolist() == [share_of(name) for name in names] != [share_of(name, seed=1) for name in names]
    np.testing.assert_allclose(np.histogram(shares, bins=5, range=(0, 1))[0] / 2000, 0.2, atol=0.03)


def test_the_split_is_sixty_twenty_twenty_in_every_class() -> None:
    for name in CLASSES:
        splits = [split_of(f"{name}_{number}", seed=0) for number in range(1, 2501)]
        shares = [splits.count(split) / 2500 for split in SPLITS]
        np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.04)


def test_a_tile_stays_in_its_split_for_ever() -> None:
    assert [split_of(name, 0) for name in ("Forest_1", "River_10", "SeaLake_7", "Highway_2500")] == [
        "val", "train", "test", "val"
    ]  # fmt: skip


def test_another_seed_is_another_split() -> None:
    names = [f"Forest_{number}" for number in range(100)]
    assert [split_of(name, 0) for name in names] != [split_of(name, 1) for name in names]


@pytest.mark.parametrize("among", [("train", "val"), ("val", "test"), ("test",)])
def test_some_of_the_splits_keep_their_proportion(among: tuple[Split, ...]) -> None:
    whole = {"train": 0.6, "val": 0.2, "test": 0.2}
    splits = [split_of(f"tile-{number}", among=among) for number in range(2000)]
    for split in among:
        expected = whole[split] / sum(whole[one] for one in among)
        assert splits.count(split) / 2000 == pytest.approx(expected, abs=0.03)
