"""What the encoder may see: a view of the sensors, a share of its tokens, and every tile once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mapex_lightning.model.masking import buckets, draw_view, draw_visible, see
from mapex_lightning.model.tokens import Tokens
from tests.builders import steady


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens_of(tiles: int, counts: tuple[int, ...], seed: int = 0) -> Tokens:
    """Tokens of as many sensors as there are counts; some are nodata."""
    modality = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    draw = torch.rand(tiles, len(modality), generator=generator(seed))
    return Tokens(
        values=torch.arange(tiles * len(modality), dtype=torch.float32).view(tiles, -1, 1),
        modality=modality.expand(tiles, -1),
        place=torch.zeros(tiles, len(modality), 2),
        present=draw < 0.8,
    )


presence = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=8).map(torch.tensor)
seeds = st.integers(0, 99)


@steady
@given(presence, seeds)
def test_a_view_is_a_non_empty_subset_of_what_is_present(present: Tensor, seed: int) -> None:
    view = draw_view(present, generator(seed))
    assert not (view & ~present).any()
    assert torch.equal(view.any(1), present.any(1))


def test_half_the_views_are_one_sensor_alone_and_half_are_of_any_size() -> None:
    view = draw_view(torch.ones(20_000, 4, dtype=torch.bool), generator())
    share = view.sum(1).bincount(minlength=5) / len(view)
    torch.testing.assert_close(share, torch.tensor([0, 0.625, 0.125, 0.125, 0.125]), atol=0.02, rtol=0)


def test_all_sensors_are_seen_equally_often() -> None:
    view = draw_view(torch.ones(20_000, 4, dtype=torch.bool), generator())
    share = view.float().mean(0)
    torch.testing.assert_close(share, share.mean().expand(4), atol=0.02, rtol=0)


@steady
@given(st.integers(1, 6), st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3)), st.floats(0, 1), seeds)
def test_the_share_of_the_views_tokens_is_visible_and_at_least_one(
    tiles: int, counts: tuple[int, ...], ratio: float, seed: int
) -> None:
    tokens = tokens_of(tiles, counts, seed)
    view = torch.rand(tiles, 3, generator=generator(seed)) < 0.6
    visible = draw_visible(tokens, view, ratio, generator(seed))
    candidates = tokens.present & view.gather(1, tokens.modality)
    assert not (visible & ~candidates).any()
    for found, of in zip(visible.sum(1).tolist(), candidates.sum(1), strict=True):
        assert found == min(int(of), max(1, round(float(of * ratio))))


def test_all_tokens_are_visible_at_a_share_of_one() -> None:
    tokens = tokens_of(4, (9, 9))
    assert torch.equal(draw_visible(tokens, torch.ones(4, 2, dtype=torch.bool), 1.0, generator()), tokens.present)


def test_visible_tokens_are_shared_out_over_sensors_by_any_share_alike() -> None:
    tokens = tokens_of(4000, (40, 40))._replace(present=torch.ones(4000, 80, dtype=torch.bool))
    visible = draw_visible(tokens, torch.ones(4000, 2, dtype=torch.bool), 0.25, generator())
    first = visible[:, :40].sum(1).float() / 20
    histogram = first.histc(4, 0, 1) / 4000  # Dirichlet(1) of two is uniform
    torch.testing.assert_close(histogram, torch.full((4,), 0.25), atol=0.03, rtol=0)


def test_a_sensors_visible_tokens_are_anywhere() -> None:
    tokens = tokens_of(4000, (8,))._replace(present=torch.ones(4000, 8, dtype=torch.bool))
    visible = draw_visible(tokens, torch.ones(4000, 1, dtype=torch.bool), 0.25, generator())
    torch.testing.assert_close(visible.float().mean(0), torch.full((8,), 0.25), atol=0.03, rtol=0)


def test_draws_are_a_function_of_the_generator() -> None:
    tokens, present = tokens_of(50, (9, 9)), torch.ones(50, 2, dtype=torch.bool)
    views = [draw_view(present, generator(seed)) for seed in (1, 1, 2)]
    masks = [draw_visible(tokens, present, 0.25, generator(seed)) for seed in (1, 1, 2)]
    for first, again, other in (views, masks):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw_visible(tokens_of(2, (4, 4)), draw_view(torch.ones(2, 2, dtype=torch.bool), generator()), 0.5, generator())
    assert torch.equal(torch.get_rng_state(), before)


@steady
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9), seeds)
def test_buckets_hold_every_tile_and_every_visible_token_once(tiles: int, most: int, count: int, seed: int) -> None:
    visible = torch.rand(tiles, count, generator=generator(seed)) < 0.5
    found = buckets(visible, most)
    assert len(found) <= most
    rows = torch.cat([torch.zeros(0, dtype=torch.int64), *(bucket.rows for bucket in found)])
    assert rows.sort().values.tolist() == visible.any(1).nonzero()[:, 0].tolist()
    again = torch.zeros_like(visible)
    for bucket in found:
        assert bucket.real.sum(1).max() == bucket.seen.shape[1]
        for tile, seen, real in zip(bucket.rows, bucket.seen, bucket.real, strict=True):
            assert len(seen.unique()) == len(seen)
            again[tile, seen[real]] = True
    assert torch.equal(again, visible)


def test_tiles_of_few_lengths_are_not_padded() -> None:
    visible = torch.arange(9) < torch.tensor([2, 5, 2, 9, 5, 1])[:, None]
    assert all(bucket.real.all() for bucket in buckets(visible, 4))


@pytest.mark.parametrize("most", [1, 3])
def test_what_is_seen_are_the_visible_tokens(most: int) -> None:
    tokens = tokens_of(8, (5, 5))
    visible = draw_visible(tokens, draw_view(torch.ones(8, 2, dtype=torch.bool), generator()), 0.4, generator())
    for bucket in buckets(visible, most):
        seen = see(tokens, bucket)
        for tile, values, present in zip(bucket.rows, seen.values, seen.present, strict=True):
            assert torch.equal(values[present].flatten(), tokens.values[tile, visible[tile]].flatten())
