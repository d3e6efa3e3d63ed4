"""A process that saves checkpoints over and over, and is killed at any moment: what is left of them?

    python -m tests.kills FOLDER --count 200 --way ours

Step n fills all weights of its checkpoint with n, so that half a checkpoint would be seen. With ``TMPDIR`` on another
file system, temporary files that are not written beside their target show what they are worth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mapex_lightning.checkpoint import ENCODER, KEY, Description, read, write
from mapex_lightning.errors import MapexError
from mapex_lightning.files import sweep
from mapex_lightning.modality import MODALITIES
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.shapes import shapes

ROOT = Path(__file__).parents[1]
CONFIG = EncoderConfig((MODALITIES["s1"],), width=16, heads=2, experts=(0,), hidden=32, patch=8, step=80.0)
SIZE = 2**19


class Toll(NamedTuple):
    """What killing has cost.

    Attributes:
        kills: of the saving process.
        midway: kills that left a temporary file beside the checkpoint.
        unreadable: kills after which the checkpoint could not be read, or was not that of one step.
        lost: kills after which the checkpoint was that of an earlier step than before.
        strays: files that were there beside the checkpoint after a sweep.
        saves: the last step that was found.
    """

    kills: int
    midway: int
    unreadable: int
    lost: int
    strays: int
    saves: int


def checkpoint(step: int) -> dict[str, Any]:
    """The checkpoint of a step: 2 MB."""
    sizes = {**{ENCODER + name: shape for name, shape in shapes(CONFIG).items()}, "others": (SIZE,)}
    weights = {name: torch.full(shape, float(step)) for name, shape in sizes.items()}
    described = Description("pretrain", CONFIG, ("made by a test",)).plain()
    return {KEY: described, "state_dict": weights, "global_step": step}


def step_of(found: Mapping[str, Any]) -> int:
    """The step of a checkpoint that is complete."""
    step: int = found["global_step"]
    state = found["state_dict"]
    if "others" not in state or any(not bool((value == step).all()) for value in state.values()):
        raise MapexError(f"not all of it is of step {step}")
    return step


def _lightning(content: dict[str, Any], path: Path) -> None:
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    TorchCheckpointIO().save_checkpoint(content, path)


def _plainly(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


WAYS: Mapping[str, tuple[Callable[[dict[str, Any], Path], None], Callable[[Path], dict[str, Any]]]] = {
    "ours": (write, read),
    "in place": (torch.save, _plainly),
    "lightning": (_lightning, _plainly),
}
"""Ways to save and to read."""


def kill(folder: Path, count: int, way: str, seed: int = 0) -> Toll:
    """Kills a process that saves, again and again, each time as it goes on from what is there."""
    save, load = WAYS[way]
    path, chance = folder / "last.ckpt", random.Random(seed)
    save(checkpoint(0), path)  # the first one imports things
    start = time.monotonic()
    save(checkpoint(1), path)
    each, before = time.monotonic() - start, 1
    toll = Toll(count, 0, 0, 0, 0, 0)
    for _ in range(count):
        saver = os.fork()
        if saver == 0:
            with suppress(BaseException):
                for step in itertools.count(before + 1):
                    save(checkpoint(step), path)
            os._exit(1)
        time.sleep(chance.uniform(0, 4 * each))
        os.kill(saver, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(saver, 0)[1]):
            raise RuntimeError("The process ended before it was killed.")
        toll = toll._replace(midway=toll.midway + any(folder.glob(".*.part")))
        sweep(folder)
        toll = toll._replace(strays=toll.strays + len(set(folder.iterdir()) - {path}))
        try:
            found = step_of(load(path))
        except Exception:  # whatever it is, the checkpoint is gone
            toll = toll._replace(unreadable=toll.unreadable + 1)
            save(checkpoint(before), path)
        else:
            toll = toll._replace(lost=toll.lost + (found < before))
            before = found
    return toll._replace(saves=before)


def toll_of(folder: Path, count: int, way: str = "ours", temporary: str | None = None) -> Toll:
    """The same in a process of its own, which can be forked since it has one thread."""
    words = [sys.executable, "-m", "tests.kills", str(folder), "--count", str(count), "--way", way]
    given = {**os.environ, "OMP_NUM_THREADS": "1", **({"TMPDIR": temporary} if temporary else {})}
    done = subprocess.run(words, cwd=ROOT, env=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return Toll(**json.loads(done.stdout))


def main() -> None:
    """Prints what it costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--way", choices=WAYS, default="ours")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(kill(given.folder, given.count, given.way)._asdict()))


if __name__ == "__main__":
    main()
