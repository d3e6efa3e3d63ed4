"""A checkpoint as safetensors is the same checkpoint, and is refused as strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mapex_lightning.checkpoint import KEY, describe, load, read, write_safetensors
from mapex_lightning.errors import MapexError
from tests.builders import checkpoint_of, config_of, encoder_of, observe, seal, tiles_of

HEAD = {"task": "multiclass", "classes": ["dry", "water"], "pool": "mean"}


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    encoder = encoder_of(config_of((3, 0), router="conditioned", low_rank=2))
    observe(encoder, tiles_of(encoder.config, 8))
    seal(encoder, 0.8)
    return checkpoint_of(encoder, HEAD)


@pytest.fixture
def file(checkpoint: dict[str, Any], tmp_path: Path) -> Path:
    write_safetensors(checkpoint, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_what_is_read_back_is_equal_to_the_bit(checkpoint: dict[str, Any], file: Path) -> None:
    found = read(file)
    assert describe(found) == describe(checkpoint)
    assert found["state_dict"].keys() == checkpoint["state_dict"].keys()
    for name, value in checkpoint["state_dict"].items():
        assert found["state_dict"][name].dtype == value.dtype
        assert torch.equal(found["state_dict"][name], value)


def test_its_encoder_gives_the_same_features(checkpoint: dict[str, Any], file: Path) -> None:
    encoder = encoder_of(config_of((3, 0), low_rank=2))
    encoder.load_state_dict(load(file).state_dict(), strict=True)
    encoder.seal(load(file).config.allowed)
    tiles = tiles_of(encoder.config)
    assert torch.equal(load(file).pooled(tiles), encoder.pooled(tiles))


@pytest.mark.parametrize("length", [0, 4, 100, 5000])
def test_a_file_that_is_cut_off_is_refused_in_a_sentence(length: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(MapexError, match="damaged, cut off"):
        read(file)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_flipped_bit_is_refused_in_a_sentence(share: float, file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(MapexError, match="damaged"):
        read(file)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(MapexError, match="no checkpoint of mapex"):
        read(tmp_path / "other.safetensors")


@pytest.mark.parametrize("description", ["no JSON", "[1, 2]"])
def test_a_description_that_is_none_is_refused(description: str, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", {KEY: description})
    with pytest.raises(MapexError, match=r"other\.safetensors"):
        read(tmp_path / "other.safetensors")


def test_a_weight_that_was_left_out_is_missed(checkpoint: dict[str, Any], file: Path) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    state = checkpoint["state_dict"]
    save_file({name: state[name] for name in list(state)[1:]}, file, metadata)
    with pytest.raises(MapexError, match="not those of its checksum"):
        load(file)


def test_whoever_can_read_other_files_of_mine_can_read_the_weights(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode
