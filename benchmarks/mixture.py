"""How fast is the mixture of experts? Against a dense feed-forward, bare matrix products and other ways to run it.

    python -m benchmarks.mixture                              # the rows of the aims, a few minutes on two cores
    python -m benchmarks.mixture --width 768 --experts 8 --top-k 2 --dtype bfloat16
    python -m benchmarks.mixture --device cuda --dtype bfloat16 --compile

Everything that is compared takes turns in one process. Times include the router. Every sensor has K experts of its own,
as in a sealed encoder, so the shares of the sensors decide how balanced the routing is: balanced means equal shares;
skewed, that one sensor has half of all tokens and its equal share of the rest.

Axes: T tokens, D width, E experts, K experts per token, F hidden = 4 D.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measure import Candidate, Clock, alternate, begin, options, peak, ratio, spread, table
from benchmarks.peers import PEERS, NotInstalled, Peer
from mapex_lightning.modality import Modality
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.mixture import Mixture

DENSE, PRODUCTS, OURS = "dense", "matrix products", "ours"
ROUTINGS = ("balanced", "skewed")


@dataclass(frozen=True)
class Shape:
    """What is timed: T, D, E, K and the type of weights and tokens."""

    tokens: int
    width: int
    experts: int
    top_k: int
    dtype: str = "float32"

    def __str__(self) -> str:
        """For the line above a table."""
        return f"{self.tokens} tokens, D{self.width}, E{self.experts}, k{self.top_k}, {self.dtype}"


QUICK = ("mask loop", "transformers eager", "transformers grouped")
"""The peers that compute no padding."""

DEFAULTS: tuple[tuple[Shape, tuple[str, ...]], ...] = (
    (Shape(16384, 384, 8, 1), QUICK),
    (Shape(4096, 384, 16, 1), QUICK),
    (Shape(4096, 384, 8, 2), tuple(PEERS)),
    (Shape(4096, 192, 6, 1), QUICK),
    (Shape(2048, 768, 8, 1), QUICK),
    (Shape(256, 384, 8, 1, "bfloat16"), QUICK),
)
"""Shapes, and the peers that are tried on each. The first two are those of the aims."""


def mixture_of(shape: Shape, device: torch.device) -> Mixture:
    """A mixture with a sensor for every expert, and K experts, its own and the next, for every sensor.

    Router in float32 whatever the type, as in training.
    """
    sensors = tuple(Modality(f"sensor{e}", ("band",), 10.0, "none", (0.0,), (1.0,)) for e in range(shape.experts))
    own = tuple(tuple((e + i) % shape.experts for i in range(shape.top_k)) for e in range(shape.experts))
    config = EncoderConfig(
        modalities=sensors,
        width=shape.width,
        heads=1,
        experts=(shape.experts,),
        hidden=4 * shape.width,
        patch=1,
        step=10.0,
        top_k=shape.top_k,
        allowed=(own,),
    )
    mixture = Mixture(config, 0).to(device)
    mixture.experts.to(getattr(torch, shape.dtype))
    return mixture


def sensors_of(shape: Shape, routing: str, device: torch.device) -> Tensor:
    """The modality of each token, (T,) int64, in random order."""
    many = shape.tokens // 2 if routing == "skewed" else 0
    sensors = torch.cat([torch.zeros(many, dtype=torch.int64), torch.arange(shape.tokens - many) % shape.experts])
    return sensors[torch.randperm(shape.tokens, generator=torch.Generator().manual_seed(1))].to(device)


class Way(NamedTuple):
    """One way from tokens to what they become.

    Attributes:
        forward: without arguments, from the bench's tokens.
        inputs: all that a gradient is wanted of: tokens, router and experts.
        peer: which experts run, where it is another way than ours.
    """

    forward: Callable[[], Tensor]
    inputs: list[Tensor]
    peer: Peer | None = None


class Bench:
    """Tokens, a mixture, and every way to run it, at one shape.

    Args:
        shape: of the problem.
        peers: names of `PEERS`.
        routings: some of `ROUTINGS`.
        device: where it runs.
        compiled: whether every way is compiled.
    """

    def __init__(
        self, shape: Shape, peers: Sequence[str], routings: Sequence[str], device: torch.device, compiled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.device = device
        self.dtype: torch.dtype = getattr(torch, shape.dtype)
        self.mixture = mixture_of(shape, device)
        nn.init.normal_(self.mixture.experts.inner_bias, std=0.1)
        nn.init.normal_(self.mixture.experts.outer_bias, std=0.1)
        self.tokens = torch.randn(shape.tokens, shape.width, device=device, dtype=self.dtype, requires_grad=True)
        self.to_out = torch.randn(shape.tokens, shape.width, device=device, dtype=self.dtype)
        """The gradient that arrives at the output."""
        self.dense = _dense(shape).to(device, self.dtype)
        self.absent: dict[str, str] = {}
        """Peers that are not there, and why."""
        self.ways = {(DENSE, ""): Way(lambda: self.dense(self.tokens), [self.tokens, *self.dense.parameters()])}
        every = torch.ones(shape.tokens, dtype=torch.bool, device=device)
        for routing in routings:
            sensors = sensors_of(shape, routing, device)
            self._add_ours(routing, sensors, every)
            for name in peers:
                self._add(name, routing, sensors, every)
        if compiled:
            self.ways = {key: way._replace(forward=torch.compile(way.forward)) for key, way in self.ways.items()}

    def _add_ours(self, routing: str, sensors: Tensor, every: Tensor) -> None:
        inputs = [self.tokens, *self.mixture.parameters()]
        self.ways[OURS, routing] = Way(lambda: self.mixture(self.tokens, sensors, every)[0], inputs)

    def _add(self, name: str, routing: str, sensors: Tensor, every: Tensor) -> None:
        try:
            peer = PEERS[name](self.mixture.experts)
        except NotInstalled as error:
            self.absent[name] = str(error)
            return
        inputs = [self.tokens, *self.mixture.router.parameters(), *peer.parameters]

        def forward() -> Tensor:
            return peer.run(self.tokens, self.mixture.router(self.tokens, sensors, every))

        self.ways[name, routing] = Way(forward, inputs, peer)

    def gradients(self, key: tuple[str, str]) -> tuple[Tensor, list[Tensor]]:
        """Output of a way, and gradients of tokens, router and experts, the last in the shape of ours."""
        way = self.ways[key]
        out = way.forward()
        found = list(torch.autograd.grad(out, way.inputs, self.to_out))
        if way.peer is None:
            return out, found
        many = len(way.peer.parameters)
        return out, [*found[:-many], *way.peer.stacked(found[-many:])]

    def candidates(self) -> dict[tuple[str, str], Candidate]:
        """All ways, ready to be timed, and the bare matrix products."""
        found = {key: self._candidate(way) for key, way in self.ways.items()}
        return {**found, (PRODUCTS, ""): self._products()}

    def _candidate(self, way: Way) -> Candidate:
        return Candidate(way.forward, lambda out: torch.autograd.grad(out, way.inputs, self.to_out))

    @torch.no_grad()
    def _products(self) -> Candidate:
        """The matrix products of the dense feed-forward and of its gradients, into memory that is there already."""
        inner, outer = (parameter.detach() for parameter in self.dense.parameters() if parameter.ndim == 2)
        tokens, hidden = self.tokens.detach(), self.tokens.new_empty(len(self.tokens), len(inner))
        out, to_hidden, to_tokens = torch.empty_like(tokens), torch.empty_like(hidden), torch.empty_like(tokens)
        to_inner, to_outer = torch.empty_like(inner), torch.empty_like(outer)

        def forward() -> None:
            torch.mm(tokens, inner.T, out=hidden)
            torch.mm(hidden, outer.T, out=out)

        def backward(_: None) -> None:
            torch.mm(self.to_out, outer, out=to_hidden)
            torch.mm(self.to_out.T, hidden, out=to_outer)
            torch.mm(to_hidden, inner, out=to_tokens)
            torch.mm(to_hidden.T, tokens, out=to_inner)

        return Candidate(forward, backward)

    def peak(self, key: tuple[str, str]) -> int:
        """Bytes at the worst moment of a step, gradients included, weights and tokens not."""
        candidate = self._candidate(self.ways[key])
        assert candidate.backward is not None
        backward = candidate.backward
        return peak(lambda: backward(candidate.forward()), self.device)


def _dense(shape: Shape) -> nn.Sequential:
    hidden = 4 * shape.width * shape.top_k
    return nn.Sequential(nn.Linear(shape.width, hidden), nn.GELU(), nn.Linear(hidden, shape.width))


def run(bench: Bench, rounds: int, memory: bool, clock: Clock) -> str:
    """Times a bench; a table and, where both routings were timed, a line that compares them."""
    times = alternate(bench.candidates(), rounds, bench.device, clock)
    dense, base = times[DENSE, ""], bench.peak((DENSE, "")) if memory else 0
    rows = []
    for (name, routing), took in times.items():
        ours = next((t for (n, r), t in times.items() if n == OURS and r == (routing or r)), took)
        rows.append(
            [
                name,
                routing,
                f"{1e3 * spread(took.forward).median:.1f}",
                f"{1e3 * spread(took.whole).median:.1f}",
                ratio(took.forward, dense.forward),
                ratio(took.whole, dense.whole),
                "" if ours is took else ratio(ours.whole, took.whole),
                f"{bench.peak((name, routing)) / base:.2f}" if memory and name != PRODUCTS else "",
            ]
        )
    columns = [
        "way",
        "routing",
        "forward ms",
        "both ms",
        "forward / dense",
        "both / dense",
        "ours / it",
        "peak / dense",
    ]
    lines = [table(columns, rows)]
    if all((OURS, routing) in times for routing in ROUTINGS):
        balanced, skewed = (times[OURS, routing].whole for routing in ROUTINGS)
        lines.append(f"\nours, skewed against balanced routing: {ratio(skewed, balanced)}")
    lines += [f"\n{name}: {why}" for name, why in bench.absent.items()]
    return "\n".join(lines)


def tasks_of(given: argparse.Namespace) -> list[tuple[Shape, Sequence[str]]]:
    """Every combination of what was given, or the default set where nothing was; and the peers of each."""
    axes = (given.tokens, given.width, given.experts, given.top_k, given.dtype)
    if not any(axes):
        return [(shape, peers if given.peers is None else given.peers) for shape, peers in DEFAULTS]
    usual: tuple[list[Any], ...] = ([4096], [384], [8], [1], ["float32"])
    chosen = [axis or default for axis, default in zip(axes, usual, strict=True)]
    peers = tuple(PEERS) if given.peers is None else given.peers
    return [(Shape(*values), peers) for values in itertools.product(*chosen)]


def main(words: Sequence[str] | None = None) -> None:
    """Runs every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+")
    parser.add_argument("--width", type=int, nargs="+")
    parser.add_argument("--experts", type=int, nargs="+")
    parser.add_argument("--top-k", type=int, nargs="+")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"))
    parser.add_argument("--routing", nargs="+", choices=ROUTINGS, default=ROUTINGS)
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS))
    parser.add_argument("--no-memory", action="store_true", help="leave the column of peak memory out")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--compile", action="store_true", help="compile every way with torch.compile")
    options(parser, rounds=7)
    given = parser.parse_args(words)
    clock = begin(given, given.device)
    for shape, peers in tasks_of(given):
        bench = Bench(shape, peers, given.routing, given.device, given.compile)
        print(f"\n{shape}; {given.rounds} rounds, median (quartiles)\n", flush=True)
        print(run(bench, given.rounds, not given.no_memory, clock), flush=True)


if __name__ == "__main__":
    main()
