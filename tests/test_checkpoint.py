"""A checkpoint is read strictly and written whole or not at all."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mapex_lightning.checkpoint import (
    ENCODER,
    FORMAT,
    KEY,
    Description,
    describe,
    grow,
    load,
    load_decoder,
    load_weights,
    read,
    save,
    write,
)
from mapex_lightning.errors import MapexError
from mapex_lightning.model.decoder import Decoder, DecoderConfig
from mapex_lightning.model.encoder import Encoder
from tests.builders import checkpoint_of, config_of, encoder_of, observe, tiles_of

CONFIG = config_of()


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.proof, "the code of a checkpoint has run")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "whole.ckpt"
    save(encoder_of(CONFIG), path)
    return path


def altered(change: Callable[[dict[str, Any]], None], path: Path) -> Path:
    """A checkpoint whose plain content was changed before it was written."""
    checkpoint = checkpoint_of(encoder_of(CONFIG))
    change(checkpoint)
    write(checkpoint, path)
    return path


def older(change: Callable[[dict[str, Any]], None], path: Path) -> Path:
    """A checkpoint of a format without a checksum, as versions before have written them."""
    checkpoint = checkpoint_of(encoder_of(CONFIG))
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_an_encoder_comes_back_with_its_description_weights_and_census(tmp_path: Path) -> None:
    encoder = encoder_of(CONFIG)
    observe(encoder, tiles_of(CONFIG))
    save(encoder, tmp_path / "a.ckpt")
    found = load(tmp_path / "a.ckpt")
    assert found.config == encoder.config
    assert all(torch.equal(found.state_dict()[name], value) for name, value in encoder.state_dict().items())
    assert found.mixtures[0].census.any()


def test_an_encoder_that_comes_back_computes_the_same(file: Path) -> None:
    tiles = tiles_of(CONFIG)
    assert torch.equal(load(file)(tiles).values, encoder_of(CONFIG)(tiles).values)


def test_loading_changes_every_random_weight() -> None:
    encoder, other = encoder_of(CONFIG, seed=1), encoder_of(CONFIG, seed=2)
    drawn = [name for name, value in encoder.named_parameters() if value.std() > 0]
    assert not any(torch.equal(other.state_dict()[name], encoder.state_dict()[name]) for name in drawn)
    load_weights(other, encoder.state_dict(), "memory")
    assert all(torch.equal(other.state_dict()[name], encoder.state_dict()[name]) for name in drawn)


def test_a_loaded_encoder_is_in_evaluation_mode(file: Path) -> None:
    assert not load(file).training


def test_a_sealed_encoder_comes_back_sealed(tmp_path: Path) -> None:
    allowed = (((0,), (1,), (2,)), (), ((0, 1), (2,), (3,)))
    encoder = encoder_of(CONFIG)
    encoder.seal(allowed)
    save(encoder, tmp_path / "a.ckpt")
    found = load(tmp_path / "a.ckpt")
    assert found.config.allowed == allowed
    assert torch.equal(found.mixtures[2].router.allowed, encoder.mixtures[2].router.allowed)


def test_a_description_survives_json() -> None:
    description = Description("finetune", CONFIG, ("a", "b"), {"task": "classify", "classes": ["x"]}, {"width": 8})
    plain = json.loads(json.dumps(description.plain()))
    assert describe({KEY: plain, "state_dict": {}}) == description


def test_a_step_is_added_to_the_end_of_the_lineage() -> None:
    description = Description("pretrain", CONFIG, ("first",))
    assert description.followed_by("second") == ("first", "second")
    assert description.lineage == ("first",)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="found no file at"):
        read(tmp_path / "none.ckpt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="found a folder at"):
        read(tmp_path)


@pytest.mark.parametrize("url", ["https://example.org/a.ckpt", "ftp://example.org/a.ckpt", "s3://bucket/a.ckpt"])
def test_a_url_is_refused(url: str) -> None:
    with pytest.raises(MapexError, match=r"download .* first"):
        read(url)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99, 0.9999])
def test_a_file_that_was_cut_off_is_refused_by_name(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(MapexError, match=r"whole\.ckpt (cannot be read|is damaged)"):
        read(file)


@pytest.mark.parametrize("content", [b"no checkpoint at all", b"PK\x03\x04 not quite", bytes(4096)])
def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(MapexError, match=r"other\.ckpt"):
        read(path)


def as_torch_writes(value: object, path: Path) -> None:
    torch.save(value, path)


def as_old_torch_writes(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def as_pickle_writes(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("writer", [as_torch_writes, as_old_torch_writes, as_pickle_writes])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(
    tmp_path: Path, writer: Callable[[object, Path], None]
) -> None:
    path, proof = tmp_path / "planted.ckpt", tmp_path / "proof"
    writer({**checkpoint_of(encoder_of(CONFIG)), "extra": Planted(proof)}, path)
    with pytest.raises(MapexError, match=r"planted\.ckpt"):
        read(path)
    assert not proof.exists()


def test_the_planted_code_would_have_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Planted(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, {KEY: {"format": FORMAT}}, {KEY: 1, "state_dict": {}}, [1, 2]])
def test_a_checkpoint_of_someone_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(MapexError, match="no checkpoint of mapex"):
        read(tmp_path / "a.ckpt")


@pytest.mark.parametrize("number", [None, 0, FORMAT + 1, "1"])
def test_an_unknown_format_is_refused_with_both_numbers(tmp_path: Path, number: object) -> None:
    path = altered(lambda checkpoint: checkpoint[KEY].update(format=number), tmp_path / "a.ckpt")
    with pytest.raises(MapexError, match=rf"format {number}; this version .* reads 1 to {FORMAT}\."):
        read(path)


def as_format_1(checkpoint: dict[str, Any]) -> None:
    """What version 0.1.0 wrote before the census had probabilities."""
    checkpoint[KEY] |= {"format": 1, "head": {"task": "multiclass", "classes": ["a", "b"]}}
    for key in ("routes", "low_rank"):
        del checkpoint[KEY]["encoder"][key]
    for name, value in checkpoint["state_dict"].items():
        if name.endswith("census"):
            checkpoint["state_dict"][name] = value[:3].clone()


def test_a_file_of_format_1_is_carried_over(tmp_path: Path) -> None:
    path = older(as_format_1, tmp_path / "old.ckpt")
    encoder, new = load(path), encoder_of(CONFIG)
    assert describe(read(path)).head == {"task": "multiclass", "classes": ["a", "b"], "pool": "mean"}
    assert encoder.config == new.config
    tiles = tiles_of(CONFIG)
    assert torch.equal(encoder(tiles).values, new(tiles).values)


def test_an_encoder_grows_low_rank_experts_and_everything_else_is_loaded_strictly() -> None:
    plain, grown = encoder_of(CONFIG), encoder_of(replace(CONFIG, low_rank=2), seed=1)
    fresh = {name: value.clone() for name, value in grown.state_dict().items() if ".low_rank." in name}
    grow(grown, plain.state_dict(), "old.ckpt")
    for name, value in grown.state_dict().items():
        assert torch.equal(value, {**plain.state_dict(), **fresh}[name]), name
    assert fresh
    lacking = {name: value for name, value in plain.state_dict().items() if name != "norm.weight"}
    with pytest.raises(MapexError, match=r"old\.ckpt does not fit.*norm\.weight"):
        grow(grown, lacking, "old.ckpt")


NAME = "blocks.0.mixture.experts.inner"


def lose(checkpoint: dict[str, Any]) -> None:
    del checkpoint["state_dict"][ENCODER + NAME]


def add(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"][f"{ENCODER}{NAME}_more"] = torch.zeros(1)


def reshape(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"][ENCODER + NAME] = checkpoint["state_dict"][ENCODER + NAME][:1]


@pytest.mark.parametrize(("change", "named"), [(lose, NAME), (add, f"{NAME}_more"), (reshape, NAME)])
def test_a_file_that_was_altered_is_refused_with_the_weights_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    with pytest.raises(MapexError, match=rf"1 weights are missing, surplus or of another shape, such as {named}\."):
        load(altered(change, tmp_path / "a.ckpt"))


def test_refused_weights_leave_the_module_as_it_was() -> None:
    encoder = encoder_of(CONFIG, seed=1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = dict(encoder_of(CONFIG, seed=2).state_dict())
    del found["norm.weight"]
    with pytest.raises(MapexError, match=r"norm\.weight"):
        load_weights(encoder, found, "memory")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    write(checkpoint_of(encoder_of(CONFIG)), tmp_path / "a" / "b" / "c.ckpt")
    assert load(tmp_path / "a" / "b" / "c.ckpt").config == CONFIG


def test_a_file_in_the_place_of_the_folder_is_a_sentence(file: Path) -> None:
    with pytest.raises(MapexError, match="could not be written"):
        write({}, file / "below.ckpt")


def test_a_folder_in_the_place_of_the_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").mkdir()
    with pytest.raises(MapexError, match="could not be written"):
        write(checkpoint_of(encoder_of(CONFIG)), tmp_path / "a.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_file_can_be_overwritten_by_what_was_read_from_it(file: Path) -> None:
    checkpoint = read(file)
    write(checkpoint, file)
    tiles = tiles_of(CONFIG)
    assert torch.equal(load(file)(tiles).values, encoder_of(CONFIG)(tiles).values)


def test_a_description_determines_every_name_and_shape() -> None:
    encoder = encoder_of(CONFIG)
    anew = Encoder(describe(checkpoint_of(encoder)).encoder)
    assert {n: v.shape for n, v in anew.state_dict().items()} == {n: v.shape for n, v in encoder.state_dict().items()}


def test_a_decoder_comes_back_with_its_weights(tmp_path: Path) -> None:
    encoder, shape = encoder_of(config_of()), DecoderConfig(width=16, depth=1, heads=2)
    decoder = Decoder(encoder.config, shape)
    content = checkpoint_of(encoder)
    content["state_dict"] |= {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    content[KEY]["decoder"] = asdict(shape)
    write(content, tmp_path / "whole.ckpt")
    found = load_decoder(tmp_path / "whole.ckpt")
    assert found is not None
    assert not found.training
    for name, value in found.state_dict().items():
        assert torch.equal(value, decoder.state_dict()[name]), name


def test_a_checkpoint_without_a_decoder_has_none(file: Path) -> None:
    assert load_decoder(file) is None
