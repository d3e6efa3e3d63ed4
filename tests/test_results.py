"""Runs are told apart by their settings and averaged over their seeds, and none is dropped."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.errors import MapexError
from mapex_lightning.results import Figure, gather


def settings(**changed: Any) -> dict[str, Any]:
    """What a run's config.yaml holds, in short; ``shots``, ``seed`` and others are put where they belong."""
    data = {"class_path": "mapex_lightning.data.sets.Synthetic", "init_args": {"train": 10}}
    made: dict[str, Any] = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 3, "callbacks": None},
        "model": {
            "class_path": "mapex_lightning.train.finetune.FineTune",
            "init_args": {"optimiser": {"lr": 1e-3}, "seed": 0},
        },
        "data": {"sets": [data], "modalities": ["s1", "s2"], "shots": None, "seed": 0},
    }
    for name, value in changed.items():
        place = made
        *above, last = name.split("__")
        for key in above:
            place = place[key]
        place[last] = value
    return made


def run(
    folder: Path, name: str, figures: dict[str, float] | None, when: int = 1000, file: str = "test.json", **changed: Any
) -> Path:
    """The folder of a run with those settings and, if there are any, figures."""
    made = folder / name
    made.mkdir(parents=True, exist_ok=True)
    (made / "config.yaml").write_text(yaml.safe_dump({**settings(**changed), "run": name}))
    if figures is not None:
        (made / file).write_text(json.dumps({"ckpt": f"runs/{name}/best.ckpt", **figures}))
        os.utime(made / file, (when, when))
    return made


def sweep(folder: Path) -> None:
    """Two numbers of shots, three seeds each."""
    for shots in (10, 5):
        for seed in range(3):
            values = {"test/accuracy": shots / 100 + seed / 1000}
            run(folder, f"sweep-{shots}-{seed}", values, data__shots=shots, data__seed=seed, seed_everything=seed)


def test_runs_that_differ_in_their_seeds_are_one_line(tmp_path: Path) -> None:
    sweep(tmp_path)
    found = gather(parent=tmp_path)
    assert found.shown == ("data.shots",)
    assert [group.settings for group in found.groups] == [{"data.shots": 5}, {"data.shots": 10}]
    assert [[one.name for one in group.runs] for group in found.groups] == [
        [f"sweep-{shots}-{seed}" for seed in range(3)] for shots in (5, 10)
    ]
    figure = found.groups[1].figures["test/accuracy"]
    assert figure == pytest.approx((0.101, 0.001, 3))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
def test_a_figure_is_mean_and_deviation_of_a_sample(values: list[float]) -> None:
    found = Figure.of(values)
    assert found.mean == pytest.approx(fmean(values))
    assert found.std == (pytest.approx(stdev(values)) if len(values) > 1 else None)
    assert found.runs == len(values)


def test_where_a_run_was_made_does_not_tell_it_apart(tmp_path: Path) -> None:
    run(tmp_path, "a", {"test/accuracy": 0.5}, data__workers=7, data__root="elsewhere")
    run(tmp_path, "b", {"test/accuracy": 0.6}, seed_everything=1)
    assert [len(group.runs) for group in gather(parent=tmp_path).groups] == [2]


def test_a_figure_that_is_no_number_stays_so_and_has_no_deviation() -> None:
    found = Figure.of([1.0, math.nan])
    assert math.isnan(found.mean)
    assert found.std is None


def test_the_table_shows_the_fewest_settings_and_names_those_that_go_with_them(tmp_path: Path) -> None:
    run(tmp_path, "a", {"test/accuracy": 0.5}, data__shots=5, trainer__max_epochs=30)
    run(tmp_path, "b", {"test/accuracy": 0.6}, data__shots=10, trainer__max_epochs=15)
    found = gather(parent=tmp_path)
    assert (found.shown, found.implied) == (("data.shots",), ("trainer.max_epochs",))
    assert "differ together with the settings above: trainer.max_epochs." in found.table()
    assert found.rows()[0][:2] == ["data.shots", "trainer.max_epochs"]


def test_a_setting_that_tells_more_apart_is_shown(tmp_path: Path) -> None:
    for lr in (1e-3, 1e-4):
        for shots in (5, 10):
            figures = {"test/accuracy": lr * shots}
            run(tmp_path, f"{lr}-{shots}", figures, data__shots=shots, model__init_args__optimiser={"lr": lr})
    found = gather(parent=tmp_path)
    assert found.shown == ("data.shots", "model.optimiser.lr")
    assert len(found.groups) == 4


def test_a_data_set_is_told_by_its_class(tmp_path: Path) -> None:
    run(tmp_path, "a", {"test/accuracy": 0.5})
    eurosat = [{"class_path": "mapex_lightning.data.sets.EuroSAT", "init_args": {"split": "torchgeo"}}]
    run(tmp_path, "b", {"test/accuracy": 0.6}, data__sets=eurosat, data__modalities=["s2"])
    found = gather(parent=tmp_path)
    assert found.shown == ("data.sets.0",)
    assert [group.settings["data.sets.0"] for group in found.groups] == ["EuroSAT", "Synthetic"]
    assert set(found.implied) == {"data.modalities", "data.sets.0.split", "data.sets.0.train"}


