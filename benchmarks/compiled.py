"""What does ``--compile true`` bring? Pre-training steps of the same model, as it is and compiled, by turns.

    python -m benchmarks.compiled --threads 1 --clock processor

Two sensors, a quarter of their tokens visible, other masks in every step, so that buckets have other lengths. The steps
before the first measured one compile; what they cost is told apart. FLOPs are the same on both sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.optim import AdamW

from benchmarks.encoder import tiles_of
from benchmarks.measure import CLOCKS, begin, options, ratio, table
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import PRESETS, EncoderConfig, preset
from mapex_lightning.model.decoder import Decoder, decoder_for
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.train.compiled import compile_in_place, parts_of


class Training(nn.Module):
    """A model that is pre-trained.

    Args:
        config: of its encoder.
        tiles: in a batch.
    """

    def __init__(self, config: EncoderConfig, tiles: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, decoder_for(config))
        self.tiles = tiles_of(config, tiles, torch.device("cpu"))
        self.optimiser = AdamW(self.parameters(), lr=1e-3, fused=True)

    def step(self, number: int) -> float:
        """One step; its loss."""
        generator = torch.Generator().manual_seed(number)
        loss: Tensor = mean_over_modalities(reconstruct(self.encoder, self.decoder, self.tiles, 0.25, generator).errors)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.item()


def main(words: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, rounds=20)
    parser.add_argument("--preset", choices=PRESETS, default="nano")
    parser.add_argument("--tiles", type=int, default=16)
    parser.add_argument("--before", type=int, default=8, help="steps that compile")
    parser.add_argument("--backend", default="inductor")
    given = parser.parse_args(words)
    begin(given, torch.device("cpu"))
    clock = CLOCKS[given.clock]
    config = preset(given.preset, modalities(("s1", "s2")))
    plain, compiled = Training(config, given.tiles), Training(config, given.tiles)
    compile_in_place(compiled, given.backend)
    took: dict[str, list[float]] = {"plain": [], "compiled": []}
    apart = 0.0
    for number in range(given.before + given.rounds):
        losses = []
        for name, model in (("plain", plain), ("compiled", compiled)):
            start = clock()
            losses.append(model.step(number))
            took[name].append(clock() - start)
        apart = max(apart, abs(losses[1] - losses[0]) / losses[0])
    cost = sum(took["compiled"][: given.before]) - sum(took["plain"][: given.before])
    late = {name: times[given.before :] for name, times in took.items()}
    row = [
        given.preset,
        given.tiles,
        ratio(late["compiled"], late["plain"]),
        f"{cost:.0f}",
        len(list(parts_of(compiled))),
        counters["stats"]["unique_graphs"],
        sum(counters["graph_break"].values()),
        f"{apart:.1e}",
    ]
    columns = ["preset", "tiles", "compiled / plain", "seconds to compile", "parts", "graphs", "breaks", "losses apart"]
    print(table(columns, [row]))


if __name__ == "__main__":
    main()
