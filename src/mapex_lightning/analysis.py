"""What the experts of an encoder do: routing and reconstruction on held-out tiles, beside their controls.

Axes: E experts, M modalities, I images (one modality of one tile).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mapex_lightning.errors import MapexError
from mapex_lightning.model.decoder import Decoder
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.interventions import at_rest, diverted, skipped, watched, without_mixtures
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.router import Assignment, Router
from mapex_lightning.model.specialisation import Tally, added, mutual_information, shares, specialisation, tally
from mapex_lightning.model.target import Error
from mapex_lightning.precision import widest
from mapex_lightning.tiles import Tiles

VISIBLE = 0.25
"""Share of a view's tokens that the encoder sees when errors are measured, as in pre-training."""
PERMUTATIONS = 20
"""How often the labels of images are permuted for the figure that chance gives."""
LEGEND = (
    "  stays: share of tokens that keep their experts; follows: share that go where the other sensor's own tokens go",
    "  effective experts: exp of the entropy of their use; token entropy: in nats, 0 is certain; distance: 0 is"
    " the same use, 1 none in common",
)
"""How to read the table of routing."""


def masked_errors(
    encoder: Encoder, decoder: Decoder, batches: Iterable[Tiles], visible: float = VISIBLE, seed: int = 0
) -> dict[str, Error]:
    """Masked reconstruction over batches, under masks that depend on the tiles and the seed alone.

    So two encoders of the same modalities, or one encoder inside and outside a context of this module, are compared on
    the same masks.

    Args:
        encoder: any encoder.
        decoder: its decoder.
        batches: tiles, on the encoder's device.
        visible: share of a view's tokens that the encoder sees.
        seed: of the masks.

    Returns:
        Per modality the squared error over its hidden patches, added up.
    """
    generator = torch.Generator(_device(encoder)).manual_seed(seed)
    names = encoder.config.names
    device = _device(encoder)
    sums = torch.zeros(len(names), 2, dtype=widest(device), device=device)
    with at_rest(encoder, decoder):
        for tiles in batches:
            for name, error in reconstruct(encoder, decoder, tiles, visible, generator).errors.items():
                sums[names.index(name)] += torch.stack(error).to(sums.dtype)
    return {name: Error(*row) for name, row in zip(names, sums.unbind(), strict=True)}


class _Seen(NamedTuple):
    """One router on one batch, unmasked.

    Attributes:
        own: its tally.
        told: per modality m, (M, E): the choices of each modality's tokens if the router is told that they are m's.
        kept: per modality m, (M,): how many tokens of each modality then choose the very experts they chose before.
        images: (I, E), the choices of each image.
        owner: (I,), its modality.
    """

    own: Tally
    told: Tensor
    kept: Tensor
    images: Tensor
    owner: Tensor


def _look(router: Router, given: Sequence[Tensor], found: Assignment, tiles: int) -> _Seen:
    tokens, modality, present = given
    many = len(router.allowed)
    own = tally(found, many)
    told, kept = [], []
    for other in range(many):
        # The method and not the module: a hook must not call itself.
        answer = router.forward(tokens, torch.full_like(modality, other), present)
        told.append(tally(answer._replace(modality=modality), many).hard)
        same = (answer.expert.sort(1).values == found.expert.sort(1).values).all(1) & present
        kept.append(torch.bincount(modality[same], minlength=many))
    tile = torch.arange(len(modality), device=modality.device) // (len(modality) // tiles)
    images = tally(found._replace(modality=tile * many + modality), tiles * many).hard
    owner = torch.arange(tiles * many, device=modality.device) % many
    seen = images.sum(1) > 0
    return _Seen(own, torch.stack(told), torch.stack(kept).to(images.dtype), images[seen], owner[seen])


def tallies(encoder: Encoder, batches: Iterable[Tiles]) -> dict[int, Tally]:
    """Hard and soft usage of each mixture on unmasked tiles, by block."""
    with at_rest(encoder), watched(encoder, lambda router, _, found: tally(found, len(router.allowed))) as seen:
        for tiles in batches:
            encoder(tiles)
    return {block: added(parts) for block, parts in seen.items()}


