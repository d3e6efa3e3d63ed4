"""A comparison measures what pruning changes: nothing where it is exact, and much where it is not."""

from __future__ import annotations

import time

import pytest
import torch

from mapex_lightning.comparison import RUNS, WARM_UP, Comparison, Latency, compare, in_turn
from mapex_lightning.errors import MapexError
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.tiles import Tiles
from tests.builders import RADAR, config_of, encoder_of, tiles_of


@pytest.fixture
def full() -> Encoder:
    """An encoder of three sensors."""
    return encoder_of(config_of())


def shifted(encoder: Encoder, by: float) -> Encoder:
    """The same encoder with its output moved."""
    twin = Encoder(encoder.config)
    twin.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        twin.norm.bias.add_(by)
    return twin.eval()


def test_a_model_does_not_differ_from_itself(full: Encoder) -> None:
    found = compare(full, shifted(full, 0.0), tiles_of(full.config))
    assert found.difference == 0
    assert found.cosine == pytest.approx(1, abs=1e-12)
    assert found.lowest == pytest.approx(1, abs=1e-12)
    assert found.tiles == 4


def test_the_difference_is_the_largest_over_the_size_of_the_features(full: Encoder) -> None:
    tiles = tiles_of(full.config)
    found = compare(full, shifted(full, 0.5), tiles)
    with torch.no_grad():
        size = float(full.pooled(tiles).double().square().mean().sqrt())
    assert found.difference == pytest.approx(0.5 / size, rel=1e-5)
    assert found.lowest <= found.cosine < 1


def test_both_models_see_the_kept_sensors_alone(full: Encoder) -> None:
    tiles = tiles_of(full.config)
    kept = encoder_of(config_of(sensors=(RADAR,)), seed=1)
    changed = Tiles({**tiles.images, "s2": torch.full_like(tiles.images["s2"], torch.nan)}, tiles.present)
    one, other = compare(full, kept, tiles), compare(full, kept, changed)
    assert (one.difference, one.cosine) == (other.difference, other.cosine)


def test_tiles_without_a_kept_sensor_do_not_count(full: Encoder) -> None:
    tiles = tiles_of(full.config)
    tiles.present["s1"][1:3] = False
    assert compare(full, encoder_of(config_of(sensors=(RADAR,)), seed=1), tiles).tiles == 2


def test_a_tile_that_is_nodata_throughout_does_not_count(full: Encoder) -> None:
    tiles = tiles_of(full.config)
    images = {name: image.clone() for name, image in tiles.images.items()}
    for image in images.values():
        image[0] = torch.nan
    found = compare(full, shifted(full, 0.0), tiles._replace(images=images))
    assert found.tiles == 3
    assert found.lowest == pytest.approx(1, abs=1e-12)


def test_no_tile_with_a_kept_sensor_gets_a_sentence(full: Encoder) -> None:
    kept = encoder_of(config_of(sensors=(RADAR,)))
    with pytest.raises(MapexError, match=r"None of the 4 tiles has a valid pixel of any of the kept sensors \(s1\)"):
        compare(full, kept, tiles_of(full.config).only(["dem", "s2"]))


def test_passes_are_timed_in_turn_after_a_warm_up() -> None:
    order: list[str] = []

    def passing(name: str, seconds: float) -> torch.Tensor:
        order.append(name)
        time.sleep(seconds)
        return torch.zeros(1)

    slow, fast = in_turn(lambda: passing("slow", 0.003), lambda: passing("fast", 0.0))
    assert order == ["slow", "fast"] * (RUNS + WARM_UP)
    assert len(slow) == len(fast) == RUNS
    assert Latency.of(slow).median >= 3.0
    assert Latency.of(fast).median < Latency.of(slow).median


def test_latency_is_the_median_and_the_quartiles_in_milliseconds() -> None:
    assert Latency.of([0.005, 0.001, 0.002, 0.004, 0.003]) == Latency(3.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("pruned", "words"),
    [
        (Latency(5.0, 4.0, 7.0), "-50.0%"),
        (Latency(5.0, 4.0, 9.5), "-50.0%, within the spread"),
        (Latency(15.0, 14.0, 16.0), "+50.0%"),
        (Latency(10.0, 9.0, 11.0), "+0.0%, within the spread"),
    ],
)
def test_a_change_of_latency_that_the_spread_can_explain_is_called_so(pruned: Latency, words: str) -> None:
    assert Comparison(1, 0.0, 1.0, 1.0, Latency(10.0, 9.0, 11.0), pruned, "CPU").change == words


def test_the_words_and_the_plain_types_hold_the_same_figures(full: Encoder) -> None:
    found = compare(full, shifted(full, 0.5), tiles_of(full.config))
    assert f"{found.difference:.1e}" in found.table()
    assert f"{found.full.median:.1f} -> {found.pruned.median:.1f} ms" in found.table()
    assert found.plain()["pruned"]["median"] == found.pruned.median
