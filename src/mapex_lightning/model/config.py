"""The description of an encoder: plain, frozen types that fully determine its weights' names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from torch import nn

from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality

RouterMode = Literal["conditioned", "free", "grouped", "blind"]

Allowed = tuple[tuple[tuple[int, ...], ...], ...]
"""Per block, per modality: the router's rows that its tokens may use, which are the experts unless `routes` says
otherwise. A dense block has an empty entry."""


@dataclass(frozen=True)
class EncoderConfig:
    """Everything there is to know about an encoder but its weights.

    Args:
        modalities: the sensors it reads, with units and statistics; their order numbers them.
        width: token dimension D, a multiple of 4 and of `heads`.
        heads: attention heads.
        experts: one number per block: 0 for a dense feed-forward, otherwise its number of experts.
        hidden: inner dimension of a feed-forward, and of each expert unless `shared`.
        patch: side of a patch in pixels, the same for every sensor.
        step: metres that count as one step of the position code, so that sensors of different ground
            sampling distance share one coordinate frame (ScaleMAE).
        top_k: experts that each token uses.
        router: see `mapex_lightning.model.router.Router`.
        router_dim: dimension of the learned router vector of each modality.
        shared: a further expert that every token uses; routed and shared experts then have half of `hidden`
            each, so that a token costs the same.
        allowed: the experts that each modality may use, per block; empty where all may use all. Sealing
            fills it; a grouped router is born with it.
        routes: the expert to which each row of the router leads, per block; empty, for a block or for all, where every
            expert has its own row. Pruning with merged experts fills it.
        low_rank: rank of the low-rank experts that adapt every block to the sensors at hand; 0 for none. See
            `mapex_lightning.model.lowrank`.

    Raises:
        MapexError: a number is out of range or two contradict each other.
    """

    modalities: tuple[Modality, ...]
    width: int
    heads: int
    experts: tuple[int, ...]
    hidden: int
    patch: int
    step: float
    top_k: int = 1
    router: RouterMode = "conditioned"
    router_dim: int = 32
    shared: bool = False
    allowed: Allowed = ()
    routes: tuple[tuple[int, ...], ...] = ()
    low_rank: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.heads) < 1 or self.width % 4 or self.width % self.heads:
            raise MapexError(f"width must be a multiple of 4 and of heads={self.heads}; found {self.width}.")
        if min(self.experts, default=-1) < 0 or self.top_k < 1 or self.patch < 1 or self.hidden < 2:
            raise MapexError("An encoder needs a block or more, no negative number of experts, top_k, patch >= 1.")
        if self.router not in get_args(RouterMode):
            raise unknown("router mode", self.router, get_args(RouterMode))
        for modality in self.modalities:
            if hasattr(nn.ModuleDict(), modality.name):  # which holds a patch embedding per modality, by its name
                raise MapexError(
                    f"A modality cannot be called {modality.name!r}, a word that torch keeps for itself; give it "
                    f"another name, such as {modality.name}_band."
                )
        if self.low_rank < 0:
            raise MapexError(f"low_rank is a number of dimensions, 0 for none; found {self.low_rank}.")
        if self.routes:
            self._check_routes()
        if self.allowed:
            self._check_allowed()

    def _check_routes(self) -> None:
        if len(self.routes) != self.depth:
            raise MapexError(f"`routes` must have one entry per block ({self.depth}); found {len(self.routes)}.")
        for block, (count, rows) in enumerate(zip(self.experts, self.routes, strict=True)):
            if rows and set(rows) != set(range(count)):
                raise MapexError(f"`routes` of block {block} must lead to each of {count} experts; found {rows}.")

    def _check_allowed(self) -> None:
        if len(self.allowed) != self.depth:
            raise MapexError(f"`allowed` must have one entry per block ({self.depth}); found {len(self.allowed)}.")
        for block, rows in enumerate(self.allowed):
            if not self.experts[block] and rows == ():
                continue
            known = set(range(len(self.routes_of(block))))
            if len(rows) != len(self.modalities) or not all(row and set(row) <= known for row in rows):
                raise MapexError(
                    f"`allowed` of block {block} must give each of {len(self.modalities)} modalities one or more "
                    f"of its {len(known)} experts; found {rows}."
                )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.experts)

    def routes_of(self, block: int) -> tuple[int, ...]:
        """The expert to which each row of a block's router leads."""
        return (self.routes[block] if self.routes else ()) or tuple(range(self.experts[block]))

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities' names, by index."""
        return tuple(modality.name for modality in self.modalities)

    @property
    def mixtures(self) -> tuple[int, ...]:
        """The blocks whose feed-forward is a mixture."""
        return tuple(block for block, count in enumerate(self.experts) if count)

    @property
    def sealed(self) -> bool:
        """Whether routing stays inside stored sets, which makes pruning exact for every input."""
        return bool(self.allowed)

    def modality(self, name: str) -> Modality:
        """The modality of that name.

        Raises:
            MapexError: the encoder does not read it.
        """
        if name not in self.names:
            raise unknown("modality", name, self.names, where="in this encoder")
        return self.modalities[self.names.index(name)]

    def describe(self) -> dict[str, Any]:
        """Plain types that survive JSON and ``weights_only`` loading."""
        described = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        described["modalities"] = [modality.describe() for modality in self.modalities]
        return described

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> EncoderConfig:
        """The inverse of `describe`.

        Raises:
            MapexError: a key is unknown or missing.
        """
        known = {field.name for field in fields(cls)}
        if stray := set(description) ^ known:
            raise MapexError(
                f"The description of the encoder differs from what this version knows: {', '.join(sorted(stray))}."
            )
        values = {key: _frozen(value) for key, value in description.items() if key != "modalities"}
        return cls(modalities=tuple(Modality.of(entry) for entry in description["modalities"]), **values)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