def test_figures_of_test_and_validation_stand_side_by_side(tmp_path: Path) -> None:
    run(tmp_path, "a", {"test/accuracy": 0.5})
    run(tmp_path, "a", {"val/accuracy": 0.7}, file="validate.json")
    run(tmp_path, "b", {"val/accuracy": 0.9}, file="validate.json", data__shots=3)
    found = gather(parent=tmp_path)
    assert found.figures == ("val/accuracy", "test/accuracy")
    assert [set(group.figures) for group in found.groups] == [{"val/accuracy"}, {"val/accuracy", "test/accuracy"}]
    assert found.table().splitlines()[1].split()[-2:] == ["-", "b"]


def test_figures_per_class_change_nothing(tmp_path: Path) -> None:
    sweep(tmp_path)
    found = gather(parent=tmp_path).plain()
    for path in tmp_path.glob("*/test.json"):
        when = path.stat().st_mtime
        path.write_text(json.dumps({**json.loads(path.read_text()), "classes": {"water": {"f1": 0.5, "tiles": 3}}}))
        os.utime(path, (when, when))
    assert gather(parent=tmp_path).plain() == found


def test_runs_without_figures_are_named_and_not_dropped(tmp_path: Path) -> None:
    sweep(tmp_path)
    run(tmp_path, "untrained", None)
    (run(tmp_path, "untested", None) / "last.ckpt").touch()
    run(tmp_path, "cut", {}).joinpath("test.json").write_text('{"test/acc')
    run(tmp_path, "listed", {}).joinpath("test.json").write_text("[1, 2]")
    run(tmp_path, "odd", {"test/accuracy": 1.0}).joinpath("config.yaml").write_text("a: [")
    run(tmp_path, "bare", {"test/accuracy": 1.0}).joinpath("config.yaml").unlink()
    found = gather(parent=tmp_path)
    assert {run: why.split(" (")[0] for run, why in found.missing} == {
        "untrained": "no checkpoint yet",
        "untested": "neither tested nor validated",
        "cut": "its figures cannot be read",
        "listed": "its figures cannot be read",
        "odd": "its config.yaml cannot be read",
        "bare": "no config.yaml, so its settings are not known",
    }
    assert "Without figures (6):" in found.table()
    assert sum(len(group.runs) for group in found.groups) == 6


def test_a_run_without_figures_tells_how_far_it_has_come(tmp_path: Path) -> None:
    made = run(tmp_path, "long", None)
    (made / "last.ckpt").touch()
    (made / "csv").mkdir()
    lines = "".join(f"{step // 1000},,{step},0.5\n,0.001,{step},\n" for step in range(2500))
    (made / "csv" / "metrics.csv").write_text(f"epoch,lr-AdamW,step,train/loss\n{lines}")
    (missing,) = gather(parent=tmp_path).missing
    assert missing.why == "neither tested nor validated, and came as far as epoch 3 of 3"


@pytest.mark.parametrize("text", ["", "epoch,step\n", "step\n1\n", "epoch,step\nx,1\n"])
def test_a_log_that_does_not_tell_how_far_is_let_be(text: str, tmp_path: Path) -> None:
    made = run(tmp_path, "short", None)
    (made / "csv").mkdir()
    (made / "csv" / "metrics.csv").write_text(text)
    assert gather(parent=tmp_path).missing[0].why == "no checkpoint yet"


def test_a_run_that_was_repeated_counts_once_and_both_are_named(tmp_path: Path) -> None:
    run(tmp_path, "a", {"test/accuracy": 0.1}, when=1000)
    run(tmp_path, "a-2", {"test/accuracy": 0.3}, when=2000)
    run(tmp_path, "a-3", {"test/accuracy": 0.5}, when=3000, model__init_args__seed=1)
    found = gather(parent=tmp_path)
    assert found.repeated == (("a", "a-2"),)
    (group,) = found.groups
    assert group.figures["test/accuracy"] == pytest.approx((0.4, stdev([0.3, 0.5]), 2))
    assert "a: see a-2" in found.table()


def test_names_choose_runs_as_in_a_shell(tmp_path: Path) -> None:
    sweep(tmp_path)
    run(tmp_path, "other", {"test/accuracy": 1.0})
    found = gather(["sweep-10-?", "other"], tmp_path)
    assert sorted(one.name for group in found.groups for one in group.runs) == [
        *("other", "sweep-10-0", "sweep-10-1", "sweep-10-2"),
    ]


def test_a_name_that_no_run_has_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    sweep(tmp_path)
    with pytest.raises(MapexError, match=r"is called 'swep-\*'\. Available: sweep-10-0, "):
        gather(["swep-*"], tmp_path)


def test_without_any_run_the_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="There is no run below"):
        gather(parent=tmp_path / "runs")


def test_a_file_of_settings_makes_nothing_but_plain_values(tmp_path: Path) -> None:
    made = run(tmp_path, "evil", {"test/accuracy": 1.0})
    (made / "config.yaml").write_text("a: !!python/object/apply:os.mkdir [%s]" % (tmp_path / "made"))
    (missing,) = gather(parent=tmp_path).missing
    assert missing.why.startswith("its config.yaml cannot be read")
    assert not (tmp_path / "made").exists()


def test_what_programs_get_is_strict_json_with_every_run(tmp_path: Path) -> None:
    run(tmp_path, "a", {"test/miou": math.nan, "test/accuracy": 0.5})
    plain = gather(parent=tmp_path).plain()
    (group,) = json.loads(json.dumps(plain, allow_nan=False))["groups"]
    assert group["figures"] == {
        "test/miou": {"mean": None, "std": None, "runs": 1},
        "test/accuracy": {"mean": 0.5, "std": None, "runs": 1},
    }
    assert group["runs"][0]["seeds"] == {"seed_everything": 0, "data.seed": 0, "model.seed": 0}
