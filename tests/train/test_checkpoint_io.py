"""A run's checkpoints are whole and plain."""

from __future__ import annotations

import errno
import pickle
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import read, write
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.errors import MapexError
from mapex_lightning.train.checkpoint_io import WholeCheckpointIO
from mapex_lightning.train.pretrain import Pretrain
from tests.abandoned import abandoned
from tests.builders import checkpoint_of, config_of, encoder_of
from tests.disks import disk, fill, made_immutable
from tests.workshop import SMALL, TILES, pretrain, trainer_of


class Unsafe:
    """Anything but plain weights."""


def tiles_in() -> TileData:
    """Two training steps and a validation batch."""
    source = Synthetic(train=8, val=4, test=2, size=16, missing=0)
    return TileData([source], ["s1", "s2"], size=16, batch_size=4)


def test_what_callbacks_keep_does_not_keep_the_file(tmp_path: Path) -> None:
    kept = {"callbacks": {"Best": {"score": torch.tensor(0.5), "worse": [{"score": torch.tensor(0.7)}]}}}
    WholeCheckpointIO().save_checkpoint({**checkpoint(1), **kept}, tmp_path / "a.ckpt")
    found = WholeCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["callbacks"]["Best"]
    assert (found["score"], found["worse"][0]["score"]) == (torch.tensor(0.5), torch.tensor(0.7))
    assert {value.untyped_storage().nbytes() for value in (found["score"], found["worse"][0]["score"])} == {4}


def checkpoint(value: Any) -> dict[str, Any]:
    return {**checkpoint_of(encoder_of(config_of())), "epoch": value}


def test_a_checkpoint_is_read_as_it_was_saved(tmp_path: Path) -> None:
    keeper = WholeCheckpointIO()
    keeper.save_checkpoint(checkpoint(3), tmp_path / "last.ckpt")
    found, wanted = keeper.load_checkpoint(tmp_path / "last.ckpt"), checkpoint(3)
    torch.testing.assert_close(found.pop("state_dict"), wanted.pop("state_dict"), rtol=0, atol=0)
    assert found == wanted
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_with_anything_but_plain_types_is_not_read_even_if_asked_for(tmp_path: Path) -> None:
    torch.save(checkpoint(Unsafe()), tmp_path / "bad.ckpt")
    with pytest.raises(MapexError, match="is refused: it is not a checkpoint of plain weights"):
        WholeCheckpointIO().load_checkpoint(tmp_path / "bad.ckpt", weights_only=False)


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    keeper, path = WholeCheckpointIO(), tmp_path / "last.ckpt"
    keeper.save_checkpoint(checkpoint(1), path)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        keeper.save_checkpoint(checkpoint([torch.zeros(1000), lambda: None]), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_that_is_removed_is_gone_and_a_folder_stays(tmp_path: Path) -> None:
    keeper = WholeCheckpointIO()
    keeper.save_checkpoint(checkpoint(1), tmp_path / "last.ckpt")
    keeper.remove_checkpoint(tmp_path / "last.ckpt")
    keeper.remove_checkpoint(tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(MapexError, match="could not be removed"):
        keeper.remove_checkpoint(tmp_path)
    assert tmp_path.is_dir()


def fit_and_strike(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    strike: Callable[[], object],
    after_a_save: bool = False,
) -> str:
    """Pre-trains for two epochs; something happens before last.ckpt is saved again, or already after the first time.

    Returns:
        What was said, after it has been made sure that last.ckpt of the first epoch is still there and the run over.
    """
    last, before = Path("runs") / "pretrain" / "last.ckpt", []

    def struck(content: dict[str, Any], path: Path) -> None:
        again = path.name == last.name and last.exists()
        if again and not after_a_save:
            strike()
        write(content, path)
        if path.name == last.name:
            before.append(last.read_bytes())
            if after_a_save:
                strike()

    monkeypatch.setattr("mapex_lightning.train.checkpoint_io.write", struck)
    assert main(["fit", "--config", "pretrain.yaml", "--data.sets", TILES, *SMALL, "--trainer.max_epochs", "2"]) == 2
    said = capsys.readouterr().err
    assert before == [last.read_bytes()]
    assert read(last)["global_step"] == 3
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if line.startswith("mapex: ")] == said.splitlines()[-1:]
    return said


def test_a_save_that_is_not_allowed_ends_the_run_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")  # which Lightning's own way has passed over

    monkeypatch.chdir(tmp_path)
    said = fit_and_strike(monkeypatch, capsys, lambda: monkeypatch.setattr("pathlib.Path.replace", refuse))
    assert "last.ckpt could not be written ([Errno 13] Permission denied); what was there before is untouched" in said


@pytest.mark.parametrize(
    ("after_a_save", "sentence"),
    [
        (False, r"last\.ckpt needs 52\.\d MB, and 0\.0 MB are free"),
        pytest.param(True, "A file could not be written: No space left", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_up_ends_the_run_in_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after_a_save: bool,
    sentence: str,
) -> None:
    with disk(tmp_path / "disk", megabytes=160) as place:
        monkeypatch.chdir(place)
        said = fit_and_strike(monkeypatch, capsys, lambda: fill(place), after_a_save)
        monkeypatch.chdir(tmp_path)
        assert not list(place.rglob(".*.part"))
    assert re.search(sentence, said)


@pytest.mark.slow
def test_a_folder_that_may_no_longer_be_written_to_ends_the_run_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        made = made_immutable(tmp_path / "runs" / "pretrain")
        said = fit_and_strike(monkeypatch, capsys, lambda: stack.enter_context(made))
    assert "last.ckpt could not be written ([Errno 1] Operation not permitted" in said


def test_a_run_begins_by_sweeping_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / "pretrain"
    strays = [abandoned(folder / "last.ckpt"), abandoned(folder / "pictures" / "start.png")]
    pretrain("--trainer.max_epochs", "0")
    assert not any(stray.exists() for stray in strays)


def test_the_trainer_saves_whole_checkpoints_and_resumes_from_them(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    trainer = trainer_of(plugins=[WholeCheckpointIO()])
    trainer.fit(Pretrain("nano", ["s1", "s2"], seal=None), datamodule=tiles_in())
    trainer.save_checkpoint(path)
    later = trainer_of(plugins=[WholeCheckpointIO()], max_epochs=2)
    later.fit(Pretrain("nano", ["s1", "s2"], seal=None), datamodule=tiles_in(), ckpt_path=path, weights_only=True)
    assert (trainer.global_step, later.global_step) == (2, 4)
