"""What does an exported graph cost? The model as it is, for torch.export and for ONNX, by turns on the same tiles.

    python -m benchmarks.exported --threads 1 --clock processor

Two sensors of 64 x 64 pixels, random weights, every second block a mixture of 6 experts, or of one, as pruning may
leave. In a graph every expert gathers its own tokens, where the model sorts all of them once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.encoder import SIDE, tiles_of
from benchmarks.measure import Candidate, alternate, begin, options, ratio, spread, table
from mapex_lightning.checkpoint import ENCODER, KEY, Description
from mapex_lightning.export import program_of
from mapex_lightning.export.graphs import FORMS, Run, load_graph, write_graph
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import PRESETS, preset
from mapex_lightning.model.encoder import Encoder


def main(words: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, rounds=15)
    parser.add_argument("--preset", choices=PRESETS, default="nano")
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--experts", type=int, nargs="+", default=[6, 1])
    given = parser.parse_args(words)
    device = torch.device("cpu")
    clock = begin(given, device)
    rows: list[list[object]] = []
    for experts in given.experts:
        torch.manual_seed(0)
        encoder = Encoder(preset(given.preset, modalities(("s1", "s2")), experts=experts)).eval()
        state = {ENCODER + name: value for name, value in encoder.state_dict().items()}
        checkpoint = {"state_dict": state, KEY: Description("pretrain", encoder.config, ("random weights",)).plain()}
        with tempfile.TemporaryDirectory() as folder:
            ways: dict[str, Run] = {"model": program_of(checkpoint, "random weights")}
            for form in FORMS:
                done = write_graph(checkpoint, "random weights", Path(folder, form), form, size=SIDE)
                ways[form] = load_graph(form, done.path, given.threads)
            for count in given.tiles:
                images = dict(tiles_of(encoder.config, count, device).images)
                with torch.no_grad():
                    times = alternate(
                        {name: Candidate(partial(way, images)) for name, way in ways.items()},
                        given.rounds,
                        device,
                        clock,
                    )
                for name, took in times.items():
                    median = f"{1000 * spread(took.whole).median:.1f}"
                    rows.append([experts, count, name, median, ratio(took.whole, times["model"].whole)])
    print(table(["experts", "tiles", "way", "ms", "/ model"], rows))


if __name__ == "__main__":
    main()
