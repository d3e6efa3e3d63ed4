"""The main job on embedded synthetic scenes: pre-train, prune to two sensors, fine-tune, test. A few minutes.

make demo        or        python examples/demo.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

KEEP = "s1,s2"


def mapex(*words: str) -> str:
    """Runs a mapex command, shows what it prints, and returns the run folder it names."""
    print(f"\n$ mapex {' '.join(words)}", flush=True)
    folder = ""
    command = [sys.executable, "-m", "mapex_lightning", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("run folder: "):
                folder = line.removeprefix("run folder: ").strip()
    if process.returncode:
        sys.exit(process.returncode)
    return folder


def main() -> None:
    """Runs the commands and prints what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see that it runs")
    short = parser.parse_args().quick
    few = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"] if short else []
    few_test = ["--trainer.limit_test_batches", "1"] if short else []

    demo = "demo-quick" if short else "demo"

    pretrain = mapex(
        "fit",
        "--config",
        "pretrain.yaml",
        "--run",
        f"{demo}-pretrain",
        "--trainer.max_epochs",
        "1" if short else "3",
        *few,
    )
    full, pruned = Path(pretrain) / "last.ckpt", Path(pretrain) / "pruned.ckpt"
    mapex("prune", "--ckpt", str(full), "--keep", KEEP)
    report = json.loads(pruned.with_suffix(".json").read_text())
    rows = []
    for name, start, count in (
        ("full", full, report["parameters"]["before"]),
        ("pruned", pruned, report["parameters"]["after"]),
    ):
        run = ["--config", "synthetic.yaml", "--run", f"{demo}-{name}"]
        folder = mapex("fit", *run, "--model.encoder", str(start), "--trainer.max_epochs", "1" if short else "4", *few)
        mapex("test", *run, *few_test)
        accuracy = json.loads((Path(folder) / "test.json").read_text())["test/accuracy"]
        rows.append((name, count, accuracy, folder))

    print("\nSynthetic scenes, ten land covers, 1,000 labels; one seed.\n")
    print(f"{'encoder':10s}{'parameters':>12s}{'test accuracy':>16s}   run folder")
    for name, count, accuracy, folder in rows:
        print(f"{name:10s}{count:12,d}{accuracy:16.3f}   {folder}")
    print(f"\npruned away: {1 - rows[1][1] / rows[0][1]:.0%} of the encoder's parameters, keeping {KEEP}")
    print(f"pictures: {pretrain}/pictures/    logs: tensorboard --logdir runs")


if __name__ == "__main__":
    main()
