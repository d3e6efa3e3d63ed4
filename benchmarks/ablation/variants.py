"""What the ablation varies: one factor of pre-training at a time, and how each is made without a flag in the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional as F

from mapex_lightning.modality import Modality
from mapex_lightning.model import decoder, patchify
from mapex_lightning.model import reconstruction as home
from mapex_lightning.model import target as targets
from mapex_lightning.model.auxiliary import Auxiliary
from mapex_lightning.model.config import preset
from mapex_lightning.model.decoder import Decoder, decoder_for
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.target import Error, Target, make_target, masked_error
from mapex_lightning.model.tokens import Tokens
from mapex_lightning.train.optim import Optimiser

PASSES = 1
"""Passes of a batch through the encoder: a few crops of 16 patches pad little, and calls cost more than padding."""


@dataclass(frozen=True)
class Variant:
    """One way to pre-train; what is not given is the default of the package.

    Args:
        says: the factor, in a few words.
        length: steps, as a multiple of the study's.
        every: every how many blocks the feed-forward is a mixture; 0 is the dense twin.
        config: fields of the encoder's description that differ.
        decoder: fields of the decoder's description that differ.
        visible: share of a view's tokens that the encoder sees.
        lr: peak learning rate.
        auxiliary: weights of the auxiliary losses.
        view: ``subsets`` (half of the tiles seen by one sensor, half by a random subset), ``alone`` or ``all``.
        cell: side in pixels of what is averaged into one number of radar's target.
        target: ``default``; ``normalised``, radar per patch as optical sensors; ``smooth``, radar's pixels after a
            5 x 5 mean; ``absolute``, optical sensors without normalisation, as radar.
        embedding: ``default``, LayerNorm of each patch embedding; ``none``; ``sum``, LayerNorm after position and
            sensor were added; ``bias``, a random bias before it, so that a patch's level survives it.
        asked: share of the patches that the decoder is asked for in training.
        gain: factor on the output of every expert at the start.
        waves: ratio of the longest to the shortest wavelength of the position code.
        vectors: deviation of the sensors' vectors at the start, in encoder and decoder.
    """

    says: str
    length: float = 1.0
    every: int = 2
    config: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, int] = field(default_factory=dict)
    visible: float = 0.25
    lr: float = Optimiser().lr
    auxiliary: Auxiliary = Auxiliary()
    view: str = "subsets"
    cell: int | None = None
    target: str = "default"
    embedding: str = "default"
    asked: float = 1.0
    gain: float = 1.0
    waves: float = 10000.0
    vectors: float = 0.02


NO_AUXILIARY = Auxiliary(mutual=0.0, cap=0.0, z=0.0)

VARIANTS = {
    "default": Variant("the package's defaults"),
    "dense": Variant("the dense twin", every=0),
    "untrained": Variant("random weights", length=0.0),
    "long": Variant("three times the steps", length=3.0),
    "dense long": Variant("the dense twin, three times the steps", length=3.0, every=0),
    "dense quarter": Variant("the dense twin, feed-forwards a quarter as wide", every=0, config={"hidden": 128}),
    "visible 0.5": Variant("half of the tokens visible", visible=0.5),
    "decoder depth 1": Variant("one decoder block", decoder={"depth": 1}),
    "decoder narrow": Variant("a decoder half as wide", decoder={"width": 32}),
    "every block": Variant("a mixture in every block", every=1),
    "later half": Variant("mixtures in the last three blocks", config={"experts": (0, 0, 0, 8, 8, 8)}),
    "top 2": Variant("two experts per token", config={"top_k": 2}),
    "shared": Variant("a shared expert, both half as wide", config={"shared": True}),
    "gain 2": Variant("experts' outputs doubled at the start", gain=2.0),
    "lr 4e-4": Variant("half the learning rate", lr=4e-4),
    "lr 1.6e-3": Variant("twice the learning rate", lr=1.6e-3),
    "lr 3.2e-3": Variant("four times the learning rate", lr=3.2e-3),
    "no auxiliary": Variant("no auxiliary loss", auxiliary=NO_AUXILIARY),
    "alone": Variant("every tile seen by one sensor", view="alone"),
    "all": Variant("every tile seen by all its sensors", view="all"),
    "radar patch": Variant("radar's target: the mean of the patch", cell=8),
    "radar pixel": Variant("radar's target: every pixel, absolute", cell=1),
    "radar normalised": Variant("radar's target: as in MAE", target="normalised"),
    "radar smooth": Variant("radar's target: smoothed pixels", cell=1, target="smooth"),
    "absolute": Variant("optical targets not normalised either", target="absolute"),
    "no norm": Variant("no LayerNorm after the patch embedding", embedding="none"),
    "norm of the sum": Variant("LayerNorm after position and sensor were added", embedding="sum"),
    "bias": Variant("random bias before the LayerNorm", embedding="bias"),
    "waves 100": Variant("position code with wavelengths up to 100 times the shortest", waves=100.0),
    "waves 10": Variant("position code with wavelengths up to 10 times the shortest", waves=10.0),
    "vectors 0.5": Variant("sensors' vectors of deviation 0.5 at the start", vectors=0.5),
    "asked 0.25": Variant("a quarter of the patches decoded", asked=0.25),
}


class Pair(nn.Module):
    """An encoder and its decoder, built as a variant says.

    Args:
        variant: the variant.
        sensors: the modalities.
    """

    def __init__(self, variant: Variant, sensors: tuple[Modality, ...]) -> None:
        super().__init__()
        sensors = tuple(replace(sensor, speckle=_absolute(sensor, variant)) for sensor in sensors)
        config = replace(preset("nano", sensors, every=variant.every), **variant.config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, replace(decoder_for(config), **variant.decoder))
        _embed(self.encoder, variant.embedding)
        with torch.no_grad():
            for mixture in self.encoder.mixtures.values():
                mixture.experts.outer.mul_(variant.gain)
            for vectors in (self.encoder.patchify.modality, self.decoder.modality):
                vectors.mul_(variant.vectors / 0.02)


def _absolute(sensor: Modality, variant: Variant) -> bool:
    """Whether the sensor's target keeps its absolute level."""
    if variant.target == "absolute":
        return True
    return sensor.speckle and variant.target != "normalised"


