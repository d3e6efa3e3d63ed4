"""Two processes learn as one, also where one of them never sees a sensor that the other has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import hashlib, json, os, sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from mapex_lightning.data.module import TileData
from mapex_lightning.data.tileset import TileSet
from mapex_lightning.tiles import Tile
from mapex_lightning.train.pretrain import Pretrain

class Divided(TileSet):
    """Rank 0 sees radar alone, rank 1 optical images alone."""
    task, root, classes = "multiclass", Path(), ("only",)
    def offers(self, modality): return True
    def keys(self, split, modalities=None): return [f"{split}{i}" for i in range(8)]
    def label(self, key): return 0
    def read(self, key, modalities):
        mine = modalities[int(os.environ.get("LOCAL_RANK", "0"))]
        rng = np.random.default_rng(abs(hash(key)) % 1000)
        pixels = rng.normal(size=(len(mine.bands), 16, 16)) * np.reshape(mine.std, (-1, 1, 1))
        return Tile(key, {mine.name: (pixels + np.reshape(mine.mean, (-1, 1, 1))).astype(np.float32)}, 0)

data = TileData([Divided()], ["s1", "s2"], size=16, batch_size=2)
torch.manual_seed(0)
model = Pretrain("nano", ["s1", "s2"], seal=0.5)
strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=120))
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=2, logger=False,
                     enable_checkpointing=False, enable_progress_bar=False, use_distributed_sampler=False,
                     enable_model_summary=False, num_sanity_val_steps=0)
trainer.fit(model, datamodule=data)
weights = torch.cat([w.detach().flatten() for w in model.parameters()])
found = {
    "weights": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
    "finite": bool(weights.isfinite().all()),
    "census": [m.census.sum((2,)).tolist() for m in model.encoder.mixtures.values()],
    "allowed": repr(model.encoder.config.allowed),
    "loss": float(trainer.callback_metrics["val/loss"]),
}
Path(sys.argv[1], f"rank{trainer.global_rank}.json").write_text(json.dumps(found))
'''


def quiet() -> dict[str, str]:
    """The environment with one thread per process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What each of two ranks ended with."""
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", str(folder)], cwd=folder, env=quiet(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_ranks_with_different_sensors_neither_hang_nor_drift_apart(ranks: list[dict[str, object]]) -> None:
    assert ranks[0]["finite"]
    assert ranks[0]["weights"] == ranks[1]["weights"]


def test_the_census_is_the_sum_over_the_ranks(ranks: list[dict[str, object]]) -> None:
    assert ranks[0]["census"] == ranks[1]["census"]
    census = ranks[0]["census"]
    assert isinstance(census, list)
    for block in census:
        tokens = block[0]
        assert tokens == [16.0, 16.0]  # 8 validation tiles, 4 a rank and sensor, 4 tokens each


def test_every_rank_seals_the_same_experts_and_reports_the_same_loss(ranks: list[dict[str, object]]) -> None:
    assert ranks[0]["allowed"] == ranks[1]["allowed"] != "()"
    assert ranks[0]["loss"] == ranks[1]["loss"]


def test_the_ddp_config_runs_on_two_processes(tmp_path: Path) -> None:
    tiles = "[{class_path: Synthetic, init_args: {train: 8, val: 4, test: 4, size: 16}}]"
    command = [sys.executable, "-m", "mapex_lightning", "fit", "--config", "pretrain.yaml", "--config", "ddp.yaml"]
    command += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.precision", "32-true"]
    command += ["--data.sets", tiles, "--data.size", "16", "--data.batch_size", "2", "--data.workers", "0"]
    command += ["--trainer.max_epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=quiet(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["pretrain"]
    assert (tmp_path / "runs/pretrain/last.ckpt").is_file()
    assert done.stdout.count("run folder: runs/pretrain") == 2
    prune = [sys.executable, "-m", "mapex_lightning", "prune", "--ckpt", "last.ckpt", "--keep", "s1"]
    done = subprocess.run(
        [*prune, *command[4:]], cwd=tmp_path, env=quiet(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/pretrain/pruned.ckpt").is_file()
    assert done.stdout.count("kept s1") == 1
