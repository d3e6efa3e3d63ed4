"""The scripts for Slurm are accepted as they are, and call what they should."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, outside

SCRIPTS = sorted((Path(__file__).parents[2] / "slurm").glob("*.sbatch"))
PRETRAIN, FINETUNE, SWEEP = (
    next(script for script in SCRIPTS if script.stem == name) for name in ("pretrain", "finetune", "sweep")
)
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)

SRUN = """#!{python}
import json, os, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit({code})
"""


def options(script: Path) -> dict[str, str]:
    """What the lines ``#SBATCH`` of a script ask for."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", script.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


def calls(
    script: Path, folder: Path, *words: str, more: Mapping[str, str] | None = None, code: int = 0
) -> list[list[str]]:
    """What a script calls with srun, for which stands what notes it and ends with a code; so then does the script."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = folder / "calls"
    noted.write_text("")
    srun = folder / "srun"
    srun.write_text(SRUN.format(python=sys.executable, calls=str(noted), code=code))
    srun.chmod(0o755)
    job = {"SLURM_JOB_NAME": script.stem, "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
    job |= {"SLURM_CPUS_PER_TASK": "8", "SLURM_ARRAY_TASK_ID": "0", "VENV": "none"} | dict(more or {})
    environment = {**outside(os.environ), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **job}
    done = subprocess.run(
        ["bash", str(script), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in noted.read_text().splitlines()]


def value(call: list[str], option: str) -> str:
    """The last value of an option, which is the one that counts."""
    return call[len(call) - call[::-1].index(option)]


def test_there_are_these_scripts() -> None:
    assert [script.stem for script in SCRIPTS] == ["finetune", "pretrain", "sweep"]


@every_script
def test_slurm_accepts_it_unchanged(script: Path, slurm: Cluster) -> None:
    assert "to start at" in slurm.call("sbatch", "--test-only", script).stderr


@every_script
def test_slurm_accepts_it_on_nodes_without_gpus(script: Path, slurm: Cluster) -> None:
    assert "to start at" in slurm.call("sbatch", "--test-only", "--gpus-per-node=0", script).stderr


@every_script
def test_it_can_be_interrupted_and_goes_on(script: Path) -> None:
    asked, text = options(script), script.read_text(encoding="utf-8")
    assert asked["signal"].startswith("USR1@")  # no B: the tasks get it, not the script
    assert asked["open-mode"] == "append"
    assert "requeue" in asked
    assert asked["output"].startswith("%x-")
    assert "set -euo pipefail" in text
    starts = re.findall(r"^srun .*", text, re.MULTILINE)
    assert all(start.startswith("srun --kill-on-bad-exit=1 mapex ") for start in starts)


@every_script
def test_nodes_tasks_and_gpus_stand_in_one_place(script: Path) -> None:
    asked = options(script)
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    code = script.read_text(encoding="utf-8").partition("set -euo pipefail")[2]
    assert not re.search(r"(num_nodes|devices|workers)\W+\d", code)


@every_script
def test_it_knows_no_site(script: Path) -> None:
    site = {"account", "partition", "qos", "constraint", "reservation", "mail-user", "nodelist", "chdir"}
    assert not site & set(options(script))
    assert not re.search(r"^\s*module |/scratch|/gpfs|/lustre", script.read_text(encoding="utf-8"), re.MULTILINE)


@every_script
def test_what_training_takes_from_the_machine_is_what_slurm_gives(script: Path, tmp_path: Path) -> None:
    for call in calls(script, tmp_path):
        assert (value(call, "--trainer.num_nodes"), value(call, "--trainer.devices")) == ("2", "4")
        assert value(call, "--data.workers") == "7"
        assert call.index("--trainer.devices") > len(call) - call[::-1].index("--config")  # a config says other things


@every_script
def test_a_run_that_fails_ends_the_script(script: Path, tmp_path: Path) -> None:
    (only,) = calls(script, tmp_path, code=75)
    assert only[:3] == ["--kill-on-bad-exit=1", "mapex", "fit"]


@pytest.mark.parametrize("script", [PRETRAIN, FINETUNE], ids=lambda script: script.stem)
def test_a_job_and_its_run_have_one_name(script: Path, tmp_path: Path) -> None:
    for call in calls(script, tmp_path, more={"SLURM_JOB_NAME": "big"}):
        if "fit" in call:
            assert value(call, "--run") == "big"
        else:
            assert value(call, "--config") == "runs/big/config.yaml"
            assert value(call, "--ckpt") == "runs/big/best.ckpt"


@pytest.mark.parametrize("script", [FINETUNE, SWEEP], ids=lambda script: script.stem)
@pytest.mark.parametrize(
    "words",
    [
        ["--trust", "mine"],
        ["--trust=mine"],
        ["--trust", "mine", "--trust=yours"],
        ["--data.root", "mine"],
        ["--data.root=mine", "--trainer.accelerator", "cpu"],
        [],
    ],
)
def test_what_may_differ_from_a_runs_settings_is_the_same_in_testing(
    script: Path, words: list[str], tmp_path: Path
) -> None:
    _, test = calls(script, tmp_path, "--data.size", "32", *words, "--ckpt", "a.ckpt")
    at = test.index("--data.workers") + 2
    assert test[at:] == words


def test_words_after_the_script_are_settings_and_another_config_takes_the_place_of_its_own(tmp_path: Path) -> None:
    (call,) = calls(PRETRAIN, tmp_path, "--data.size", "32")
    assert [call[at + 1] for at, word in enumerate(call) if word == "--config"] == ["pretrain.yaml", "ddp.yaml"]
    assert value(call, "--data.size") == "32"
    for words in (["--config", "mine.yaml"], ["--config=mine.yaml"], ["-c", "mine.yaml"]):
        (call,) = calls(PRETRAIN, tmp_path, *words)
        assert "pretrain.yaml" not in call


def test_the_elements_of_a_sweep_are_all_combinations_each_once(tmp_path: Path) -> None:
    lists = {"CONFIGS": "eurosat.yaml own/set.yaml", "SHOTS": "5 all", "SEEDS": "0 7 8"}
    found, runs = [], set()
    for index in range(12):
        fit, test = calls(SWEEP, tmp_path, "--ckpt", "a.ckpt", more={"SLURM_ARRAY_TASK_ID": str(index), **lists})
        seeds = {value(fit, option) for option in ("--seed_everything", "--data.seed", "--model.seed")}
        shots = value(fit, "--data.shots") if "--data.shots" in fit else "all"
        found.append((value(fit, "--config"), shots, *seeds))
        runs.add(value(fit, "--run"))
        assert value(fit, "--ckpt") == "a.ckpt"
        assert value(test, "--ckpt") == f"runs/{value(fit, '--run')}/best.ckpt"
    assert sorted(found) == sorted(product(*(words.split() for words in lists.values())))
    assert len(runs) == 12
    assert "sweep-set-shots5-seed7" in runs


def test_an_element_beyond_the_last_combination_does_nothing(tmp_path: Path) -> None:
    assert calls(SWEEP, tmp_path, more={"SLURM_ARRAY_TASK_ID": "2", "SHOTS": "5", "SEEDS": "0 1"}) == []


def test_the_array_of_a_sweep_fits_its_lists() -> None:
    lists = re.findall(r'^read -ra \w+ <<< "\$\{\w+:-(.*)\}"', SWEEP.read_text(encoding="utf-8"), re.MULTILINE)
    count = 1
    for words in lists:
        count *= len(words.split())
    assert options(SWEEP)["array"].partition("%")[0] == f"0-{count - 1}"
