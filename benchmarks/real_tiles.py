"""Real tiles, end to end: does pruning keep what pre-training learnt, and is it worth anything against plain baselines?

    python benchmarks/real_tiles.py --data DIR --out FOLDER --seeds 0 1 2

Pre-trains nano on real BigEarthNet pairs (S1 and S2), EuroSAT multispectral and EuroSAT RGB, prunes to s2 and to rgb,
and compares on EuroSAT with a fixed split. Writes results.json after every step and prints the tables of
docs/real-tiles.md. What was already done in FOLDER is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mapex_lightning import cli
from mapex_lightning.checkpoint import describe, load, load_weights, read, weights
from mapex_lightning.commands import prune as prune_command
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets import EuroSAT
from mapex_lightning.data.tileset import Split
from mapex_lightning.model.config import Allowed
from mapex_lightning.model.decoder import Decoder, DecoderConfig
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.pruning import Kept, prune
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.base import tiles_of

SENSORS = ("s2", "rgb")
SHOTS = 10
DRAWS = 5
"""Random prunings per seed."""
EPOCHS = {("s2", True): 30, ("s2", False): 30, ("rgb", True): 30, ("rgb", False): 3}
"""Of fine-tuning, by sensor and whether labels are few."""

Results = dict[str, float]


class Study:
    """One seed's figures, kept in a file so that an interrupted study goes on.

    Args:
        data: the folder of the data sets.
        out: the folder of the study.
        seed: of pre-training, labels and fine-tuning.
    """

    def __init__(self, data: Path, out: Path, seed: int) -> None:
        self.data, self.seed, self.out = data, seed, out
        self.file = out / f"results-{seed}.json"
        self.results: Results = json.loads(self.file.read_text()) if self.file.exists() else {}

    def note(self, name: str, measure: Callable[..., float], *arguments: Any) -> None:
        """Measures a figure once."""
        if name not in self.results:
            self.results[name] = measure(*arguments)
            self.file.write_text(json.dumps(self.results, indent=1))
            print(f"seed {self.seed}: {name} = {self.results[name]:.4f}", flush=True)

    def run(self) -> None:
        """All figures of the seed."""
        full = self.pretrained()
        for sensor in SENSORS:
            pruned = full.with_name(f"pruned-{sensor}.ckpt")
            if not pruned.exists():
                prune_command.run(["--ckpt", str(full), "--keep", sensor, "--out", str(pruned)])
            before, after = (sum(p.numel() for p in load(path).parameters()) for path in (full, pruned))
            self.note(f"{sensor}/parameters removed", float, 1 - after / before)
            self.reconstruction(sensor, full)
            models = {"full": (full, True), "pruned": (pruned, True), "random": (pruned, False)}
            for few in (True, False):
                labels = f"{SHOTS} per class" if few else "all"
                self.note(f"{sensor}/{labels}/probe/plain", self.probe, sensor, few, None)
                for model, (path, trained) in models.items():
                    encoder = load(path) if trained else self.untrained(path)
                    self.note(f"{sensor}/{labels}/probe/{model}", self.probe, sensor, few, encoder)
                    self.note(f"{sensor}/{labels}/fine-tune/{model}", self.finetune, sensor, few, path, trained)

    def pretrained(self) -> Path:
        """Pre-trains, and notes how specialised the experts were before and after."""
        run = f"pretrain-seed{self.seed}"
        last = Path("runs") / run / "last.ckpt"
        if not last.exists():
            words = ["--config", "pretrain.yaml", "--config", "real.yaml", "--data.root", str(self.data), "--run", run]
            seeds = ["--seed_everything", str(self.seed), "--model.seed", str(self.seed), "--data.seed", str(self.seed)]
            cli.run("fit", [*words, *seeds])
        with (last.parent / "routing.csv").open() as file:
            rows = list(csv.DictReader(file))
        blocks = len({row["block"] for row in rows})
        for when, part in (("before", rows[:blocks]), ("after", rows[-blocks:])):
            for row in part:
                self.note(f"nmi/block {row['block']}/{when}", float, row["nmi"])
        return last

    def tiles(self, sensor: str, few: bool = False) -> TileData:
        """EuroSAT as one sensor, without augmentation."""
        return TileData(
            [EuroSAT(root=self.data)], [sensor], shots=SHOTS if few else None, augment=False, seed=self.seed
        )

    def untrained(self, path: Path) -> Encoder:
        """The shape of a checkpoint with new weights."""
        torch.manual_seed(self.seed)
        return Encoder(load(path).config).eval()

    def reconstruction(self, sensor: str, full: Path) -> None:
        """Masked reconstruction of the kept sensor alone, on test tiles, for several ways to choose experts."""
        checkpoint = read(full)
        config = describe(checkpoint).encoder
        kept = prune(checkpoint, [sensor])[1].experts
        rng = np.random.default_rng(self.seed)

        def with_experts(experts: Kept) -> float:
            encoder = load(full)
            many = len(config.modalities)
            allowed: Allowed = tuple((experts[b],) * many if b in experts else () for b in range(config.depth))
            encoder.seal(allowed)
            return self.masked_error(sensor, full, encoder)

        def at_random() -> float:
            draws = []
            for _ in range(DRAWS):
                draw = {b: rng.choice(config.experts[b], len(k), replace=False) for b, k in kept.items()}
                draws.append(with_experts({b: tuple(sorted(map(int, d))) for b, d in draw.items()}))
            return statistics.mean(draws)

        def without() -> float:
            encoder = load(full)
            with torch.no_grad():
                for mixture in encoder.mixtures.values():
                    mixture.experts.outer.zero_()
                    mixture.experts.outer_bias.zero_()
            return self.masked_error(sensor, full, encoder)

        self.note(f"{sensor}/reconstruction/full", self.masked_error, sensor, full, load(full))
        self.note(f"{sensor}/reconstruction/pruned", with_experts, kept)
        self.note(f"{sensor}/reconstruction/randomly pruned", at_random)
        self.note(f"{sensor}/reconstruction/no mixture", without)

    @torch.no_grad()
    def masked_error(self, sensor: str, full: Path, encoder: Encoder) -> float:
        """Mean squared error per hidden pixel over up to 512 test tiles, the same masks for every encoder."""
        checkpoint = read(full)
        found = describe(checkpoint)
        assert found.decoder is not None
        decoder = Decoder(found.encoder, DecoderConfig(**found.decoder)).eval()
        load_weights(decoder, weights(checkpoint, "decoder."), str(full))
        generator = torch.Generator().manual_seed(0)
        total = number = 0.0
        for tiles in _batches(self.tiles(sensor), "test", 512):
            error = reconstruct(encoder, decoder, tiles, 0.25, generator).errors[sensor]
            total, number = total + float(error.total), number + float(error.number)
        return total / number

    def probe(self, sensor: str, few: bool, encoder: Encoder | None) -> float:
        """Test accuracy of logistic regression on frozen features; without an encoder on band means and deviations."""
        train, test = (_features(self.tiles(sensor, few), split, encoder) for split in ("train", "test"))
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        return float(model.fit(*train).score(*test))

    def finetune(self, sensor: str, few: bool, path: Path, pretrained: bool) -> float:
        """Test accuracy after fine-tuning everything."""
        name = f"{sensor}-{'few' if few else 'all'}-{path.stem}-{'pre' if pretrained else 'random'}-seed{self.seed}"
        words = ["--config", "eurosat.yaml", "--data.root", str(self.data), "--data.modalities", f"[{sensor}]"]
        words += ["--run", name, "--data.seed", str(self.seed), "--seed_everything", str(self.seed)]
        fit = [
            "--model.encoder",
            str(path),
            "--model.pretrained",
            str(pretrained).lower(),
            "--model.seed",
            str(self.seed),
        ]
        fit += ["--trainer.max_epochs", str(EPOCHS[sensor, few]), "--trainer.limit_val_batches", "2"]
        fit += ["--data.shots", str(SHOTS), "--data.batch_size", "20"] if few else []
        cli.run("fit", words + fit)
        last = Path("runs") / name / "last.ckpt"
        cli.run("test", [*words, "--ckpt", str(last)])
        figures: Results = json.loads((last.parent / "test.json").read_text())
        return figures["test/accuracy"]


def _batches(data: TileData, split: Split, most: int | None = None) -> Iterator[Tiles]:
    data.predict_split = split
    seen = 0
    for batch in data.predict_dataloader():
        tiles = tiles_of(data.on_after_batch_transfer(batch, 0))
        yield tiles
        seen += tiles.batch_size
        if most is not None and seen >= most:
            return


@torch.no_grad()
def _features(data: TileData, split: Split, encoder: Encoder | None) -> tuple[np.ndarray, np.ndarray]:
    labels = [source.label(key) for source, key in data.members(split)]
    parts = [_plain(tiles) if encoder is None else encoder.pooled(tiles) for tiles in _batches(data, split)]
    return torch.cat(parts).numpy(), np.array(labels)


def _plain(tiles: Tiles) -> torch.Tensor:
    """Mean and deviation per band."""
    (image,) = tiles.images.values()
    return torch.cat([image.mean((2, 3)), image.std((2, 3))], dim=1)


def table(results: list[Results]) -> str:
    """Mean and standard deviation over the seeds of every figure."""
    lines = [f"{'figure':44s} mean    sd      ({len(results)} seeds)"]
    for name in results[0]:
        values = [found[name] for found in results if name in found]
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        lines.append(f"{name:44s} {statistics.mean(values):.4f}  {deviation:.4f}")
    return "\n".join(lines)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Run folders go below `folder`."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with EuroSAT_MS and EuroSAT_RGB")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    out, data = given.out.resolve(), given.data.resolve()
    with inside(out):
        studies = [Study(data, out, seed) for seed in given.seeds]
        for study in studies:
            study.run()
    print(table([study.results for study in studies]))


if __name__ == "__main__":
    main()