def _embed(encoder: Encoder, embedding: str) -> None:
    room = encoder.patchify
    for name, embed in room.embed.items():
        if embedding in ("none", "sum"):
            room.norm[name] = nn.Identity()
        if embedding == "bias":
            nn.init.normal_(embed.get_parameter("bias"))
    if embedding == "sum":
        room.last = nn.LayerNorm(encoder.config.width)
        room.register_forward_hook(lambda module, _, tokens: tokens._replace(values=module.last(tokens.values)))


@contextmanager
def in_force(variant: Variant, training: bool = True) -> Iterator[None]:
    """Makes `reconstruct` work as the variant says, in training or only as far as targets go."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(targets, "cell_side", _cells(variant)))
        for room in (patchify, decoder):
            stack.enter_context(mock.patch.object(room, "position_code", _code(variant.waves)))
        if variant.target == "smooth":
            stack.enter_context(mock.patch.object(home, "make_target", _smooth))
        if training and variant.view != "subsets":
            stack.enter_context(mock.patch.object(home, "draw_view", _alone if variant.view == "alone" else _all))
        if training and variant.asked < 1:
            stack.enter_context(mock.patch.object(home, "masked_error", _answered))
            stack.enter_context(mock.patch.object(Decoder, "forward", _asks(variant.asked)))
        yield


def _code(waves: float) -> Any:
    def code(place: Tensor, step: float, width: int) -> Tensor:
        exponent = torch.arange(width // 4, device=place.device, dtype=torch.float32) / (width // 4)
        angle = (place.float() / step)[..., None] / waves**exponent
        return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)

    return code


def _cells(variant: Variant) -> Any:
    def side(modality: Modality, patch: int) -> int:
        if modality.name != "radar" or not modality.speckle:
            return 1
        return variant.cell or patch // 2

    return side


def _smooth(image: Tensor, modality: Modality, patch: int) -> Target:
    if modality.speckle:
        image = F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return make_target(image, modality, patch)


def _alone(present: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.rand(present.shape, generator=generator).masked_fill(~present, 2.0)
    return present & (noise.argsort(1).argsort(1) == 0)


def _all(present: Tensor, generator: torch.Generator) -> Tensor:
    return present


def _asks(share: float) -> Any:
    """A decoder's forward that asks for a random share of the places of each sensor; the others become NaN."""
    whole = Decoder.forward

    def forward(self: Decoder, queries: Tokens, memory: Tokens, counts: Mapping[str, int]) -> dict[str, Tensor]:
        few = {name: max(1, round(share * count)) for name, count in counts.items()}
        drawn = [torch.rand(len(queries.values), n).argsort(1)[:, : few[name]] for name, n in counts.items()]
        starts = [0, *itertools.accumulate(counts.values())]
        chosen = torch.cat([column + start for column, start in zip(drawn, starts, strict=False)], dim=1)
        found = whole(self, queries.take(chosen), memory, few)
        filled = {}
        for (name, values), column in zip(found.items(), drawn, strict=True):
            empty = values.new_full((len(values), counts[name], values.shape[2]), torch.nan)
            filled[name] = empty.scatter(1, repeat(column, "b n -> b n p", p=values.shape[2]), values)
        return filled

    return forward


def _answered(prediction: Tensor, target: Target, hidden: Tensor) -> Error:
    return masked_error(prediction, target, hidden & prediction[..., 0].isfinite())
