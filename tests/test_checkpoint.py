"""A checkpoint is read strictly and written whole or not at all."""

from __future__ import annotations

import json
import pickle
import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
import torch

from mapex_lightning.__main__ import main
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
from mapex_lightning.checkpoint.checksum import ChecksumWriter
from mapex_lightning.errors import MapexError
from mapex_lightning.model.decoder import Decoder, DecoderConfig
from mapex_lightning.model.encoder import Encoder
from tests.builders import checkpoint_of, config_of, encoder_of, observe, tiles_of
from tests.disks import disk, fill, make_read_only
from tests.kills import kill, toll_of

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


def flipped(content: bytes, place: int, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[place] ^= 1 << bit
    return bytes(damaged)


def test_a_file_that_was_cut_or_flipped_anywhere_is_refused_in_one_sentence(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, chance = file.read_bytes(), random.Random(0)
    places = [chance.randrange(len(content)) for _ in range(50)]
    damages = [content[:place] for place in places] + [flipped(content, p, chance.randrange(8)) for p in places]
    refused = 0
    for damage in damages:
        file.write_bytes(damage)
        assert main(["info", str(file)]) == 2
        printed = capsys.readouterr()
        assert not printed.out
        refused += len(printed.err.splitlines()) == 1 and printed.err.startswith(f"mapex: {file} ")
    assert refused == len(damages) == 100


@pytest.mark.parametrize("place", range(-77, 0))
def test_a_bit_that_flips_in_the_checksum_is_found(file: Path, place: int) -> None:
    file.write_bytes(flipped(file.read_bytes(), place, -place % 8))
    with pytest.raises(MapexError, match=r"whole\.ckpt is damaged: (its bytes do not give|it has lost) the checksum"):
        read(file)


@pytest.mark.parametrize("seed", range(20))
def test_an_older_file_that_was_scribbled_over_is_read_or_refused_by_name(tmp_path: Path, seed: int) -> None:
    path, chance = older(as_format_2, tmp_path / "old.ckpt"), random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(200):
        content[chance.randrange(4096)] = chance.randrange(256)  # the pickle, and headers
    path.write_bytes(content)
    with warnings.catch_warnings(action="ignore"), suppress(MapexError):
        read(path)


def test_a_file_that_says_it_has_a_checksum_and_has_none_is_refused(tmp_path: Path) -> None:
    path = older(lambda checkpoint: None, tmp_path / "new.ckpt")
    with pytest.raises(MapexError, match=r"new\.ckpt is damaged: it has lost the checksum at its end"):
        read(path)


def test_a_checksum_does_not_make_a_file_that_would_run_code_a_safe_one(tmp_path: Path) -> None:
    path, trap = tmp_path / "planted.ckpt", tmp_path / "proof"
    with path.open("wb") as opened:
        writer = ChecksumWriter(opened)
        torch.save({**checkpoint_of(encoder_of(CONFIG)), "extra": Planted(trap)}, cast("BinaryIO", writer))
        writer.finish()
    with pytest.raises(MapexError, match=r"planted\.ckpt is refused: it is not a checkpoint of plain weights"):
        read(path)
    assert not trap.exists()


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


def as_format_2(checkpoint: dict[str, Any]) -> None:
    """What was written before files had a checksum."""
    checkpoint[KEY]["format"] = 2


def test_a_file_of_format_2_is_carried_over(tmp_path: Path) -> None:
    path = older(as_format_2, tmp_path / "old.ckpt")
    assert read(path)[KEY]["format"] == FORMAT
    tiles = tiles_of(CONFIG)
    assert torch.equal(load(path)(tiles).values, encoder_of(CONFIG)(tiles).values)


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


def test_what_could_not_be_read_back_does_not_take_the_place_of_the_old_file(file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(MapexError, match=r"would not load again, so the old file stays: .*whole\.ckpt is refused"):
        write({**checkpoint_of(encoder_of(CONFIG)), "extra": Planted(tmp_path / "proof")}, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["whole.ckpt"]


def test_a_disk_that_does_not_keep_what_is_written_is_found_before_the_old_file_goes(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def rot(path: Path) -> None:
        path.write_bytes(flipped(path.read_bytes(), 1000, 3))

    monkeypatch.setattr("mapex_lightning.files._sync", rot)
    with pytest.raises(MapexError, match=r"so the old file stays: .*whole\.ckpt is damaged"):
        write(checkpoint_of(encoder_of(CONFIG, seed=1)), file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("width", [16, 128])
def test_the_room_that_a_checkpoint_asks_for_is_what_it_takes(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(config_of(width=width))
    content = checkpoint_of(encoder)
    content["again"] = [content["state_dict"], {"tied": (encoder.norm.weight,)}]
    asked: list[int] = []
    monkeypatch.setattr("mapex_lightning.files._check_room", lambda path, room: asked.append(room))
    write(content, tmp_path / "a.ckpt")
    taken = (tmp_path / "a.ckpt").stat().st_size
    assert taken <= asked[0] <= taken + 200_000


BIG = {"big": torch.zeros(2_000_000)}
"""8 MB."""


def test_a_full_disk_leaves_the_old_file_and_says_how_much_is_lacking(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as place:
        save(encoder_of(CONFIG), place / "a.ckpt")
        before = (place / "a.ckpt").read_bytes()
        fill(place, leave=3_000_000)
        with pytest.raises(MapexError, match=r"a\.ckpt needs 8\.\d MB, and 3\.0 MB are free in .*disk; what was there"):
            write({**checkpoint_of(encoder_of(CONFIG)), **BIG}, place / "a.ckpt")
        assert {path.name for path in place.iterdir()} == {"a.ckpt", "filler"}
        assert (place / "a.ckpt").read_bytes() == before


def test_a_disk_that_fills_up_meanwhile_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapex_lightning.files._check_room", lambda path, room: None)
    with disk(tmp_path / "disk") as place:
        save(encoder_of(CONFIG), place / "a.ckpt")
        before = (place / "a.ckpt").read_bytes()
        fill(place, leave=3_000_000)
        with pytest.raises(MapexError, match=r"a\.ckpt could not be written \(.*No space left.*untouched"):
            write({**checkpoint_of(encoder_of(CONFIG)), **BIG}, place / "a.ckpt")
        assert {path.name for path in place.iterdir()} == {"a.ckpt", "filler"}
        assert (place / "a.ckpt").read_bytes() == before


def test_a_read_only_disk_leaves_the_old_file(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as place:
        save(encoder_of(CONFIG), place / "a.ckpt")
        before = (place / "a.ckpt").read_bytes()
        make_read_only(place)
        with pytest.raises(MapexError, match=r"a\.ckpt could not be written \(.*Read-only file system.*untouched"):
            save(encoder_of(CONFIG, seed=1), place / "a.ckpt")
        assert (place / "a.ckpt").read_bytes() == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_is_killed_while_it_saves_loses_nothing(tmp_path: Path) -> None:
    toll = kill(tmp_path, 8, "ours")
    assert (toll.kills, toll.unreadable, toll.lost, toll.strays) == (8, 0, 0, 0)
    assert toll.midway > 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_loss_would_be_seen(tmp_path: Path) -> None:
    assert kill(tmp_path, 8, "in place").unreadable > 0


@pytest.mark.slow
@pytest.mark.parametrize("temporary", [None, "/dev/shm"])
def test_two_hundred_kills_lose_nothing_wherever_temporary_files_go(tmp_path: Path, temporary: str | None) -> None:
    if temporary and (not Path(temporary).is_dir() or Path(temporary).stat().st_dev == tmp_path.stat().st_dev):
        pytest.skip(f"{temporary} is no file system of its own")
    toll = toll_of(tmp_path, 200, temporary=temporary)
    print(f"TMPDIR {temporary}: {toll}")
    assert (toll.kills, toll.unreadable, toll.lost, toll.strays) == (200, 0, 0, 0)
    assert toll.midway > 0


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
