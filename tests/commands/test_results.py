"""``mapex results`` puts the figures of runs into one table."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mapex_lightning.__main__ import main
from tests.test_main import LIGHT
from tests.test_results import run, sweep
from tests.workshop import SMALL, finetune, pretrain


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_imports_nothing_heavy() -> None:
    sweep(Path("runs"))
    words = ["results", "--csv", "table.csv"]
    done = subprocess.run([sys.executable, "-c", LIGHT.format(words=words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    sweep(Path("runs"))
    assert main(["results", "sweep-*"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "data.shots  seeds    test/accuracy  runs",
        "5               3  0.0510 ± 0.0010  sweep-5-0 +2",
        "10              3  0.1010 ± 0.0010  sweep-10-0 +2",
    ]


def test_a_table_for_spreadsheets_has_a_row_per_group() -> None:
    sweep(Path("runs"))
    run(Path("runs"), "validated", {"val/loss": 1.0}, file="validate.json", data__shots=10, data__seed=7)
    assert main(["results", "--csv", "out/table.csv"]) == 0
    with Path("out/table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["data.shots"], row["seeds"], row["test/accuracy runs"]) for row in rows] == [
        ("5", "3", "3"),
        ("10", "4", "3"),
    ]
    assert float(rows[0]["test/accuracy"]) == pytest.approx(0.051)


def test_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    sweep(Path("runs"))
    assert main(["results", "--json", "sweep-5-*"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert [one["figures"]["test/accuracy"] for one in group["runs"]] == pytest.approx([0.05, 0.051, 0.052])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["swep-*"], "No run below runs/ is called 'swep-*'. Available: sweep-10-0,"),
        (["--jsn"], "Unrecognized arguments: --jsn"),
        (["--csv", "runs"], "runs could not be written"),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(Path("runs"))
    assert main(["results", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_what_fit_and_test_wrote_is_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    pretrain("--data.modalities", "[s1, s2]")
    for seed in ("0", "1"):
        name = f"sweep-{seed}"
        finetune("--data.seed", seed, "--data.shots", "1", "--ckpt", "runs/pretrain/last.ckpt", run=name)
        assert main(["test", "--config", f"runs/{name}/config.yaml", "--ckpt", f"runs/{name}/best.ckpt", *SMALL]) == 0
    capsys.readouterr()
    assert main(["results", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == [
        {"run": "pretrain", "why": "neither tested nor validated, and came as far as epoch 1 of 1"}
    ]
    (group,) = found["groups"]
    told = [json.loads(Path("runs", f"sweep-{seed}", "test.json").read_text()) for seed in (0, 1)]
    assert [one["figures"]["test/accuracy"] for one in group["runs"]] == [one["test/accuracy"] for one in told]
    assert group["figures"]["test/loss"]["runs"] == 2
