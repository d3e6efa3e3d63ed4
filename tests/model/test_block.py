"""A block: absent tokens are nobody's neighbours."""

from __future__ import annotations

import pytest
import torch

from mapex_lightning.model.block import attention_mask
from tests.builders import config_of, encoder_of, tiles_of

CONFIG = config_of((3, 0))


def test_without_absent_tokens_there_is_no_mask() -> None:
    assert attention_mask(torch.ones(2, 3, dtype=torch.bool)) is None


def test_absent_tokens_are_masked_and_a_tile_without_tokens_attends_to_its_padding() -> None:
    mask = attention_mask(torch.tensor([[True, False], [False, False]]))
    assert mask is not None
    assert mask.tolist() == [[[[True, False]]], [[[True, True]]]]


@pytest.mark.parametrize("index", [0, 1])
def test_what_absent_tokens_hold_does_not_matter(index: int) -> None:
    encoder = encoder_of(CONFIG)
    tokens = encoder.patchify(tiles_of(CONFIG))
    tokens.present[1, 3:] = False
    other = tokens._replace(values=torch.where(tokens.present[..., None], tokens.values, 1e3))
    one, two = (encoder.blocks[index](t, attention_mask(t.present))[0].values[tokens.present] for t in (tokens, other))
    assert torch.equal(one, two)


def test_a_mixture_is_told_which_tokens_are_present() -> None:
    encoder = encoder_of(CONFIG)
    tokens = encoder.patchify(tiles_of(CONFIG))
    tokens.present[1, 3:] = False
    assignment = encoder.blocks[0](tokens, attention_mask(tokens.present))[1]
    assert torch.equal(assignment.modality, tokens.modality.flatten())
    assert torch.equal(assignment.present, tokens.present.flatten())


def test_a_dense_block_assigns_nothing() -> None:
    encoder = encoder_of(CONFIG)
    assert encoder.blocks[1](encoder.patchify(tiles_of(CONFIG)), None)[1] is None


def test_a_block_passes_sensor_place_and_presence_on() -> None:
    encoder = encoder_of(CONFIG)
    tokens = encoder.patchify(tiles_of(CONFIG))
    after = encoder.blocks[0](tokens, attention_mask(tokens.present))[0]
    assert not torch.equal(after.values, tokens.values)
    assert all(torch.equal(a, b) for a, b in zip(after[1:], tokens[1:], strict=True))
