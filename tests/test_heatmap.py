"""Heat maps show what the numbers say: shares as shades, and kept experts in an outline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mapex_lightning.heatmap import CELL, EDGE, HEAD, OUTLINE, Picture, heat_map, in_words, shares, write_png

WHITE, DARK = (255, 255, 255), (8, 48, 107)


def corner(picture: Picture, modality: int, expert: int, experts: int) -> tuple[int, ...]:
    """The colour of a cell of the first panel, in a corner that number and outline leave free."""
    left = picture.shape[1] - EDGE - CELL * experts
    red, green, blue = picture[HEAD + CELL * modality + 5, left + CELL * expert + 5].tolist()
    return red, green, blue


def outlined(picture: Picture, expert: int, experts: int) -> bool:
    """Whether the column of an expert has its outline."""
    left = picture.shape[1] - EDGE - CELL * experts + CELL * expert
    return tuple(picture[HEAD + 20, left].tolist()) == OUTLINE


def many(rows: list[list[float]]) -> torch.Tensor:
    """Counts, widened with experts that nobody uses so that the picture is as wide as its cells."""
    return torch.cat([torch.tensor(rows), torch.zeros(len(rows), 8 - len(rows[0]))], dim=1)


def test_a_heat_map_is_as_large_as_its_blocks_sensors_and_experts_need() -> None:
    one, found = (heat_map({b: torch.ones(3, 12) for b in blocks}, ["s1", "s2", "dem"]) for blocks in ((0,), (0, 2)))
    wider = heat_map({0: torch.ones(3, 12), 2: torch.ones(3, 14)}, ["s1", "s2", "dem"])
    assert found.dtype == np.uint8
    assert found.shape == (2 * (HEAD + 3 * CELL) + EDGE, one.shape[1], 3)
    assert wider.shape == (found.shape[0], found.shape[1] + 2 * CELL, 3)


def test_the_shade_of_a_cell_follows_the_share_of_its_sensors_tokens() -> None:
    found = heat_map({0: many([[0.0, 8.0, 0.0], [600.0, 300.0, 100.0]])}, ["s1", "s2"])
    assert [corner(found, 0, expert, 8) for expert in range(3)] == [WHITE, DARK, WHITE]
    for expert, share in enumerate([0.6, 0.3, 0.1]):
        assert corner(found, 1, expert, 8) == pytest.approx([255 + (d - 255) * share for d in DARK], abs=1)


def test_a_sensor_without_tokens_is_a_white_row() -> None:
    found = heat_map({0: many([[0.0, 0.0], [1.0, 1.0]])}, ["s1", "s2"])
    assert corner(found, 0, 0, 8) == corner(found, 0, 1, 8) == WHITE
    assert corner(found, 1, 0, 8) != WHITE


def test_just_the_kept_experts_are_outlined() -> None:
    found = heat_map({0: torch.ones(3, 8)}, ["s1", "s2", "dem"], kept={0: (1, 4)})
    assert [expert for expert in range(8) if outlined(found, expert, 8)] == [1, 4]
    unsaid = heat_map({0: torch.ones(3, 8)}, ["s1", "s2", "dem"])
    assert not any(outlined(unsaid, expert, 8) for expert in range(8))


def test_shares_add_up_to_one_where_something_was_counted() -> None:
    assert shares(torch.tensor([[3, 1], [0, 0]])).tolist() == [[0.75, 0.25], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("share", "words"), [(0.0, "0"), (1e-9, "<.01"), (0.005, "0.01"), (0.987, "0.99"), (0.999, ">.99"), (1.0, "1.00")]
)
def test_little_is_never_shown_as_none_nor_nearly_all_as_all(share: float, words: str) -> None:
    assert in_words(share) == words


def test_an_encoder_without_mixtures_has_an_empty_heat_map() -> None:
    assert heat_map({}, ["s1"]).shape[0] == EDGE


def test_a_picture_is_written_as_it_is(tmp_path: Path) -> None:
    picture = heat_map({0: torch.ones(2, 3)}, ["s1", "s2"])
    write_png(picture, tmp_path / "new" / "experts.png")
    with Image.open(tmp_path / "new" / "experts.png") as found:
        assert np.array_equal(np.asarray(found), picture)