def untrained(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same description with new weights; unsealed, unless the sets are part of its router mode."""
    config = encoder.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Encoder(config if config.router == "grouped" else replace(config, allowed=()))
    return fresh.to(_device(encoder))


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _chance(images: Tensor, owner: Tensor, modalities: int, seed: int) -> float:
    """Mean normalised mutual information when images get each other's modality."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(PERMUTATIONS):
        label = owner[torch.randperm(len(owner), generator=generator).to(owner.device)]
        table = images.new_zeros(modalities, images.shape[1]).index_add(0, label, images)
        found.append(float(mutual_information(table)))
    return sum(found) / len(found)


@dataclass(frozen=True)
class Routing:
    """What one mixture does on unmasked tiles, beside its controls.

    Args:
        hard: figures of the chosen experts, see `mapex_lightning.model.specialisation.specialisation`.
        soft: the same of the router's probabilities.
        token_entropy: (M,), mean entropy of a token's probabilities.
        start_hard: normalised mutual information of the same description with new weights.
        start_soft: the same of its probabilities.
        chance: normalised mutual information of the chosen experts when images get each other's modality.
        content: (M, M), share of the row's tokens that keep their experts when the router is told that they are the
            column's: routing by content.
        name: (M, M), share of the row's tokens that then go where the column's own tokens go (the overlap of the two
            distributions): routing by the sensor's name.
    """

    hard: Mapping[str, Tensor]
    soft: Mapping[str, Tensor]
    token_entropy: Tensor
    start_hard: float
    start_soft: float
    chance: float
    content: Tensor
    name: Tensor


@dataclass(frozen=True)
class Damage:
    """How masked reconstruction suffers from interventions: mean squared errors per modality, the same masks for all.

    Args:
        full: (M,), of the encoder as it is; NaN for a modality of which nothing was hidden.
        diverted: per mixture block (E, M), when one expert's tokens go to the next-ranked expert with the gate that
            they had; NaN where there is no other expert.
        skipped: per block (M,), when its feed-forward, dense or mixture, gives nothing.
        no_mixtures: (M,), when every mixture gives nothing.
    """

    full: Tensor
    diverted: Mapping[int, Tensor]
    skipped: Mapping[int, Tensor]
    no_mixtures: Tensor


@dataclass(frozen=True)
class Analysis:
    """What the experts of an encoder do.

    Args:
        modalities: their names, M.
        tiles: how many tiles it was measured on.
        routing: per mixture block.
        damage: None without a decoder.
    """

    modalities: tuple[str, ...]
    tiles: int
    routing: Mapping[int, Routing]
    damage: Damage | None

    def causal(self, block: int) -> Tensor:
        """Relative change of each modality's error when an expert's tokens are diverted: (E, M).

        Raises:
            MapexError: there was no decoder to measure it with.
        """
        if self.damage is None:
            raise MapexError("Without a decoder nothing was reconstructed; analyse the pre-training checkpoint.")
        return self.damage.diverted[block] / self.damage.full - 1

    def plain(self) -> dict[str, Any]:
        """Plain types, for JSON; what is not a number is None."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain

    def table(self) -> str:
        """The same for people."""
        return "\n".join([*_routing_lines(self), *_damage_lines(self)])


def analyse(
    encoder: Encoder,
    decoder: Decoder | None,
    batches: Iterable[Tiles],
    visible: float = VISIBLE,
    seed: int = 0,
) -> Analysis:
    """Measures specialisation and what it is worth, on held-out tiles.

    Args:
        encoder: any encoder; it is left as it was.
        decoder: its decoder, for all that is measured by reconstruction; a pruned or fine-tuned encoder has none.
        batches: held-out tiles, on the encoder's device; they are gone over many times and kept in memory.
        visible: share of a view's tokens that the encoder sees when errors are measured.
        seed: of masks, of new weights and of permutations.

    Raises:
        MapexError: there are no tiles.
    """
    held_out = list(batches)
    if not held_out:
        raise MapexError("An analysis needs tiles; found none. Name a config with tiles, such as --config TILES.yaml.")
    start = tallies(untrained(encoder, seed), held_out)
    seen: dict[int, list[_Seen]] = {block: [] for block in encoder.mixtures}
    for tiles in held_out:
        with at_rest(encoder), watched(encoder, partial(_look, tiles=tiles.batch_size)) as parts:
            encoder(tiles)
        for block, part in parts.items():
            seen[block] += part
    return Analysis(
        modalities=encoder.config.names,
        tiles=sum(tiles.batch_size for tiles in held_out),
        routing={block: _routing(parts, start[block], seed) for block, parts in seen.items()},
        damage=None if decoder is None else damage(encoder, decoder, held_out, visible, seed),
    )


def _routing(seen: Sequence[_Seen], start: Tally, seed: int) -> Routing:
    own = added(part.own for part in seen)
    told = torch.stack([part.told for part in seen]).sum(0)
    kept = torch.stack([part.kept for part in seen]).sum(0)
    many = len(own.tokens)
    overlap = torch.stack([torch.minimum(shares(table), shares(own.hard)[m]).sum(1) for m, table in enumerate(told)])
    here = own.tokens > 0
    judged = here[:, None] & here[None] & ~torch.eye(many, dtype=torch.bool, device=here.device)
    images, owner = (torch.cat(column) for column in zip(*((p.images, p.owner) for p in seen), strict=True))
    return Routing(
        hard=specialisation(own.hard),
        soft=specialisation(own.soft),
        token_entropy=own.token_entropy,
        start_hard=float(mutual_information(start.hard)),
        start_soft=float(mutual_information(start.soft)),
        chance=_chance(images, owner, many, seed),
        content=torch.where(judged, (kept / own.tokens).T, torch.nan),
        name=torch.where(judged, overlap.T, torch.nan),
    )


def damage(
    encoder: Encoder, decoder: Decoder, batches: Sequence[Tiles], visible: float = VISIBLE, seed: int = 0
) -> Damage:
    """Measures what interventions cost: see `Damage`. An expert without tokens is not tried, for nothing would change.

    Args:
        encoder: any encoder.
        decoder: its decoder.
        batches: held-out tiles, on the encoder's device.
        visible: share of a view's tokens that the encoder sees.
        seed: of the masks.
    """

    def errors() -> Tensor:
        found = masked_errors(encoder, decoder, batches, visible, seed).values()
        return torch.stack([error.mean.where(error.number > 0, torch.nan) for error in found])

    def inside(context: Any) -> Tensor:
        with context:
            return errors()

    many = len(encoder.config.names)
    with watched(encoder, lambda _router, _given, found: tally(found, many).hard.sum(0) > 0) as used:
        full = errors()
    diverting = {}
    for block, parts in used.items():
        chosen = torch.stack(parts).any(0)
        rows = full.expand(len(chosen), -1).clone() if len(chosen) > 1 else torch.full_like(full, torch.nan)[None]
        for expert in chosen.nonzero()[:, 0].tolist() if len(chosen) > 1 else ():
            rows[expert] = inside(diverted(encoder, block, expert))
        diverting[block] = rows
    return Damage(
        full=full,
        diverted=diverting,
        skipped={block: inside(skipped(encoder, [block])) for block in range(encoder.config.depth)},
        no_mixtures=inside(without_mixtures(encoder)),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value


def _mean(values: Tensor) -> float:
    return float(values.nanmean())


def _routing_lines(analysis: Analysis) -> Iterator[str]:
    yield f"routing of {analysis.tiles} unmasked tiles; hard: chosen experts, soft: the router's probabilities"
    yield "             NMI hard  start  chance | NMI soft  start | told another sensor: stays  follows | dead"
    for block, found in analysis.routing.items():
        yield (
            f"  block {block:2d}      {float(found.hard['nmi']):.2f}    {found.start_hard:.2f}    {found.chance:.2f} |"
            f"     {float(found.soft['nmi']):.2f}   {found.start_soft:.2f} |"
            f"                     {_mean(found.content):.2f}     {_mean(found.name):.2f} |"
            f" {int(found.hard['dead'])} of {found.hard['share'].shape[1]}"
        )
    if analysis.routing:
        yield from LEGEND
    for block, found in analysis.routing.items():
        yield f"  block {block}: effective experts hard / soft, token entropy, distance to the nearest sensor, experts"
        nearest = found.hard["distance"].clone().fill_diagonal_(torch.inf).nan_to_num(torch.inf).min(1).values
        for m, name in enumerate(analysis.modalities):
            if not float(found.hard["share"][m].sum()):
                yield f"    {name:12s} no tokens"
                continue
            experts = ", ".join(
                f"{expert} {share:.0%}"
                for expert, share in sorted(enumerate(found.hard["share"][m].tolist()), key=lambda pair: -pair[1])
                if share >= 0.005
            )
            yield (
                f"    {name:12s} {float(found.hard['effective'][m]):.2f} / {float(found.soft['effective'][m]):.2f}"
                f"  {float(found.token_entropy[m]):.2f}  {float(nearest[m]):.2f}  {experts}"
            )


def _damage_lines(analysis: Analysis) -> Iterator[str]:
    found = analysis.damage
    if found is None:
        yield "reconstruction: not measured, this checkpoint has no decoder"
        return
    yield "masked reconstruction: error, then its change under interventions"
    yield f"  {'':34s}" + "".join(f"{name:>14s}" for name in analysis.modalities)
    yield _row("as it is", found.full, "{:.4f}")
    for block, values in found.skipped.items():
        what = "mixture" if block in analysis.routing else "feed-forward"
        yield _row(f"{what} of block {block} skipped", values / found.full - 1)
    yield _row("all mixtures skipped", found.no_mixtures / found.full - 1)
    for block in found.diverted:
        for expert, values in enumerate(analysis.causal(block)):
            if bool((values != 0).any()):
                yield _row(f"block {block}, expert {expert} diverted", values)
        idle = [expert for expert, values in enumerate(analysis.causal(block)) if not bool((values != 0).any())]
        if idle:
            all_of_them = len(idle) == len(found.diverted[block])  # some were chosen, and their tokens had no other way
            why = "each token uses all of them" if all_of_them else "not chosen under masking"
            yield f"  block {block}, no change without expert {', '.join(map(str, idle))}: {why}"


def _row(label: str, values: Tensor, form: str = "{:+.1%}") -> str:
    return f"  {label:34s}" + "".join(f"{'-' if v != v else form.format(v):>14s}" for v in values.tolist())
