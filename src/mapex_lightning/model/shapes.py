"""The names and shapes of an encoder's weights, told from its description alone, with no layer made."""

from __future__ import annotations

from collections.abc import Iterator

from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.lowrank import DYNAMIC
from mapex_lightning.model.mixture import CENSUS

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """What ``Encoder(config).state_dict()`` holds: the shape of each weight by its name, the census included."""
    found = dict(_patchify(config))
    for block in range(config.depth):
        found |= {f"blocks.{block}.{name}": shape for name, shape in _block(config, block)}
    return found | dict(_layer("norm", config.width))


def _patchify(config: EncoderConfig) -> Shapes:
    yield "patchify.modality", (len(config.modalities), config.width)
    for modality in config.modalities:
        pixels = len(modality.bands) * config.patch**2
        yield from _layer(f"patchify.embed.{modality.name}", config.width, pixels)
        yield from _layer(f"patchify.norm.{modality.name}", config.width)


def _block(config: EncoderConfig, block: int) -> Shapes:
    width, sensors, rank = config.width, len(config.modalities), config.low_rank
    yield from _layer("norm1", width)
    yield from _layer("attention.qkv", 3 * width, width)
    yield from _layer("attention.proj", width, width)
    yield from _layer("norm2", width)
    if config.experts[block]:
        yield from _mixture(config, block)
    else:
        yield from _layer("dense.fc1", config.hidden, width)
        yield from _layer("dense.fc2", width, config.hidden)
    if rank:
        for part, count in (("sensor", sensors), ("pattern", DYNAMIC)):
            yield f"low_rank.{part}_down", (count, rank, width)
            yield f"low_rank.{part}_up", (count, width, rank)
        yield "low_rank.gate", (sensors, DYNAMIC)


def _mixture(config: EncoderConfig, block: int) -> Shapes:
    width, sensors, count = config.width, len(config.modalities), config.experts[block]
    rows, copies = len(config.routes_of(block)), sensors if config.router == "free" else 1
    yield "mixture.census", (len(CENSUS), sensors, count + 1)
    yield "mixture.router.weight", (copies, rows, width)
    yield "mixture.router.bias", (copies, rows)
    if config.router in ("conditioned", "grouped"):
        yield "mixture.router.vectors", (sensors, config.router_dim)
        yield "mixture.router.vector_weight", (rows, config.router_dim)
    hidden = config.hidden // 2 if config.shared else config.hidden
    for part, many in (("experts", count), *([("shared", 1)] if config.shared else [])):
        yield f"mixture.{part}.inner", (many, hidden, width)
        yield f"mixture.{part}.inner_bias", (many, hidden)
        yield f"mixture.{part}.outer", (many, width, hidden)
        yield f"mixture.{part}.outer_bias", (many, width)


def _layer(name: str, out: int, *into: int) -> Shapes:
    """A linear layer, or without `into` a norm."""
    yield f"{name}.weight", (out, *into)
    yield f"{name}.bias", (out,)