Preset = Literal["nano", "tiny", "small", "base", "large"]

_SHAPES: dict[str, dict[str, int]] = {
    "nano": {"width": 128, "depth": 6, "heads": 4},
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
}
PRESETS = tuple(_SHAPES)


def preset(
    name: str,
    modalities: tuple[Modality, ...],
    *,
    experts: int | None = None,
    every: int = 2,
    patch: int = 8,
    top_k: int = 1,
    router: RouterMode = "conditioned",
    collaborative: int = 0,
) -> EncoderConfig:
    """An encoder of a ViT's size (tiny, small, base, large as in DeiT and ViT; nano for laptops and tests).

    Args:
        name: one of `PRESETS`.
        modalities: the sensors.
        experts: experts per mixture; by default 6, and two per modality where there are more than three.
        every: every how many blocks, from the first on, the feed-forward is a mixture; 0 for none (the dense twin).
        patch: side of a patch in pixels.
        top_k: experts per token.
        router: router mode; ``grouped`` shares the experts out over the modalities and adds a shared expert.
        collaborative: how many of the experts of a grouped mixture every modality may choose, besides its own: with
            the shared expert, which all tokens use, the three tiers of RingMoE (arXiv 2504.03166).

    Raises:
        MapexError: the name is unknown, a number is out of range, or collaborative experts leave some modality no
            expert of its own.
    """
    if name not in _SHAPES:
        raise unknown("preset", name, _SHAPES)
    if collaborative and router != "grouped":
        raise MapexError(
            f"Collaborative experts are a tier of the grouped router; found router {router}. "
            "Set router: grouped, or collaborative: 0."
        )
    shape = _SHAPES[name]
    count = max(6, 2 * len(modalities)) if experts is None else experts
    config = EncoderConfig(
        modalities=modalities,
        width=shape["width"],
        heads=shape["heads"],
        experts=tuple(count if every and block % every == 0 else 0 for block in range(shape["depth"])),
        hidden=4 * shape["width"],
        patch=patch,
        step=patch * min(modality.gsd for modality in modalities),
        top_k=top_k,
        router=router,
        shared=router == "grouped",
    )
    return replace(config, allowed=_groups(config, collaborative)) if router == "grouped" else config


def _groups(config: EncoderConfig, collaborative: int) -> Allowed:
    """Deals the experts out in turn, but for the last ones, which are everybody's.

    Without collaborative experts modalities share where there are fewer experts than modalities.
    """
    many, count = len(config.modalities), max(config.experts)
    own = count - collaborative
    if collaborative < 0 or (collaborative and 0 < count < many + collaborative):
        raise MapexError(
            f"collaborative is 0 or more and leaves each of {many} modalities an expert of its own, so with {count} "
            f"experts per mixture it is at most {max(0, count - many)}; found {collaborative}. Give more experts."
        )

    def dealt(modality: int) -> tuple[int, ...]:
        mine = tuple(e for e in range(own) if e % many == modality) or (modality % own,)
        return (*mine, *range(own, count))

    return tuple(tuple(dealt(m) for m in range(many)) if experts else () for experts in config.experts)
