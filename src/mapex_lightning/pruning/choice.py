"""Which experts stay: a score says what each is worth to each sensor, and a rule draws the line.

Axes: M modalities, E experts. Everything here is a pure function of descriptions and tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.model.config import Allowed, EncoderConfig
from mapex_lightning.model.mixture import CENSUS

COVERAGE = 0.99
"""Share of a modality's mass that its experts must carry, unless said otherwise."""

Census = Mapping[int, Tensor]
"""Per mixture block, (4, M, E + 1): see `mapex_lightning.model.mixture.CENSUS`."""

Kept = Mapping[int, tuple[int, ...]]
"""Per mixture block: the experts that stay, ascending."""

Score = Literal["contribution", "activation", "gate", "frequency"]
Rule = Literal["sealed", "coverage", "threshold", "top", "size"]
Fallback = Literal["next", "merged"]


@dataclass(frozen=True)
class Policy:
    """How experts are chosen, and what becomes of tokens that would choose one that is gone.

    Args:
        rule: ``sealed``: the sets that pre-training has sealed, which leaves every output as it was; ``coverage``: the
            fewest experts that carry `amount` of each kept sensor's mass; ``threshold``: every expert that carries
            at least `amount` of it; ``top``: the `amount` best of each kept sensor; ``size``: the encoder shrinks to
            `amount` parameters (a share of what it has, if at most 1) by giving up, one after the other, the expert
            that costs the kept sensors the least mass per parameter.
        amount: see `rule`; ``sealed`` has none.
        score: what an expert is worth to a sensor: ``frequency``, the tokens that chose it; ``gate``, their gates;
            ``contribution``, gate x |output|, summed; ``activation``, the same as a mean over the tokens that chose it
            (REAP, arXiv 2510.13999), which ranks a rare expert above a common one that does little. `activation` is
            no mass that adds up: it only orders the experts, and shares are those of `contribution`.
        fallback: ``next``: the router chooses among the experts that stay; ``merged``: an expert that goes is averaged,
            by mass, into the one that stays with the most similar router row, and its tokens follow it there
            (M-SMoE, arXiv 2310.01334, without its alignment of hidden units).

    Raises:
        MapexError: a word is unknown, or the amount does not suit the rule.
    """

    rule: Rule
    amount: float = 0.0
    score: Score = "contribution"
    fallback: Fallback = "next"

    def __post_init__(self) -> None:
        for kind, word, known in (
            ("rule", self.rule, Rule),
            ("score", self.score, Score),
            ("fallback", self.fallback, Fallback),
        ):
            if word not in get_args(known):
                raise unknown(kind, word, get_args(known))
        if self.rule in ("coverage", "threshold") and not 0 < self.amount <= 1:
            raise MapexError(f"{self.rule.capitalize()} is a share above 0 and up to 1; found {self.amount}.")
        if self.rule == "top" and not (self.amount >= 1 and float(self.amount).is_integer()):
            raise MapexError(f"Top is a number of experts, 1 or more; found {self.amount}.")
        if self.rule == "size" and not self.amount > 0:
            raise MapexError(f"Size is a number of parameters, or a share of them up to 1; found {self.amount}.")

    @classmethod
    def standard(cls, config: EncoderConfig) -> Policy:
        """What is done unless asked otherwise: the sealed sets where there are some, else `COVERAGE`."""
        return cls("sealed") if config.sealed else cls("coverage", COVERAGE)

    def words(self) -> str:
        """The policy as options of ``mapex prune``; empty for sealed sets."""
        parts = [] if self.rule == "sealed" else [f"--{self.rule} {self.amount:g}"]
        parts += [] if self.score == "contribution" else [f"--score {self.score}"]
        parts += [] if self.fallback == "next" else [f"--fallback {self.fallback}"]
        return " ".join(parts)


