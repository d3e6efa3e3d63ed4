"""A run that was told to stop goes on as if nothing had been, wherever it was; saves within an epoch change nothing."""

from __future__ import annotations

import re
import signal
from itertools import chain, repeat
from pathlib import Path

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import Timer

from mapex_lightning.checkpoint import describe, read
from mapex_lightning.errors import STOPPED, TRY_AGAIN, MapexError
from mapex_lightning.train.last import Last
from tests.resuming import FINETUNE, PRETRAIN, Moment, assert_equal, fit, moments


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of pre-training that was not interrupted: six steps in two epochs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert fit(*PRETRAIN, "--run", "whole") == 0
    return folder


@pytest.mark.parametrize(
    ("moment", "kept"),
    [
        pytest.param(Moment("training_step", "train", 1), "after step 2", marks=pytest.mark.slow),
        (Moment("validation_step", "validate", 3, call=1), "after step 3"),
        pytest.param(Moment("on_train_epoch_end", "train", 3), "after step 3", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_told_to_stop_goes_on_as_if_nothing_had_been(
    moment: Moment, kept: str, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(whole)
    name = re.sub(r"\W+", "-", str(moment))
    with moments(monkeypatch, moment, signal.SIGUSR1):
        assert fit(*PRETRAIN, "--run", name) == TRY_AGAIN
    said = capsys.readouterr().err
    assert f"mapex: stopped {kept}, whose state is in runs/{name}/last.ckpt; go on with" in said
    assert f"mapex fit --run {name}" in said
    assert fit("--run", name) == 0
    assert_equal(Path("runs") / name, Path("runs/whole"))


@pytest.mark.parametrize("steps", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_that_a_time_limit_has_ended_goes_on_with_the_next_step(
    steps: int, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole)
    seconds = chain(repeat(0.0, steps), repeat(99.0))  # asked for at the beginning, and after each step
    with monkeypatch.context() as patch:
        patch.setattr(Timer, "time_elapsed", lambda *args: next(seconds))
        assert fit(*PRETRAIN, "--run", f"brief-{steps}", "--trainer.max_time", "00:00:00:50") == 0
    assert read(f"runs/brief-{steps}/last.ckpt")["global_step"] == steps
    assert fit("--run", f"brief-{steps}", "--trainer.max_time", "null") == 0
    assert_equal(Path(f"runs/brief-{steps}"), Path("runs/whole"))


@pytest.mark.slow
def test_a_run_that_was_told_to_stop_before_its_first_step_begins_again(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(whole)
    with moments(monkeypatch, Moment("validation_step", "sanity_check", 0)):
        assert fit(*PRETRAIN, "--run", "early") == TRY_AGAIN
    assert "stopped before the first step" in capsys.readouterr().err
    assert not Path("runs/early/last.ckpt").exists()
    assert fit("--run", "early") == 0
    assert_equal(Path("runs/early"), Path("runs/whole"))


def test_fine_tuning_goes_on_exactly_with_dropped_sensors_and_paths_and_gathered_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*FINETUNE, "--trainer.accumulate_grad_batches", "2"]
    assert fit(*words, "--run", "whole") == 0
    with moments(monkeypatch, Moment("training_step", "train", 2)):
        assert fit(*words, "--run", "cut") == TRY_AGAIN
    assert read("runs/cut/last.ckpt")["global_step"] == 3  # the signal came between two batches of one step
    assert fit(*words, "--run", "cut") == 0
    assert_equal(Path("runs/cut"), Path("runs/whole"))


def test_what_is_sealed_at_the_end_of_a_run_is_in_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit(*PRETRAIN, "--run", "whole", "--trainer.max_steps", "4") == 0  # the only validation is after three
    sealed = describe(read("runs/whole/last.ckpt")).encoder.allowed
    assert sealed
    with moments(monkeypatch, Moment("on_train_epoch_end", "train", 4)):
        assert fit(*PRETRAIN, "--run", "cut", "--trainer.max_steps", "4") == 0
    with moments(monkeypatch, Moment("training_step", "train", 3)):
        assert fit(*PRETRAIN, "--run", "again", "--trainer.max_steps", "4") in (0, TRY_AGAIN)
    assert fit("--run", "again") == 0
    for run in ("cut", "again"):
        assert_equal(Path("runs") / run, Path("runs/whole"))
        assert describe(read(f"runs/{run}/last.ckpt")).encoder.allowed == sealed


@pytest.mark.slow
def test_saves_within_an_epoch_change_nothing(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    saved: list[int] = []
    usual = Last._save

    def counted(self: Last, trainer: pl.Trainer) -> None:
        saved.append(trainer.global_step)
        usual(self, trainer)

    monkeypatch.setattr(Last, "_save", counted)
    assert fit(*PRETRAIN, "--run", "often", "--save_minutes", "0") == 0
    assert saved == [1, 2, 3, 3, 3, 4, 5, 6, 6, 6]  # before and within a validation and after the epoch, too
    assert_equal(Path("runs/often"), Path("runs/whole"))


def test_a_minimum_of_epochs_goes_before_an_early_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    early = "[{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 1, min_delta: 1e9}}]"
    words = [*PRETRAIN, "--trainer.callbacks", early, "--trainer.min_epochs", "3", "--trainer.max_epochs", "5"]
    words += ["--model.seal", "null"]
    saved: list[int] = []
    usual = Last._save

    def counted(self: Last, trainer: pl.Trainer) -> None:
        saved.append(trainer.global_step)
        usual(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Last, "_save", counted)
        assert fit(*words, "--run", "whole") == 0
    assert saved == [3, 6, 9]  # it would have stopped after 6
    with moments(monkeypatch, Moment("training_step", "train", 7)):
        assert fit(*words, "--run", "cut") == TRY_AGAIN
    assert fit("--run", "cut") == 0
    assert_equal(Path("runs/cut"), Path("runs/whole"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number"), [("pretrain", signal.SIGTERM), ("finetune", signal.SIGUSR1)])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--trainer.accumulate_grad_batches", "2"),
        ("--trainer.val_check_interval", "1"),
        ("--trainer.check_val_every_n_epoch", "2"),
        ("--trainer.limit_val_batches", "0"),
        ("--trainer.max_epochs", "-1", "--trainer.max_steps", "5"),
        ("--data.workers", "1"),
    ],
    ids=lambda words: " ".join(words) or "plain",
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The experts are not sealed. the run had no validation:UserWarning")
def test_there_is_no_moment_at_which_a_signal_costs_a_step(
    words: tuple[str, ...], kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [*{"pretrain": PRETRAIN, "finetune": FINETUNE}[kind], *words]
    with moments(monkeypatch) as came:
        assert fit(*given, "--run", "whole") == 0
    for at, moment in enumerate(came):
        with moments(monkeypatch, moment, number):
            code = fit(*given, "--run", f"cut-{at}")
        assert code in (0, TRY_AGAIN)
        assert code == 0 or fit("--run", f"cut-{at}") == 0
        assert_equal(Path(f"runs/cut-{at}"), Path("runs/whole"))


@pytest.mark.slow
def test_a_run_that_was_stopped_by_hand_ends_at_once_and_goes_on_from_its_last_save(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole)
    usual = signal.getsignal(signal.SIGINT)
    with moments(monkeypatch, Moment("training_step", "train", 4), signal.SIGINT):
        assert fit(*PRETRAIN, "--run", "hand") == STOPPED
    signal.signal(signal.SIGINT, usual)  # Lightning leaves it ignored
    assert read("runs/hand/last.ckpt")["global_step"] == 3
    assert fit("--run", "hand") == 0
    assert_equal(Path("runs/hand"), Path("runs/whole"))


@pytest.mark.parametrize("minutes", [-1.0, float("nan")])
def test_less_than_no_minutes_between_saves_are_refused(minutes: float) -> None:
    with pytest.raises(MapexError, match="--save_minutes is a number of minutes, 0 to save after every step; found"):
        Last(Path("last.ckpt"), minutes)
