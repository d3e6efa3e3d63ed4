"""A small run of each command, in this process: what tests of the command line and of training share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from mapex_lightning.__main__ import main

TILES = "[{class_path: Synthetic, init_args: {train: 12, val: 6, test: 6, size: 16, missing: 0.2}}]"
SMALL = ["--data.size", "16", "--data.batch_size", "4", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
SMALL += ["--trainer.log_every_n_steps", "1", "--trainer.enable_model_summary", "false"]


LIGHT = """
import sys
from mapex_lightning.__main__ import main
code = main({words!r})
heavy = {{"lightning", "timm", "torchvision", "rasterio", "jsonargparse", "sympy"}} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


def light(*words: str) -> None:
    """Runs a command in a process of its own and makes sure that it succeeds without what takes seconds to import."""
    command = [sys.executable, "-c", LIGHT.format(words=list(words))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def elsewhere() -> dict[str, str]:
    """The environment of a process in another folder: this package and these tests, one thread, no GPU."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root / "src"), str(root)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def pretrain(*words: str, run: str = "pretrain") -> Path:
    """Pre-trains nano for three steps; the run's last checkpoint."""
    command = ["fit", "--config", "pretrain.yaml", "--data.sets", TILES, *SMALL, "--run", run, *words]
    assert main(command) == 0
    return Path("runs") / run / "last.ckpt"


def finetune(*words: str, config: str = "synthetic.yaml", task: str = "multiclass", run: str = "synthetic") -> Path:
    """Fine-tunes for three steps; the run's last checkpoint."""
    tiles = TILES.replace("missing: 0.2", f"missing: 0.2, task: {task}")
    assert main(["fit", "--config", config, "--data.sets", tiles, *SMALL, "--run", run, *words]) == 0
    return Path("runs") / run / "last.ckpt"


def trainer_of(**settings: Any) -> pl.Trainer:
    """A Trainer that writes and shows nothing."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 1,
    }
    return pl.Trainer(**{**quiet, **settings})
