"""Tiny sensors, tiles and encoders, for laws that are tried on many of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor

from mapex_lightning.checkpoint import ENCODER, KEY, Description, describe, load_weights, weights
from mapex_lightning.modality import Modality
from mapex_lightning.model.config import Allowed, EncoderConfig, RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.pruning import sealing
from mapex_lightning.tiles import Tiles

RADAR = Modality("s1", ("VV", "VH"), 10.0, "dB", (-12.0, -19.0), (5.0, 6.0), speckle=True)
OPTICAL = Modality(
    "s2", ("B04", "B03", "B08"), 10.0, "reflectance x 10000", (500.0, 600.0, 1900.0), (300.0, 250.0, 900.0)
)
HEIGHT = Modality("dem", ("elevation",), 20.0, "metres", (300.0,), (350.0,))
SENSORS = (RADAR, OPTICAL, HEIGHT)
"""Two sensors of one ground sampling distance and one that is coarser."""

ROUTERS: tuple[RouterMode, ...] = ("conditioned", "free", "grouped", "blind")

steady = settings(max_examples=40, derandomize=True, deadline=None)
"""The same few examples every time, however slow the machine is."""


def config_of(
    experts: tuple[int, ...] = (3, 0, 4),
    sensors: tuple[Modality, ...] = SENSORS,
    router: RouterMode = "conditioned",
    top_k: int = 1,
    allowed: Allowed = (),
    width: int = 16,
    low_rank: int = 0,
) -> EncoderConfig:
    """A tiny encoder's description; a grouped router gets its groups and its shared expert."""
    if router == "grouped" and not allowed:
        allowed = tuple(dealt(count, len(sensors)) for count in experts)
    return EncoderConfig(
        modalities=sensors,
        width=width,
        heads=2,
        experts=experts,
        hidden=2 * width,
        patch=8,
        step=80.0,
        top_k=top_k,
        router=router,
        router_dim=8,
        shared=router == "grouped",
        allowed=allowed,
        low_rank=low_rank,
    )


def dealt(experts: int, sensors: int) -> tuple[tuple[int, ...], ...]:
    """Every expert to some sensor and some expert to every sensor."""
    each = max(1, -(-experts // sensors))
    return tuple(tuple((m + i * sensors) % experts for i in range(each)) for m in range(sensors)) if experts else ()


def encoder_of(config: EncoderConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Encoder:
    """An encoder with random weights: its router has made up its mind, so every expert finds some tokens.

    Its low-rank experts are past their start, where they do nothing.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = Encoder(config)
    with torch.no_grad():
        for mixture in encoder.mixtures.values():
            mixture.router.weight.mul_(8)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in encoder.named_parameters():
            if name.endswith(("sensor_up", "pattern_up")):
                weight.normal_(generator=generator)
    return encoder.to(dtype).eval()


def tiles_of(config: EncoderConfig, count: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tiles:
    """Random tiles of 160 m, in physical units: 2 x 2 patches of 8 pixels at 10 m, one patch at 20 m."""
    generator = torch.Generator().manual_seed(seed)
    images = {}
    for modality in config.modalities:
        side = round(160 / modality.gsd)
        mean, std = (torch.tensor(values)[:, None, None] for values in (modality.mean, modality.std))
        noise = torch.randn(count, len(modality.bands), side, side, generator=generator)
        level = torch.randn(count, len(modality.bands), 1, 1, generator=generator)
        images[modality.name] = (mean + std * (level + 0.5 * noise)).to(dtype)
    return Tiles.of(**images)


def only(tiles: Tiles, *names: str) -> Tiles:
    """The same tiles, as a data set of just those sensors would hold them."""
    return Tiles({n: tiles.images[n] for n in names}, {n: tiles.present[n] for n in names})


def row(tiles: Tiles, index: int) -> Tiles:
    """One tile of a batch, alone and with the sensors that it has."""
    names = [name for name, present in tiles.present.items() if bool(present[index])]
    return Tiles.of(**{name: tiles.images[name][index : index + 1] for name in names})


def observe(encoder: Encoder, *batches: Tiles) -> None:
    """Refills the census from batches of tiles."""
    with encoder.observe(), torch.no_grad():
        for tiles in batches:
            encoder(tiles)


def census_of(encoder: Encoder) -> dict[int, Tensor]:
    """The census of each mixture, by block."""
    return {block: mixture.census for block, mixture in encoder.mixtures.items()}


def seal(encoder: Encoder, coverage: float) -> None:
    """Seals an encoder at a coverage of the census that it has."""
    encoder.seal(sealing(encoder.config, census_of(encoder), coverage))


def checkpoint_of(encoder: Encoder, head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `mapex_lightning.checkpoint.read` would return of this encoder."""
    state = {ENCODER + name: value for name, value in encoder.state_dict().items()}
    kind: Any = "finetune" if head else "pretrain"
    return {"state_dict": state, KEY: Description(kind, encoder.config, ("made by a test",), head).plain()}


def rebuilt(checkpoint: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Encoder:
    """The encoder that a checkpoint in memory describes."""
    encoder = Encoder(describe(checkpoint).encoder).to(dtype)
    load_weights(encoder, weights(checkpoint, ENCODER), "a checkpoint in memory")
    return encoder.eval()
