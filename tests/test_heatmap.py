"""Heat maps show what the numbers say: shares as shades, and kept experts in an outline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mapex_lightning.heatmap import (
    CELL,
    EDGE,
    HEAD,
    OUTLINE,
    HeatMap,
    Picture,
    change_in_words,
    draw,
    of_changes,
    of_shares,
    share_in_words,
    write_png,
)

WHITE, DARK = (255, 255, 255), (8, 48, 107)


def shown(rows: list[list[float]], kept: list[int] | None = None) -> HeatMap:
    """Shares, under a title that is narrower than the cells."""
    return of_shares("t", [f"m{row}" for row in range(len(rows))], torch.tensor(rows), kept)


def corner(picture: Picture, modality: int, expert: int, experts: int) -> tuple[int, ...]:
    """The colour of a cell of the first heat map, in a corner that text and outline leave free."""
    left = picture.shape[1] - EDGE - CELL * experts
    red, green, blue = picture[HEAD + CELL * modality + 5, left + CELL * expert + 5].tolist()
    return red, green, blue


def outlined(picture: Picture, expert: int, experts: int) -> bool:
    """Whether the column of an expert has its outline."""
    left = picture.shape[1] - EDGE - CELL * experts + CELL * expert
    return tuple(picture[HEAD + 20, left].tolist()) == OUTLINE


def test_a_picture_is_as_large_as_its_maps_sensors_and_experts_need() -> None:
    one, two = draw([shown([[1.0] * 3] * 4)]), draw([shown([[1.0] * 3] * 4), shown([[1.0] * 5] * 2)])
    assert one.dtype == np.uint8
    assert one.shape[0] == HEAD + 4 * CELL + EDGE
    assert two.shape == (one.shape[0] + HEAD + 2 * CELL, one.shape[1] + 2 * CELL, 3)


def test_a_long_title_fits_into_the_picture() -> None:
    short, long = (draw([of_shares(title, ["s1"], torch.ones(1, 2))]) for title in ("t", "t" * 80))
    assert long.shape[1] > short.shape[1]
    assert (long[:, -EDGE // 2 :] == 255).all()


def test_the_shade_of_a_cell_follows_its_share() -> None:
    picture = draw([shown([[0.0, 1.0, 0.0], [0.6, 0.3, 0.1]])])
    assert [corner(picture, 0, expert, 3) for expert in range(3)] == [WHITE, DARK, WHITE]
    for expert, share in enumerate([0.6, 0.3, 0.1]):
        assert corner(picture, 1, expert, 3) == pytest.approx([255 + (d - 255) * share for d in DARK], abs=1)


def test_a_sensor_without_tokens_is_a_white_row_of_nothing() -> None:
    found = shown([[0.0, 0.0], [0.5, 0.5]])
    assert found.words == (("0", "0"), ("0.50", "0.50"))
    assert corner(draw([found]), 0, 0, 2) == corner(draw([found]), 0, 1, 2) == WHITE


def test_just_the_kept_experts_are_outlined() -> None:
    picture = draw([shown([[1.0] * 8] * 3, kept=[1, 4])])
    assert [expert for expert in range(8) if outlined(picture, expert, 8)] == [1, 4]
    unsaid = draw([shown([[1.0] * 8] * 3)])
    assert not any(outlined(unsaid, expert, 8) for expert in range(8))


def test_what_is_kept_is_said_in_words_too() -> None:
    assert [shown([[1.0] * 3], kept=[1]).mark(expert) for expert in range(3)] == ["cut", "kept", "cut"]
    assert shown([[1.0] * 3]).mark(1) == ""


@pytest.mark.parametrize(
    ("share", "words"), [(0.0, "0"), (1e-9, "<.01"), (0.005, "0.01"), (0.987, "0.99"), (0.999, ">.99"), (1.0, "1.00")]
)
def test_little_is_never_shown_as_none_nor_nearly_all_as_all(share: float, words: str) -> None:
    assert share_in_words(share) == words


def test_a_change_is_as_dark_as_it_is_large_and_one_for_the_better_is_white() -> None:
    found = of_changes("t", ["s1"], torch.tensor([[0.25, 1.0, -0.5, 0.0, torch.nan]]), most=0.5)
    assert found.shades == ((0.5, 1.0, 0.0, 0.0, 0.0),)
    assert found.words == (("+25%", "+100%", "-50%", "0", "\N{EN DASH}"),)


@pytest.mark.parametrize(
    ("change", "words"), [(0.0004, "+0.0%"), (-0.0126, "-1.3%"), (0.0994, "+9.9%"), (0.126, "+13%")]
)
def test_small_changes_have_a_digit_more(change: float, words: str) -> None:
    assert change_in_words(change) == words


def test_no_heat_map_is_an_empty_picture() -> None:
    assert (draw([]) == 255).all()


def test_a_picture_is_written_as_it_is(tmp_path: Path) -> None:
    picture = draw([shown([[1.0] * 3])])
    write_png(picture, tmp_path / "new" / "experts.png")
    with Image.open(tmp_path / "new" / "experts.png") as found:
        assert np.array_equal(np.asarray(found), picture)
