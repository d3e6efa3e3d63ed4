"""The words of ``mapex pack`` become a store that a config can name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mapex_lightning.__main__ import main
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets import Packed, Synthetic
from mapex_lightning.modality import MODALITIES

SETS = "[{class_path: Synthetic, init_args: {train: 4, val: 2, test: 2, size: 16, missing: 0}}]"
TINY = ["--config", "pretrain.yaml", "--data.modalities", "[s1, dem]"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LightningCLI's args parameter:UserWarning")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_tiles_of_a_config_are_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", *TINY, "--data.sets", SETS, "--out", "store"]) == 0
    printed = capsys.readouterr().out
    assert "8/8 tiles" in printed
    assert "store: s1 float32, dem float32" in printed
    dem, key = MODALITIES["dem"], "val-000001"
    source, store = Synthetic(train=4, val=2, test=2, size=16, missing=0), Packed(tmp_path / "store")
    np.testing.assert_array_equal(store.read(key, [dem]).images["dem"], source.read(key, [dem]).images["dem"])
    assert {path.name for path in tmp_path.iterdir()} == {"store"}  # no run folder


def test_a_second_time_finds_that_all_is_done(tmp_path: Path) -> None:
    for _ in range(2):
        assert main(["pack", *TINY, "--data.sets", SETS, "--out", "store", "--size", "8"]) == 0
    assert Packed(tmp_path / "store").index.sensors["s1"].shape == (2, 8, 8)


def test_several_sets_get_a_folder_each(tmp_path: Path) -> None:
    sets = SETS.replace("]", f", {SETS[1:]}")
    assert main(["pack", *TINY, "--data.sets", sets, "--out", "store"]) == 0
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"Synthetic-1", "Synthetic-2"}


def test_a_config_that_names_the_store_needs_no_more_than_its_folder(tmp_path: Path) -> None:
    assert main(["pack", *TINY, "--data.sets", SETS, "--out", "store"]) == 0
    data = TileData([Packed("store")], ["s1", "dem"], size=16, batch_size=2)
    assert (data.task, len(data.classes)) == ("multiclass", 10)
    assert len(data.members("train")) == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "store"], "mapex pack needs a config"),
        ([*TINY], "required: --out"),
        ([*TINY, "--out", "store", "--file-size", "0"], "gigabytes above 0"),
        ([*TINY, "--out", "store", "--size", "0"], "--size is a number of pixels"),
        ([*TINY, "--out", "store", "--ckpt", "last.ckpt"], "needs no checkpoint"),
        ([*TINY, "--out", "store", "--data.sizes", "3"], "sizes"),
        ([*TINY, "--out", "store", "--data.sets", "[Packed]"], "root"),
    ],
)
def test_words_that_are_wrong_get_a_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
