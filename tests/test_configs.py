"""Every config that ships runs; the largest encoders are only counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import save
from mapex_lightning.cli.words import packaged_configs
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import PRESETS, preset
from mapex_lightning.model.encoder import Encoder
from tests import layouts, torchgeo_files
from tests.sharding import write_set

LIMITS = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
LIMITS += ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1", "--data.batch_size", "2"]
LIMITS += ["--trainer.enable_model_summary", "false", "--trainer.num_sanity_val_steps", "0"]

RUNS = {
    "pretrain": ["--config", "pretrain.yaml"],
    "synthetic": ["--config", "synthetic.yaml"],
    "segment": ["--config", "segment.yaml"],
    "nano": ["--config", "pretrain.yaml", "--config", "nano.yaml"],
    "tiny": ["--config", "pretrain.yaml", "--config", "tiny.yaml"],
    "small": ["--config", "pretrain.yaml", "--config", "small.yaml"],
}
"""Configs that need nothing but the embedded scenes, as lists of words."""

REAL = {
    "real": ["--config", "pretrain.yaml", "--config", "real.yaml", "--data.draws", "4", "--model.seal", "null"],
    "eurosat": ["--config", "eurosat.yaml"],
    "bigearthnet": ["--config", "bigearthnet.yaml"],
}
"""Configs that need real tiles."""

WRITTEN = {
    "burnscars": layouts.burnscars,
    "cabuar": layouts.cabuar,
    "ombria": layouts.ombria,
    "sen1floods11": layouts.sen1floods11,
    "sen12flood": layouts.sen12flood,
}
"""Configs of published sets, and what writes a few tiny tiles in their layouts."""

ELSEWHERE = {"ddp", "fsdp", "benge", "base", "large"}
"""Run by tests/train/test_ddp.py and test_sharded.py; by tests/data/sets/test_benge.py; too large to train here."""

SHARDED: dict[str, tuple[str, list[str], int]] = {
    "terramesh": ("TerraMesh", ["S2L2A", "S1RTC", "S2RGB", "DEM"], 1),
    "ssl4eo": ("SSL4EO-S12-v1.1", ["S2L2A", "S1GRD", "DEM"], 4),
}
"""Overlays that need shards: the folder, the folders in there and the times of a place."""

TORCHGEO = {
    name: ["--config", f"{name}.yaml"] for name in ("eurosat100", "dfc2020", "sen12ms", "so2sat", "landcoverai")
} | {
    name: ["--config", "pretrain.yaml", "--config", f"{name}.yaml", "--model.seal", "null"]
    for name in ("ssl4eo_s12", "ssl4eo_l", "mmearth")
}
"""Configs that need data sets of torchgeo."""

TILES = 11
"""Of data sets without splits: one of them is then for validation."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pruned checkpoint to fine-tune."""
    monkeypatch.chdir(tmp_path)
    save(Encoder(preset("nano", modalities(["s1", "s2"]))), tmp_path / "runs" / "earlier" / "pruned.ckpt")
    return tmp_path


def test_every_config_is_run_somewhere() -> None:
    somewhere = {*RUNS, *REAL, *WRITTEN, *SHARDED, *TORCHGEO, *ELSEWHERE}
    assert {file.stem for file in packaged_configs().glob("*.yaml")} == somewhere


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_config_runs_on_embedded_scenes(words: list[str], folder: Path) -> None:
    assert main(["fit", *words, *LIMITS]) == 0


@pytest.mark.parametrize("words", REAL.values(), ids=REAL)
def test_a_config_runs_on_real_tiles(words: list[str], folder: Path, shared_data: Callable[[str], Path]) -> None:
    root = shared_data("eurosat-ms").parent
    ben = "{class_path: BigEarthNet, init_args: {root: %s}}" % (shared_data("bigearthnet-configilm") / "BENv2")
    rest = ["--data.root", str(root)]
    if "bigearthnet.yaml" in words:
        rest += ["--data.sets", f"[{ben}]"]
    if "real.yaml" in words:
        eurosat = [f"{{class_path: EuroSAT, init_args: {{require: [{name}]}}}}" for name in ("s2", "rgb")]
        rest += ["--data.sets", f"[{', '.join([ben, *eurosat])}]"]
    assert main(["fit", *words, *rest, *LIMITS]) == 0


@pytest.mark.parametrize(("name", "write"), WRITTEN.items(), ids=WRITTEN)
def test_a_config_runs_on_tiles_in_the_published_layout(name: str, write: Callable[[Path], None], folder: Path) -> None:
    write(folder / "tiles")
    config = yaml.safe_load((packaged_configs() / f"{name}.yaml").read_text())
    sensors = modalities(config["data"]["modalities"])
    save(Encoder(preset("nano", sensors)), folder / "runs" / "earlier" / "pruned.ckpt")
    words = ["--config", f"{name}.yaml", "--data.root", "tiles", "--data.size", "32", *LIMITS]
    assert main(["fit", *words]) == 0


@pytest.mark.parametrize("name", SHARDED)
def test_a_config_runs_on_shards_as_published(name: str, folder: Path) -> None:
    below, sensors, times = SHARDED[name]
    for split in ("train", "val"):
        write_set(folder / "data" / below, split, "a", sensors, range(4), times)
    rest = ["--data.size", "16", "--data.draws", "4", "--data.workers", "0", "--model.seal", "null"]
    assert main(["fit", "--config", "pretrain.yaml", "--config", f"{name}.yaml", *rest, *LIMITS]) == 0


@pytest.mark.parametrize(
    "name", ["eurosat100", *(pytest.param(name, marks=pytest.mark.slow) for name in TORCHGEO if name != "eurosat100")]
)
def test_a_config_runs_on_files_of_torchgeo(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beneath, put = torchgeo_files.LAYOUTS[name]
    root = folder / "files"
    put(root / beneath, *([TILES] if "pretrain.yaml" in TORCHGEO[name] else []))
    # It counts its places whether they are there or not.
    monkeypatch.setattr("torchgeo.datasets.SSL4EOS12.__len__", lambda self: TILES)
    sensors = yaml.safe_load((packaged_configs() / f"{name}.yaml").read_text())["data"]["modalities"]
    save(Encoder(preset("nano", modalities(sensors))), folder / "runs" / "newest" / "pruned.ckpt")
    assert main(["fit", *TORCHGEO[name], "--data.root", str(root), *LIMITS]) == 0


@pytest.mark.parametrize(
    ("name", "millions"), [("nano", 3.3), ("tiny", 14.5), ("small", 57.1), ("base", 227.0), ("large", 809.0)]
)
def test_presets_have_the_size_of_a_vit_with_mixtures(name: str, millions: float) -> None:
    assert set(PRESETS) == {"nano", "tiny", "small", "base", "large"}
    with torch.device("meta"):
        encoder = Encoder(preset(name, modalities(["s1", "s2", "rgb"])))
    assert sum(weight.numel() for weight in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)