def census_of(config: EncoderConfig, state: Mapping[str, Tensor], source: str) -> Census:
    """The census among the weights of an encoder.

    Raises:
        MapexError: a part of it is missing, or is of another number of sensors or experts than described.
    """
    found = {}
    for block in config.mixtures:
        name = f"blocks.{block}.mixture.census"
        wanted = (len(CENSUS), len(config.modalities), config.experts[block] + 1)
        if name not in state or state[name].shape != wanted:
            what = f"lacks {name}" if name not in state else f"has {name} of shape {tuple(state[name].shape)}"
            raise MapexError(
                f"{source} does not fit its own description: it {what}. The file was altered; write it anew."
            )
        found[block] = state[name]
    return found


def mass(census: Tensor, score: Score = "contribution") -> Tensor:
    """Each modality's mass per expert, (M, E + 1), of which shares are taken; of `activation`, the contribution."""
    row = "tokens" if score == "frequency" else "gate" if score == "gate" else "contribution"
    return census[CENSUS.index(row)].double()


def rank(census: Tensor, score: Score) -> Tensor:
    """What orders each modality's experts: (M, E + 1), the better the higher."""
    amount = mass(census, score)
    return amount / mass(census, "frequency").clamp(min=1) if score == "activation" else amount


def cover(order: Tensor, amount: Tensor, coverage: float) -> tuple[int, ...]:
    """The fewest experts, best first, that carry `coverage` of the mass; ties go to the lower number.

    Args:
        order: (E + 1,), what ranks the experts.
        amount: (E + 1,), their mass; the last is that of experts that are already gone and cannot be kept.
        coverage: between 0 and 1. The sets of two coverages are nested.

    Returns:
        At least one expert, ascending.
    """
    best = order[:-1].argsort(descending=True, stable=True)
    reached = amount[best].cumsum(0) >= coverage * amount.sum() * (1 - 1e-12)
    # Experts that carry nothing never help to reach the coverage.
    count = int(reached.nonzero()[0, 0]) + 1 if bool(reached.any()) else max(1, int((amount[:-1] > 0).sum()))
    return tuple(sorted(best[:count].tolist()))


def _above(order: Tensor, amount: Tensor, threshold: float) -> tuple[int, ...]:
    """The experts that carry at least `threshold` of the mass, and the best one in any case."""
    share = amount / amount.sum()
    return tuple(sorted({*(share[:-1] >= threshold).nonzero()[:, 0].tolist(), *_best(order, amount, 1)}))


def _best(order: Tensor, amount: Tensor, count: int) -> tuple[int, ...]:
    """The `count` best experts that carry anything, ascending; at least one."""
    best = order[:-1].argsort(descending=True, stable=True)
    return tuple(sorted(best[: max(1, min(count, int((amount[:-1] > 0).sum())))].tolist()))


