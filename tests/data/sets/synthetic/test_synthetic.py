"""The synthetic data set: determined by its seed, and worth more the more sensors one reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.tileset import SPLITS, Task
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, modalities

ALL = modalities(["s1", "s2", "rgb", "dem"])
Features = tuple[dict[str, np.ndarray], np.ndarray]


def features(source: Synthetic, keys: Sequence[str]) -> Features:
    """Per sensor the mean and the standard deviation of each band, and the labels."""
    tiles = [source.read(key, ALL) for key in keys]
    per_sensor = {
        one.name: np.array(
            [np.r_[tile.images[one.name].mean((1, 2)), tile.images[one.name].std((1, 2))] for tile in tiles]
        )
        for one in ALL
    }
    return per_sensor, np.array([tile.target for tile in tiles])


@pytest.fixture(scope="module")
def train() -> Features:
    source = Synthetic(train=900, missing=0.0)
    return features(source, source.keys("train"))


@pytest.fixture(scope="module")
def test() -> Features:
    source = Synthetic(test=500, missing=0.0)
    return features(source, source.keys("test"))


def accuracy(train: Features, test: Features, *sensors: str, only: Sequence[int] = range(10)) -> float:
    """Of a linear discriminant on plain statistics, among some of the classes."""
    (seen, answers), (asked, truth) = train, test
    learnt, examined = np.isin(answers, only), np.isin(truth, only)
    model = LinearDiscriminantAnalysis().fit(np.hstack([seen[s] for s in sensors])[learnt], answers[learnt])
    return float(model.score(np.hstack([asked[s] for s in sensors])[examined], truth[examined]))


def pair(*names: str) -> list[int]:
    return [Synthetic().classes.index(name) for name in names]


def test_fusion_beats_optical_which_beats_true_colour(train: Features, test: Features) -> None:
    true_colour, optical = accuracy(train, test, "rgb"), accuracy(train, test, "s2")
    fused = accuracy(train, test, "s1", "s2")
    assert true_colour + 0.1 < optical < fused - 0.1


def test_it_is_worth_learning_and_not_solved_by_plain_statistics(train: Features, test: Features) -> None:
    assert 0.8 < accuracy(train, test, "s1", "s2", "rgb", "dem") < 0.96


@pytest.mark.parametrize("names", [("forest", "flooded forest"), ("settlement", "gravel")])
def test_radar_alone_separates_its_pairs(names: tuple[str, str], train: Features, test: Features) -> None:
    assert accuracy(train, test, "s1", only=pair(*names)) > 0.85
    for blind in (("s2",), ("rgb",), ("dem",), ("s2", "rgb", "dem")):
        assert accuracy(train, test, *blind, only=pair(*names)) < 0.65


@pytest.mark.parametrize("names", [("burnt ground", "wet soil"), ("snow", "salt flat")])
def test_short_wave_infrared_alone_separates_its_pairs(names: tuple[str, str], train: Features, test: Features) -> None:
    assert accuracy(train, test, "s2", only=pair(*names)) > 0.85
    for blind in (("s1",), ("rgb",), ("dem",), ("s1", "rgb", "dem")):
        assert accuracy(train, test, *blind, only=pair(*names)) < 0.65


def test_without_its_short_wave_infrared_optical_fails_on_its_pairs(train: Features, test: Features) -> None:
    visible = [column for column in range(24) if column % 12 < 10]
    learnt, asked = (({"s2": seen["s2"][:, visible]}, labels) for seen, labels in (train, test))
    for names in (("burnt ground", "wet soil"), ("snow", "salt flat")):
        assert accuracy(learnt, asked, "s2", only=pair(*names)) < 0.65


def test_a_tile_is_a_function_of_seed_split_and_index() -> None:
    one, same = (Synthetic(train=n).read("train-000007", ALL) for n in (10, 20))
    for name in one.images:
        np.testing.assert_array_equal(one.images[name], same.images[name])
    others = [Synthetic(seed=1).read("train-000007", ALL[1:2]), Synthetic().read("val-000007", ALL[1:2])]
    assert all(not np.array_equal(one.images["s2"], other.images["s2"]) for other in others)


def test_pixels_of_a_sensor_do_not_depend_on_the_others_read() -> None:
    source = Synthetic(missing=0.0)
    together = source.read("test-000003", ALL)
    for one in ALL:
        np.testing.assert_array_equal(source.read("test-000003", [one]).images[one.name], together.images[one.name])


def test_values_are_plausible_in_their_units() -> None:
    source = Synthetic(missing=0.0, train=30)
    for key in source.keys("train"):
        images = source.read(key, ALL).images
        assert {name: image.shape for name, image in images.items()} == {
            "s1": (2, 64, 64), "s2": (12, 64, 64), "rgb": (3, 64, 64), "dem": (1, 64, 64)
        }  # fmt: skip
        assert all(image.dtype == np.float32 and np.isfinite(image).all() for image in images.values())
        assert -60 < images["s1"].min() < images["s1"].max() < 20
        assert 1 <= images["s2"].min() < images["s2"].max() < 30_000
        assert 0 <= images["rgb"].min() <= images["rgb"].max() <= 255
        assert -100 < images["dem"].min() < images["dem"].max() < 9000


def test_a_band_group_is_cut_out_of_the_same_pixels() -> None:
    tile = Synthetic(missing=0.0).read("train-000001", modalities(["s2", "s2_swir"]))
    np.testing.assert_array_equal(tile.images["s2_swir"], tile.images["s2"][[10, 11]])


def test_a_tile_keeps_at_least_one_sensor() -> None:
    source = Synthetic(missing=1.0, train=50)
    assert all(len(source.read(key, ALL).images) == 1 for key in source.keys("train"))


def test_sensors_are_missing_as_often_as_asked() -> None:
    source = Synthetic(missing=0.3, train=1500)
    shares = [len(source.keys("train", [one])) / 1500 for one in ALL]
    assert all(abs(share - 0.7) < 0.05 for share in shares)


def test_keys_for_a_sensor_are_those_that_have_it() -> None:
    source = Synthetic(missing=0.5, train=40)
    radar = ALL[:1]
    having = [key for key in source.keys("train") if source.read(key, radar).images]
    assert source.keys("train", radar) == having != list(source.keys("train"))


def test_splits_have_their_sizes_and_share_no_tile() -> None:
    source = Synthetic(train=5, val=3, test=4)
    assert [len(source.keys(split)) for split in SPLITS] == [5, 3, 4]
    assert len({key for split in SPLITS for key in source.keys(split)}) == 12


def test_the_three_tasks_label_the_same_place() -> None:
    for key in Synthetic(train=20).keys("train"):
        theme, shares, cover = (
            Synthetic(task, train=20).label(key) for task in ("multiclass", "multilabel", "segmentation")
        )
        assert isinstance(theme, int)
        assert isinstance(shares, np.ndarray)
        assert isinstance(cover, np.ndarray)
        area = np.bincount(cover.ravel(), minlength=10) / cover.size
        assert area[theme] >= 0.5 - 1 / cover.size
        np.testing.assert_array_equal(shares, area >= 0.05)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation"])
def test_the_label_alone_is_that_of_the_tile(task: Task) -> None:
    source = Synthetic(task)
    np.testing.assert_array_equal(source.label("val-000002"), source.read("val-000002", ALL).target)


def test_water_is_level() -> None:
    source = Synthetic("segmentation", missing=0.0, train=60)
    for key in source.keys("train"):
        tile = source.read(key, ALL)
        wet = np.asarray(tile.target) == source.classes.index("water")
        if wet.any():
            assert np.ptp(tile.images["dem"][0][wet]) < 6
            assert tile.images["dem"][0][wet].mean() <= tile.images["dem"][0].mean() + 0.5


def test_what_it_cannot_give_is_refused() -> None:
    with pytest.raises(MapexError, match="Synthetic cannot give modality landsat"):
        Synthetic().read("train-000000", [MODALITIES["landsat"]])
    with pytest.raises(MapexError, match="at 20 m"):
        Synthetic().keys("train", [replace(MODALITIES["s2"], gsd=20.0)])


@pytest.mark.parametrize("key", ["train-2000", "dev-000000", "train-x", ""])
def test_an_unknown_tile_is_refused(key: str) -> None:
    with pytest.raises(MapexError, match="no tile"):
        Synthetic().label(key)


@pytest.mark.parametrize(
    "construct",
    [
        lambda: Synthetic(train=-1),
        lambda: Synthetic(size=4),
        lambda: Synthetic(missing=1.5),
        lambda: Synthetic(seed=-1),
    ],
    ids=["train", "size", "missing", "seed"],
)
def test_arguments_out_of_range_are_refused(construct: Callable[[], Synthetic]) -> None:
    with pytest.raises(MapexError, match="Synthetic needs train, val, test and seed of 0 or more"):
        construct()
