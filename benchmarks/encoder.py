"""How fast is the encoder? Against a ViT of equal compute, in a pre-training step, and pruned.

    python -m benchmarks.encoder
    python -m benchmarks.encoder --parts pruned --preset small
    python -m benchmarks.encoder --device cuda --dtype bfloat16 --compile

``vit``: the encoder (sensors s1 and s2, every second block a mixture) against timm's VisionTransformer. Equal are
width, depth, heads, hidden size, patches, tokens per tile, input pixels, mean over tokens and no class token. The
encoder reads two sensors of 64 x 64 pixels with 2 and 12 bands, the ViT one image of 64 x 128 pixels with 7.

``step``: a pre-training step (masking, encoder, decoder, losses, gradients, AdamW) on four sensors against its dense
twin, the same without a single mixture.

``pruned``: the unpruned encoder of four sensors, the same sealed with one expert per sensor, and what pruning to s2
leaves of it, on tiles of s2 alone; beside a ViT of equal compute. The unpruned one's tokens spread over its experts as
its random router says; in the sealed one they all go to one expert, as they do after pruning.

FLOPs are those of the ViT's matrix products, as torch counts them; what the router adds is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Candidate, Clock, Times, alternate, begin, options, peak, ratio, spread, table
from mapex_lightning.checkpoint import ENCODER, KEY, Description, encoder_of
from mapex_lightning.modality import modalities
from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total
from mapex_lightning.model.config import PRESETS, EncoderConfig, preset
from mapex_lightning.model.decoder import Decoder, decoder_for
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.pruning import prune
from mapex_lightning.tiles import Tiles

SENSORS = ("s1", "s2", "rgb", "dem")
SIDE = 64
"""Pixels of a tile, in both directions."""


VIT, COMPILED = "timm ViT", ", compiled"
PARTS = ("vit", "step", "pruned")

Call = Callable[[], Tensor]


class Way(NamedTuple):
    """A model at work.

    Attributes:
        call: a forward pass on tiles that are there.
        module: whose parameters are trained.
    """

    call: Call
    module: nn.Module


class Place(NamedTuple):
    """Where and how everything runs.

    Attributes:
        device: CPU or CUDA.
        dtype: of autocast; float32 for none.
        compiled: whether everything is timed compiled, too.
        rounds: of timing.
        clock: see `benchmarks.measure.CLOCKS`.
        rate: FLOPs per second that count as full use of the device.
    """

    device: torch.device
    dtype: torch.dtype
    compiled: bool
    rounds: int
    clock: Clock
    rate: float

    def cast(self) -> AbstractContextManager[Any]:
        """Autocast, where a narrow type is asked for."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def inference(self, call: Call) -> Candidate:
        """A forward pass without gradients."""

        def forward() -> Tensor:
            with torch.no_grad(), self.cast():
                return call()

        return Candidate(forward)

    def training(self, call: Call, module: nn.Module) -> Candidate:
        """A forward pass and the gradients of all parameters."""

        def forward() -> Tensor:
            with self.cast():
                return call()

        parameters = list(module.parameters())
        return Candidate(forward, lambda out: torch.autograd.grad(out, parameters, torch.ones_like(out)))

    def time(self, candidates: Mapping[str, Candidate]) -> dict[str, Times]:
        """Times candidates by turns."""
        return alternate(candidates, self.rounds, self.device, self.clock)

    def kinds(self, ways: Mapping[str, Way]) -> dict[str, Way]:
        """The ways as they are and, where that is asked for, compiled."""
        if not self.compiled:
            return dict(ways)
        return {
            **ways,
            **{f"{name}{COMPILED}": way._replace(call=torch.compile(way.call)) for name, way in ways.items()},
        }


def tiles_of(config: EncoderConfig, count: int, device: torch.device) -> Tiles:
    """Tiles of noise, with every sensor present, in physical units."""
    noise = {m.name: torch.randn(count, len(m.bands), SIDE, SIDE) for m in config.modalities}
    images = {
        m.name: noise[m.name] * torch.tensor(m.std)[:, None, None] + torch.tensor(m.mean)[:, None, None]
        for m in config.modalities
    }
    return Tiles.of(**{name: image.to(device) for name, image in images.items()})


def vit_of(config: EncoderConfig) -> VisionTransformer:
    """A ViT of timm, of the same compute; its image is as wide as all sensors side by side."""
    many = len(config.modalities)
    return VisionTransformer(
        img_size=(SIDE, SIDE * many),
        patch_size=config.patch,
        in_chans=sum(len(modality.bands) for modality in config.modalities) // many,
        num_classes=0,
        global_pool="avg",
        class_token=False,
        fc_norm=False,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.hidden / config.width,
    )


