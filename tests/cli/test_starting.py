"""A run of a name begins or goes on, as it began, in one process at a time; or a sentence says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mapex_lightning.checkpoint import read
from mapex_lightning.cli.starting import Start, begun, check_processes, check_same, is_complete, with_settings
from mapex_lightning.errors import MapexError
from mapex_lightning.lock import LOCK
from mapex_lightning.settings import flat
from tests.resuming import PRETRAIN, fit


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one epoch, ``over``, that is complete."""
    folder = tmp_path_factory.mktemp("over")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert fit(*PRETRAIN, "--trainer.max_epochs", "1", "--run", "over") == 0
    return folder


@pytest.fixture
def here(over: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run ``over`` in a folder of its own, which is the current one."""
    shutil.copytree(over / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "over"


def test_a_run_that_is_complete_says_so_and_is_left_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert fit("--run", "over") == 0
    assert "run folder: runs/over\nthe run over is complete, after 3 steps\n" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--trainer.max_epochs", "9"], ["trainer.max_epochs 1", "now it is 9", "--ckpt runs/over/last.ckpt"]),
        (["--model.visible", "0.5"], ["model.visible 0.25", "now it is 0.5"]),
        (["--data.size", "24", "--seed_everything", "3"], ["data.size 16", "24", "seed_everything differs too"]),
    ],
)
def test_other_settings_are_refused_and_named_with_both_values(
    words: list[str], says: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--run", "over", *words) == 2
    said = capsys.readouterr().err
    for piece in says:
        assert piece in said


def test_settings_that_do_not_matter_may_differ(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.workers", "2", "--trainer.log_every_n_steps", "7", "--trainer.logger", "false"]
    assert fit("--run", "over", *words) == 0
    assert "is complete" in capsys.readouterr().out


def test_a_run_that_does_not_exist_cannot_go_on_without_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit("--run", "gone") == 2
    assert "There is no run 'gone' to go on with" in capsys.readouterr().err
    assert fit("--run", "../gone") == 2
    assert "A run's name is letters" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_to_begin_from_is_not_looked_at_where_the_run_has_begun(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--run", "over", "--ckpt", "gone.ckpt") == 0
    assert "--ckpt gone.ckpt is where the run over was to begin; it goes on from" in capsys.readouterr().out


def test_a_run_that_was_killed_before_its_first_save_begins_again_also_with_other_settings(here: Path) -> None:
    (here / "last.ckpt").unlink()
    before = (here / "csv/metrics.csv").read_text().splitlines()
    assert fit(*PRETRAIN, "--run", "over", "--trainer.max_epochs", "1", "--model.visible", "0.5") == 0
    assert read(here / "last.ckpt")["global_step"] == 3
    assert "visible: 0.5" in (here / "config.yaml").read_text()
    assert len((here / "csv/metrics.csv").read_text().splitlines()) == len(before)


def test_words_name_the_run_whose_settings_are_taken(here: Path) -> None:
    config = ["--config", "runs/over/config.yaml"]
    assert with_settings(["--run", "over", "--x", "1"]) == [*config, "--run", "over", "--x", "1"]
    assert with_settings(["--run=over"]) == [*config, "--run=over"]
    assert with_settings(["--config=a.yaml", "--run=over"]) == ["--config=a.yaml", "--run=over"]
    assert with_settings([]) == []


def test_the_encoder_to_begin_from_may_have_gone_where_it_was_given_with_ckpt(tmp_path: Path) -> None:
    settings = {"ckpt": "pruned.ckpt", "model": {"init_args": {"encoder": "runs/a/pruned.ckpt"}}}
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    check_same(tmp_path, flat({"ckpt": "pruned.ckpt", "model": {"init_args": {"encoder": "pruned.ckpt"}}}))
    (tmp_path / "config.yaml").write_text(json.dumps(settings | {"ckpt": None}))
    with pytest.raises(MapexError, match=r"model\.encoder 'runs/a/pruned\.ckpt'"):
        check_same(tmp_path, flat({"ckpt": None, "model": {"init_args": {"encoder": "pruned.ckpt"}}}))


@pytest.mark.parametrize(
    ("steps", "epochs", "stopped", "least", "complete"),
    [
        (-1, 2, 0, (None, None), True),
        (-1, 3, 0, (None, None), False),
        (10, -1, 0, (None, None), True),
        (11, -1, 0, (None, None), False),
        (11, 2, 0, (None, None), True),
        (-1, -1, 0, (None, None), False),
        (-1, 3, 2, (None, None), True),
        (-1, 4, 2, (10, 2), True),
        (-1, 4, 2, (None, 3), False),
        (-1, 4, 2, (11, None), False),
    ],
)
def test_a_run_is_complete_after_its_steps_or_epochs_or_when_it_was_ended_early(
    steps: int, epochs: int, stopped: int, least: tuple[int | None, int | None], complete: bool
) -> None:
    checkpoint = {
        "global_step": 10,
        "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 2}}}},
        "callbacks": {"EarlyStopping": {"stopped_epoch": stopped}},
    }
    most = {"trainer.max_steps": steps, "trainer.max_epochs": epochs}
    given = {**most, "trainer.min_steps": least[0], "trainer.min_epochs": least[1]}
    assert is_complete(checkpoint, given) == complete


def going_on(batches: int, world: int, size: int, accumulate: int) -> str | None:
    """What is said where a run of two processes with eight tiles each and two batches per step goes on differently."""
    noted = {"sharing": {"world": 2, "batch_size": 8, "accumulate": 2}}
    given = {"data.batch_size": size, "trainer.accumulate_grad_batches": accumulate}
    return check_processes(Start(Path("runs/x"), Path("last.ckpt"), (), 5, {"batches": batches}, noted), given, world)


def test_on_other_processes_a_step_must_be_of_as_many_tiles_and_in_an_epoch_each_batch_too() -> None:
    assert going_on(3, 2, 8, 2) is None
    for batches in (0, 3):
        said = going_on(batches, 4, 4, 2)
        assert said is not None
        assert said.startswith("4 processes x 4 tiles x 2 batches instead of 2 processes x 8 tiles x 2 batches")
    assert "1 process x 8 tiles x 4 batches instead" in (going_on(0, 1, 8, 4) or "")
    with pytest.raises(
        MapexError, match=r"in the middle of an epoch, in which 16 tiles were taken together; now .* 8 "
    ):
        going_on(3, 1, 8, 4)


@pytest.mark.parametrize(("world", "size", "accumulate"), [(1, 8, 2), (4, 8, 2), (2, 4, 4), (2, 8, 1), (2, 16, 1)])
@pytest.mark.parametrize("batches", [0, 3])
def test_other_steps_are_refused(batches: int, world: int, size: int, accumulate: int) -> None:
    with pytest.raises(MapexError, match=r"takes 32 tiles per step \(2 processes x 8 tiles x 2 batches\), and now"):
        going_on(batches, world, size, accumulate)


def test_what_another_process_has_done_meanwhile_is_not_overwritten(here: Path) -> None:
    start: Any = Start(here, None)
    with pytest.raises(MapexError, match="Another process has worked on the run over meanwhile"):
        begun(start).__enter__()
    assert not (here / LOCK).exists()
