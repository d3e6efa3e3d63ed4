"""On a real Slurm of two nodes: what is interrupted goes on as if nothing had been, and what breaks ends soon."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import read, save
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from tests.slurm.cluster import NODES, Cluster, wait_for
from tests.slurm.pace import PACE, SECONDS
from tests.slurm.test_scripts import FINETUNE, PRETRAIN, SWEEP, options

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EPOCHS, STEPS, BATCH = 6, 8, 4
"""Of a run, of each of its epochs, and tiles of a process in each of its steps."""

STEP = BATCH * SECONDS
"""Seconds for a step, or more."""

MACHINE = ["--gpus-per-node=0", "--ntasks-per-node=1", "--cpus-per-task=2"]
"""Options of sbatch for small nodes: a task a node, and a process that reads tiles for it."""

SHORT = ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1", "--trainer.enable_model_summary", "false"]
SHORT += ["--data.size", "16"]
SLOW = "[{class_path: tests.slurm.pace.Slow, init_args: {train: %d, val: 4, test: 4, size: 16, missing: 0.2}}]"
TWO = ["--config", "pretrain.yaml", "--config", "ddp.yaml", "--trust", "tests", "--trainer.precision", "32-true"]
TWO += ["--data.sets", SLOW % (2 * BATCH * STEPS), "--data.batch_size", str(BATCH)]
TWO += ["--trainer.max_epochs", str(EPOCHS), *SHORT]
"""Settings of a run on two nodes."""

TINY = "[{class_path: Synthetic, init_args: {task: multiclass, train: 24, val: 6, test: 12, size: 16, missing: 0.0}}]"
ONE = ["--data.sets", TINY, "--data.batch_size", "4", "--trainer.max_epochs", "2", *SHORT]
"""Settings of a run on one."""

SIGNAL = timedelta(seconds=int(options(PRETRAIN)["signal"].removeprefix("USR1@")))
"""The time before its limit in which a job is told."""

LONG = 600.0
"""Seconds in which whatever is waited for must happen, on a machine that does other things too."""


@pytest.fixture(autouse=True)
def cleared(slurm: Cluster) -> None:
    """Every test finds the nodes there and free."""
    slurm.clear()
    wait_for(slurm.idle, LONG, lambda: slurm.call("sinfo").stdout)


def path() -> str:
    """Where jobs find modules: these tests, and whatever we find ourselves."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def pretrain(slurm: Cluster, folder: Path, *more: str, pace: float = SECONDS) -> str:
    """Submits a run on two nodes, with more options of sbatch; the job's number.

    Args:
        slurm: where to.
        folder: in which it is submitted.
        more: options of sbatch.
        pace: seconds for a tile, of which nothing depends but how long it takes.
    """
    return slurm.submit(*MACHINE, *more, PRETRAIN, *TWO, cwd=folder, more={"PYTHONPATH": path(), PACE: str(pace)})


def log(folder: Path, job: str, name: str = "pretrain") -> str:
    """What a job has written so far."""
    file = folder / f"{name}-{job}.out"
    return file.read_text(errors="replace") if file.is_file() else ""


def reach(slurm: Cluster, folder: Path, job: str, epoch: int) -> None:
    """Waits until a job has taken the first step of an epoch and is on its way through the next ones."""

    def there() -> bool:
        assert slurm.state(job) in ("PENDING", "RUNNING", "COMPLETING"), log(folder, job)
        return f"epoch {epoch}/" in log(folder, job)

    wait_for(there, LONG, lambda: f"epoch {epoch} was not reached\n{log(folder, job)}")
    time.sleep(2 * STEP)


def said(folder: Path, job: str, name: str = "pretrain") -> list[str]:
    """What a job has said of its place in the queue, a clause each time."""
    return re.findall(rf"[Jj]ob {job} (?:is|was not put) back in[^.(]*[^.( ]", log(folder, job, name))


def restarted(slurm: Cluster, folder: Path, job: str, times: int) -> None:
    """Waits until a job runs again."""

    def again() -> bool:
        return slurm.field(job, "Restarts") == str(times) and slurm.state(job) in ("RUNNING", "COMPLETED")

    wait_for(again, LONG, lambda: f"{slurm.state(job)}\n{log(folder, job)}")