def image_for(vit: VisionTransformer, count: int, device: torch.device) -> Tensor:
    """Noise in the shape of the ViT's input."""
    embed = vit.patch_embed
    return torch.randn(count, embed.proj.in_channels, *embed.img_size, device=device)


def flops_of(function: Callable[[], object]) -> int:
    """FLOPs of the matrix products in a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def measured_rate(device: torch.device, dtype: torch.dtype, size: int, clock: Clock) -> float:
    """FLOPs per second of one large matrix product, the most that one can hope for."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = alternate({"product": Candidate(lambda: a @ b)}, 5, device, clock)["product"]
    return 2 * size**3 / min(times.whole)


def vit_rows(name: str, tokens: Sequence[int], place: Place) -> list[list[object]]:
    """Encoder and ViT of a preset, inference and training, at several batch sizes."""
    torch.manual_seed(0)
    config = preset(name, modalities(SENSORS[:2]), experts=6)
    encoder, vit = Encoder(config).to(place.device), vit_of(config).to(place.device)
    each = len(config.modalities) * (SIDE // config.patch) ** 2
    rows: list[list[object]] = []
    for many in tokens:
        count = max(1, many // each)
        image = image_for(vit, count, place.device)
        flops = flops_of(partial(vit, image))
        ways = place.kinds(
            {
                VIT: Way(partial(vit, image), vit),
                "encoder": Way(partial(encoder.pooled, tiles_of(config, count, place.device)), encoder),
            }
        )
        for what, passes, candidates in (
            ("inference", 1, {n: place.inference(way.call) for n, way in ways.items()}),
            ("training", 3, {n: place.training(way.call, way.module) for n, way in ways.items()}),
        ):
            times = place.time(candidates)
            rows += [
                [
                    f"{what}, {many} tokens",
                    way,
                    f"{count / spread(took.whole).median:.1f}",
                    ratio(times[base_of(way)].whole, took.whole),
                    f"{passes * flops / spread(took.whole).median / place.rate:.0%}",
                ]
                for way, took in times.items()
            ]
    return rows


def base_of(way: str) -> str:
    """The ViT that a way is compared with: eager with eager, compiled with compiled."""
    return VIT + (COMPILED if way.endswith(COMPILED) else "")


class Trial(NamedTuple):
    """An encoder, its decoder and an optimiser, ready for a step.

    Attributes:
        step: a whole step on the same tiles under the same masks.
        encoder: what is trained.
    """

    step: Callable[[], None]
    encoder: Encoder


def trial_of(config: EncoderConfig, count: int, place: Place) -> Trial:
    """A pre-training step of an encoder on `count` tiles of noise, as `Pretrain` takes it."""
    torch.manual_seed(0)
    encoder = Encoder(config).to(place.device)
    decoder = Decoder(config, decoder_for(config)).to(place.device)
    tiles, auxiliary = tiles_of(config, count, place.device), Auxiliary()
    optimiser = AdamW([*encoder.parameters(), *decoder.parameters()], fused=place.device.type == "cuda")
    if place.compiled:
        encoder.compile()

    def step() -> None:
        generator = torch.Generator(place.device).manual_seed(0)
        with place.cast():
            found = reconstruct(encoder, decoder, tiles, 0.25, generator)
            losses = auxiliary_losses(found.assignments, len(config.names))
            loss = mean_over_modalities(found.errors) + total(losses, auxiliary)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return Trial(step, encoder)


def step_rows(name: str, count: int, place: Place) -> list[list[object]]:
    """A pre-training step of a preset and of its dense twin."""
    configs = {
        "dense twin": preset(name, modalities(SENSORS), every=0),
        "with mixtures": preset(name, modalities(SENSORS)),
    }
    trials = {way: trial_of(config, count, place) for way, config in configs.items()}
    times = place.time({way: Candidate(trial.step) for way, trial in trials.items()})
    peaks = {way: peak(trial.step, place.device) for way, trial in trials.items()}
    dense = "dense twin"
    return [
        [
            way,
            f"{sum(parameter.numel() for parameter in trials[way].encoder.parameters()) / 1e6:.1f} M",
            f"{count / spread(took.whole).median:.1f}",
            ratio(times[dense].whole, took.whole),
            f"{peaks[way] / 2**20:.0f} MiB",
            f"{peaks[way] / peaks[dense]:.2f}",
        ]
        for way, took in times.items()
    ]


def family(name: str, device: torch.device) -> dict[str, Encoder]:
    """An encoder of four sensors with random weights, the same sealed, and pruned to s2."""
    torch.manual_seed(0)
    config = preset(name, modalities(SENSORS))
    unpruned = Encoder(config).to(device).eval()
    own = tuple((sensor,) for sensor in range(len(SENSORS)))
    sealed = Encoder(replace(config, allowed=tuple(own if count else () for count in config.experts)))
    sealed.load_state_dict(unpruned.state_dict(), assign=True)
    sealed.eval()
    with torch.no_grad(), sealed.observe():
        sealed(tiles_of(config, 1, device))
    state = {ENCODER + weight: value for weight, value in sealed.state_dict().items()}
    checkpoint = {"state_dict": state, KEY: Description("pretrain", sealed.config, ("random weights",)).plain()}
    pruned = encoder_of(prune(checkpoint, ["s2"])[0], "the pruned encoder").to(device).eval()
    return {"unpruned": unpruned, "sealed": sealed.to(device), "pruned": pruned}


def pruned_rows(name: str, counts: Sequence[int], place: Place) -> list[list[object]]:
    """Latency of unpruned, sealed and pruned encoders and of a ViT, on tiles of one sensor."""
    encoders = family(name, place.device)
    config = encoders["pruned"].config
    vit = vit_of(config).to(place.device).eval()
    rows: list[list[object]] = []
    for count in counts:
        tiles = tiles_of(config, count, place.device)
        ways = {way: Way(partial(encoder.pooled, tiles), encoder) for way, encoder in encoders.items()}
        ways = place.kinds({VIT: Way(partial(vit, image_for(vit, count, place.device)), vit), **ways})
        times = place.time({way: place.inference(found.call) for way, found in ways.items()})
        for way, took in times.items():
            kind = COMPILED if way.endswith(COMPILED) else ""
            rows.append(
                [
                    f"batch {count}",
                    way,
                    f"{sum(parameter.numel() for parameter in ways[way].module.parameters()) / 1e6:.1f} M",
                    f"{1e3 * spread(took.whole).median:.1f}",
                    ratio(took.whole, times["unpruned" + kind].whole),
                    ratio(took.whole, times[VIT + kind].whole),
                ]
            )
    return rows


@torch.no_grad()
def differences(encoders: Mapping[str, Encoder], device: torch.device) -> dict[str, float]:
    """The largest difference between pruned and sealed output, by type; the encoders are wide afterwards."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        sealed, pruned = (encoders[way].to(dtype) for way in ("sealed", "pruned"))
        tiles = tiles_of(pruned.config, 4, device)
        tiles = tiles._replace(images={sensor: image.to(dtype) for sensor, image in tiles.images.items()})
        found[str(dtype).removeprefix("torch.")] = float((sealed.pooled(tiles) - pruned.pooled(tiles)).abs().max())
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--preset", choices=PRESETS, help="by default small, and base where pruned")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 2048], help="of a batch, in part vit")
    parser.add_argument("--tiles", type=int, default=16, help="of a batch, in part step")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="tiles of a batch, in part pruned")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of autocast")
    parser.add_argument("--compile", action="store_true", help="time everything compiled, too; part step only compiled")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the data sheet; by default those of a large product")
    options(parser, rounds=7)
    given = parser.parse_args(words)
    clock, dtype = begin(given, given.device), getattr(torch, given.dtype)
    size = 8192 if given.device.type == "cuda" else 1024
    rate = given.peak * 1e12 if given.peak else measured_rate(given.device, dtype, size, clock)
    place = Place(given.device, dtype, given.compile, given.rounds, clock, rate)
    if "vit" in given.parts:
        columns = ["pass", "way", "tiles/s", "tiles/s / ViT", "utilisation"]
        rows = vit_rows(given.preset or "small", given.tokens, place)
        print(f"\n{given.preset or 'small'}, {given.dtype}; full use is {rate / 1e12:.2f} TFLOP/s\n")
        print(table(columns, rows), flush=True)
    if "step" in given.parts:
        columns = ["pre-training step", "encoder", "tiles/s", "tiles/s / dense", "peak", "peak / dense"]
        rows = step_rows(given.preset or "small", given.tiles, place)
        print(f"\n{given.preset or 'small'}, {given.tiles} tiles of {len(SENSORS)} sensors, {given.dtype}\n")
        print(table(columns, rows), flush=True)
    if "pruned" in given.parts:
        columns = ["tiles", "way", "parameters", "ms", "ms / unpruned", "ms / ViT"]
        rows = pruned_rows(given.preset or "base", given.batch, place)
        print(f"\n{given.preset or 'base'}, tiles of s2, inference, {given.dtype}\n")
        print(table(columns, rows), flush=True)
        largest = differences(family(given.preset or "base", place.device), place.device)
        print("\nlargest |pruned - sealed|: " + ", ".join(f"{value:.1e} in {name}" for name, value in largest.items()))


if __name__ == "__main__":
    main()