def sets(config: EncoderConfig, census: Census, policy: Policy) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The experts that each modality needs by the rule ``coverage``, ``threshold`` or ``top``: per block and modality.

    In a sealed model these are found among the allowed ones.

    Raises:
        MapexError: the census has not seen a modality.
    """
    rules = {"coverage": cover, "threshold": _above, "top": lambda order, amount, n: _best(order, amount, int(n))}
    pick: Callable[[Tensor, Tensor, float], tuple[int, ...]] = rules[policy.rule]
    found: list[tuple[tuple[int, ...], ...]] = []
    for block, count in enumerate(config.experts):
        if not count:
            found.append(())
            continue
        seen = _seen(config, census, block)
        pairs = zip(rank(seen, policy.score), mass(seen, policy.score), strict=True)
        found.append(tuple(pick(order, amount, policy.amount) for order, amount in pairs))
    return tuple(found)


def sealing(config: EncoderConfig, census: Census, coverage: float = COVERAGE) -> Allowed:
    """What `Encoder.seal` needs for every modality to stay inside the experts that carry `coverage` of its mass.

    Raises:
        MapexError: the census has not seen a modality.
    """
    needed = sets(config, census, Policy("coverage", coverage))
    return tuple(
        tuple(tuple(row for row, e in enumerate(config.routes_of(block)) if e in experts) for experts in needed[block])
        for block in range(config.depth)
    )


def _seen(config: EncoderConfig, census: Census, block: int) -> Tensor:
    """The census of a block, in which experts that sealing has forbidden since it was counted are gone.

    Raises:
        MapexError: it has not seen a modality.
    """
    counted = census[block].clone()
    for modality, experts in enumerate(allowed_experts(config, block)):
        forbidden = [e for e in range(config.experts[block]) if e not in experts]
        counted[:, modality, -1] += counted[:, modality, forbidden].sum(-1)
        counted[:, modality, forbidden] = 0
    for name, amount in zip(config.names, mass(counted), strict=True):
        if float(amount[:-1].sum()) <= 0:
            raise MapexError(
                f"The census of block {block} has seen no token of {name}, so nobody knows which experts it "
                "needs. Refresh it on tiles that have it: mapex prune --ckpt FILE --keep ... --config TILES.yaml."
            )
    return counted


def allowed_experts(config: EncoderConfig, block: int) -> tuple[tuple[int, ...], ...]:
    """The experts that each modality may use in a block, ascending."""
    routes = config.routes_of(block)
    if not config.sealed:
        return (tuple(range(config.experts[block])),) * len(config.modalities)
    return tuple(tuple(sorted({routes[row] for row in rows})) for rows in config.allowed[block])


def choose(
    config: EncoderConfig,
    census: Census,
    keep: Sequence[str],
    policy: Policy,
    size_of: Callable[[Kept], int],
) -> Kept:
    """The experts that stay, per mixture block.

    Args:
        config: the encoder.
        census: its census.
        keep: names of modalities.
        policy: how to choose.
        size_of: the parameters of the encoder that is left, for the rule ``size``.

    Raises:
        MapexError: nothing is kept, a name is unknown, the census has not seen a kept modality, the model is not sealed
            though the policy wants its sealed sets, or the size cannot be reached.
    """
    if not keep:
        raise MapexError(f"Nothing would be left: keep one or more of {', '.join(config.names)}.")
    for name in keep:
        config.modality(name)
    at = [index for index, name in enumerate(config.names) if name in keep]
    narrowed = replace(
        config,
        modalities=tuple(config.modalities[m] for m in at),
        allowed=tuple(tuple(rows[m] for m in at) if rows else () for rows in config.allowed),
    )
    if policy.rule == "sealed":
        if not config.sealed:
            raise MapexError(
                "This model has no sealed sets to prune to; choose --coverage, --threshold, --top or --size."
            )
        return {block: _union(allowed_experts(narrowed, block)) for block in config.mixtures}
    kept_census = {block: census[block][:, at] for block in config.mixtures}
    if policy.rule == "size":
        return _shrink(narrowed, kept_census, policy, size_of)
    needed = sets(narrowed, kept_census, policy)
    return {block: _union(needed[block]) for block in config.mixtures}


def _union(sets: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(sorted({expert for experts in sets for expert in experts}))


def _shrink(config: EncoderConfig, census: Census, policy: Policy, size_of: Callable[[Kept], int]) -> Kept:
    """Gives up the expert of least mass per parameter until the size is reached; every sensor keeps one per block."""
    kept = {block: tuple(range(config.experts[block])) for block in config.mixtures}
    whole = size_of(kept)
    target = policy.amount * whole if policy.amount <= 1 else policy.amount
    worth: dict[tuple[int, int], float] = {}
    for block in config.mixtures:
        amount = rank(_seen(config, census, block), policy.score)
        share = (amount / amount.sum(1, keepdim=True)).sum(0)
        cost = whole - size_of({**kept, block: kept[block][1:]}) if len(kept[block]) > 1 else 1
        worth |= {(block, e): float(share[e]) / cost for e in kept[block]}
    for block, expert in sorted(worth, key=lambda choice: (worth[choice], choice)):
        if size_of(kept) <= target:
            return kept
        rest = tuple(e for e in kept[block] if e != expert)
        if all(set(rest) & set(own) for own in allowed_experts(config, block)):
            kept[block] = rest
    if size_of(kept) > target:
        raise MapexError(
            f"The encoder for {', '.join(config.names)} has at least {size_of(kept):,} parameters, with one expert per "
            f"mixture and sensor; a size of {int(target):,} cannot be reached. Keep fewer sensors or ask for more."
        )
    return kept
