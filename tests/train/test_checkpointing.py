"""A run's checkpoints are whole and plain."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from mapex_lightning.checkpoint import KEY, Description
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.errors import MapexError
from mapex_lightning.train.checkpointing import WholeCheckpointIO
from mapex_lightning.train.pretrain import Pretrain
from tests.builders import config_of
from tests.workshop import trainer_of


class Unsafe:
    """Anything but plain weights."""


def tiles_in() -> TileData:
    """Two training steps and a validation batch."""
    source = Synthetic(train=8, val=4, test=2, size=16, missing=0)
    return TileData([source], ["s1", "s2"], size=16, batch_size=4)


def checkpoint(value: Any) -> dict[str, Any]:
    plain = Description("pretrain", config_of(), ("made by a test",)).plain()
    return {KEY: plain, "state_dict": {}, "epoch": value}


def test_a_checkpoint_is_read_as_it_was_saved(tmp_path: Path) -> None:
    keeper = WholeCheckpointIO()
    keeper.save_checkpoint(checkpoint(3), tmp_path / "last.ckpt")
    assert keeper.load_checkpoint(tmp_path / "last.ckpt") == checkpoint(3)
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


def test_the_trainer_saves_whole_checkpoints_and_resumes_from_them(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    trainer = trainer_of(plugins=[WholeCheckpointIO()])
    trainer.fit(Pretrain("nano", ["s1", "s2"], seal=None), datamodule=tiles_in())
    trainer.save_checkpoint(path)
    later = trainer_of(plugins=[WholeCheckpointIO()], max_epochs=2)
    later.fit(Pretrain("nano", ["s1", "s2"], seal=None), datamodule=tiles_in(), ckpt_path=path, weights_only=True)
    assert (trainer.global_step, later.global_step) == (2, 4)