def losses(run: Path) -> dict[int, str]:
    """The loss of every step, as it was logged to the last digit; a step stands in the log once."""
    with (run / "csv" / "metrics.csv").open() as file:
        rows = [(int(row["step"]), row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    found = dict(rows)
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def whole(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on two nodes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    job = pretrain(slurm, folder)
    assert slurm.ended(job, LONG) == "COMPLETED", log(folder, job)
    assert slurm.field(job, "NodeList") == "n[1-2]"
    return folder / "runs" / "pretrain"


def test_two_nodes_make_one_run(whole: Path) -> None:
    assert len(losses(whole)) == EPOCHS * STEPS
    assert [path.name for path in whole.parent.iterdir()] == ["pretrain"]
    assert read(whole / "last.ckpt")["global_step"] == EPOCHS * STEPS


def test_what_is_told_of_its_end_is_requeued_and_loses_no_step(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    job = pretrain(slurm, tmp_path)
    for times in (1, 2):
        reach(slurm, tmp_path, job, 2 * times)
        slurm.call("scancel", "--signal=USR1", job)
        restarted(slurm, tmp_path, job, times)
    assert slurm.ended(job, LONG) == "COMPLETED", log(tmp_path, job)
    assert slurm.field(job, "Restarts") == "2"
    assert said(tmp_path, job) == [f"job {job} is back in the queue"] * 2
    assert losses(tmp_path / "runs" / "pretrain") == losses(whole)


def test_what_is_preempted_loses_no_step(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    job = pretrain(slurm, tmp_path)
    reach(slurm, tmp_path, job, 2)
    urgent = slurm.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true", cwd=tmp_path)
    assert slurm.ended(urgent, LONG) == "COMPLETED"
    restarted(slurm, tmp_path, job, 1)
    reach(slurm, tmp_path, job, 4)
    slurm.call("scontrol", "requeue", job)
    restarted(slurm, tmp_path, job, 2)
    assert slurm.ended(job, LONG) == "COMPLETED", log(tmp_path, job)
    assert said(tmp_path, job) == [f"job {job} is back in the queue"] * 2
    assert losses(tmp_path / "runs" / "pretrain") == losses(whole)


def test_what_is_cancelled_is_kept_and_stays_cancelled(slurm: Cluster, tmp_path: Path) -> None:
    job = pretrain(slurm, tmp_path)
    reach(slurm, tmp_path, job, 2)
    slurm.call("scancel", job)
    assert slurm.ended(job, LONG) == "CANCELLED"
    (line,) = said(tmp_path, job)
    assert line == f"Job {job} was not put back into the queue: it is being ended, as by scancel"
    step = read(tmp_path / "runs" / "pretrain" / "last.ckpt")["global_step"]
    assert f"stopped after step {step}, " in log(tmp_path, job)


@pytest.mark.parametrize("node", NODES)
def test_a_job_that_loses_a_node_is_queued_again_and_goes_on(
    node: str, slurm: Cluster, whole: Path, tmp_path: Path
) -> None:
    job = pretrain(slurm, tmp_path)
    reach(slurm, tmp_path, job, 2)
    slurm.lose(node)
    try:
        wait_for(lambda: slurm.field(job, "Restarts") == "1", LONG, lambda: log(tmp_path, job))
    finally:
        slurm.bring_back(node)
    assert slurm.ended(job, LONG) == "COMPLETED", log(tmp_path, job)
    assert losses(tmp_path / "runs" / "pretrain") == losses(whole)


def test_before_its_time_is_over_a_job_is_saved_and_queued_again(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    # Slurm looks at times every half minute, so the run is paced to take longer from here to its end.
    job = pretrain(slurm, tmp_path, pace=0.3)
    reach(slurm, tmp_path, job, 2)
    slurm.call("scontrol", "update", f"JobId={job}", f"EndTime={datetime.now() + SIGNAL:%Y-%m-%dT%H:%M:%S}")
    restarted(slurm, tmp_path, job, 1)
    slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    assert slurm.ended(job, LONG) == "COMPLETED", log(tmp_path, job)
    assert slurm.field(job, "Restarts") == "1"
    assert said(tmp_path, job) == [f"job {job} is back in the queue"]
    assert losses(tmp_path / "runs" / "pretrain") == losses(whole)


def rank(slurm: Cluster, job: str, number: int) -> int:
    """The process of a rank of a job; the others are processes that read tiles, which it started."""
    found = slurm.processes(f"SLURM_JOB_ID={job}", f"SLURM_PROCID={number}", "SLURM_STEP_ID=0")
    words = {process: Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0") for process in found}
    return next(process for process, line in words.items() if b"fit" in line and not line[0].endswith(b"srun"))


def test_a_killed_rank_ends_the_job_and_the_next_one_of_its_name_goes_on(
    slurm: Cluster, whole: Path, tmp_path: Path
) -> None:
    first, second = pretrain(slurm, tmp_path), pretrain(slurm, tmp_path)
    reach(slurm, tmp_path, first, 2)
    assert (slurm.state(second), slurm.field(second, "Reason")) == ("PENDING", "Dependency")
    started = time.monotonic()
    os.kill(rank(slurm, first, 1), signal.SIGKILL)
    assert slurm.ended(first, 60) == "FAILED", log(tmp_path, first)
    print(f"from the killed rank to the end of the job: {time.monotonic() - started:.1f} s")
    (line,) = re.findall(r"^mapex: .*", log(tmp_path, first), re.MULTILINE)
    assert re.match(r"mapex: The job ends on rank 0 since one of the 2 ranks is gone or does not answer", line), line
    assert "Traceback" not in log(tmp_path, first)
    assert read(tmp_path / "runs" / "pretrain" / "last.ckpt")["global_step"] >= STEPS
    assert slurm.ended(second, LONG) == "COMPLETED", log(tmp_path, second)
    assert losses(tmp_path / "runs" / "pretrain") == losses(whole)


def pruned(folder: Path) -> str:
    """A model to fine-tune."""
    path = folder / "runs" / "earlier" / "pruned.ckpt"
    save(Encoder(preset("nano", modalities(["s1", "s2"]))), path)
    return str(path)


def test_fine_tuning_is_queued_again_and_ends_with_the_figures_of_the_best_model(
    slurm: Cluster, tmp_path: Path
) -> None:
    sets = TINY.replace("Synthetic", "tests.slurm.pace.Slow")
    words = ["--ckpt", pruned(tmp_path), *ONE, "--data.sets", sets, "--trust", "tests"]
    more = {"PYTHONPATH": path(), PACE: "0.3"}
    job = slurm.submit(*MACHINE, "--job-name=covers", FINETUNE, *words, cwd=tmp_path, more=more)
    wait_for(lambda: "epoch 1/" in log(tmp_path, job, "covers"), LONG, lambda: log(tmp_path, job, "covers"))
    slurm.call("scancel", "--signal=USR1", job)
    assert slurm.ended(job, LONG) == "COMPLETED", log(tmp_path, job, "covers")
    assert slurm.field(job, "Restarts") == "1"
    assert said(tmp_path, job, "covers") == [f"job {job} is back in the queue"]
    (line,) = re.findall(r"^mapex: .*", log(tmp_path, job, "covers"), re.MULTILINE)
    assert line.startswith("mapex: stopped after step")  # and half of a run was not tested
    figures = json.loads((tmp_path / "runs" / "covers" / "test.json").read_text())
    assert figures["ckpt"] == "runs/covers/best.ckpt"


def test_a_sweep_becomes_one_table_though_an_element_is_preempted(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--ckpt", pruned(tmp_path), *ONE]
    job = slurm.submit(*MACHINE, "--array=0-3%2", SWEEP, *words, cwd=tmp_path, more={"SHOTS": "1 2", "SEEDS": "0 1"})
    element = f"{job}_1"
    wait_for(lambda: "run folder" in log(tmp_path, f"{job}-1", "sweep"), LONG, lambda: slurm.state(job))
    slurm.call("scontrol", "requeue", element)
    restarted(slurm, tmp_path, element, 1)
    slurm.ended(job, 2 * LONG)
    assert set(slurm.state(job).split()) == {"COMPLETED"}, log(tmp_path, f"{job}-0", "sweep")
    monkeypatch.chdir(tmp_path)
    assert main(["results", "sweep-*", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == []
    assert [group["settings"] for group in found["groups"]] == [{"data.shots": 1}, {"data.shots": 2}]
    assert [[one["run"] for one in group["runs"]] for group in found["groups"]] == [
        [f"sweep-synthetic-shots{shots}-seed{seed}" for seed in (0, 1)] for shots in (1, 2)
    ]
    assert all(group["figures"]["test/accuracy"]["runs"] == 2 for group in found["groups"])
