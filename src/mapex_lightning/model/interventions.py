"""Interventions: contexts in which an encoder behaves differently, and after which it is as before.

Nothing in the model knows of them: each is a torch hook on a router or a feed-forward and goes with its context.

Axes: E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mapex_lightning.errors import MapexError
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.router import Assignment, Router

T = TypeVar("T")
Change = Callable[[Router, Sequence[Tensor], Assignment], Assignment]
"""What a router should answer instead: of the router, of what it was given and of what it answered."""


@contextmanager
def rerouted(encoder: Encoder, changes: Mapping[int, Change]) -> Iterator[None]:
    """The routers of these blocks answer otherwise.

    Args:
        encoder: any encoder.
        changes: per block of a mixture.
    """
    with ExitStack() as hooks:
        for block, change in changes.items():
            hooks.callback(encoder.mixtures[block].router.register_forward_hook(change).remove)
        yield


@contextmanager
def watched(
    encoder: Encoder, look: Callable[[Router, Sequence[Tensor], Assignment], T]
) -> Iterator[dict[int, list[T]]]:
    """Changes nothing and collects what `look` makes of every answer of every router, by block."""
    seen: dict[int, list[T]] = {block: [] for block in encoder.mixtures}

    def watch(block: int) -> Change:
        def note(router: Router, given: Sequence[Tensor], found: Assignment) -> Assignment:
            seen[block].append(look(router, given, found))
            return found

        return note

    with rerouted(encoder, {block: watch(block) for block in seen}):
        yield seen


@contextmanager
def diverted(encoder: Encoder, block: int, expert: int) -> Iterator[None]:
    """Sends one expert's tokens to the expert that their router ranks next, with the gate that they had.

    The gate stays because an expert's own gate is near 0 for tokens that never chose it: with it, the trial would be
    of the gate and not of the expert. In a sealed encoder the next one may lie outside of the sensor's set. A token
    that uses every expert has no next one and stays.

    Args:
        encoder: any encoder.
        block: of a mixture.
        expert: whose tokens are sent away.
    """

    def divert(router: Router, given: Sequence[Tensor], found: Assignment) -> Assignment:
        tokens, modality = given[:2]
        if found.logits.shape[1] == found.expert.shape[1]:
            return found
        free = router.ranked(tokens, modality).scatter(1, found.expert, -torch.inf)
        leaving = (found.expert == expert) & found.present[:, None]
        return found._replace(expert=torch.where(leaving, free.argmax(1, keepdim=True), found.expert))

    with rerouted(encoder, {block: divert}):
        yield


@contextmanager
def restricted(encoder: Encoder, experts: Mapping[int, Sequence[int]], keep_gate: bool = False) -> Iterator[None]:
    """Routes among the given experts only, as a pruned encoder does.

    A token stays inside its sensor's sealed set where something of it is left.

    Args:
        encoder: any encoder.
        experts: per block of a mixture those that may be used, at least one; other mixtures stay as they are.
        keep_gate: whether tokens keep the gates of the experts that they would have chosen, which makes others'
            experts a fair control. Otherwise the gates are those of the experts that they get.

    Raises:
        MapexError: a block has no mixture, no expert is given or there is no such expert.
    """

    def among(block: int) -> Change:
        kept = sorted(set(experts[block]))
        count = encoder.config.experts[block] if block in encoder.mixtures else 0
        if not kept or not set(kept) <= set(range(count)):
            raise MapexError(
                f"Routing in block {block} can be restricted to one or more of its {count} experts; found {kept}."
            )

        def restrict(router: Router, given: Sequence[Tensor], found: Assignment) -> Assignment:
            return _among(router, given, found, kept, keep_gate)

        return restrict

    with rerouted(encoder, {block: among(block) for block in experts}):
        yield


def _among(
    router: Router, given: Sequence[Tensor], found: Assignment, kept: Sequence[int], keep_gate: bool
) -> Assignment:
    gone = torch.ones(found.logits.shape[1], dtype=torch.bool, device=found.logits.device)
    gone[list(kept)] = False
    logits = found.logits.masked_fill(gone, -torch.inf)
    homeless = logits.isneginf().all(1, keepdim=True)
    logits = torch.where(homeless, router.ranked(*given[:2]).masked_fill(gone, -torch.inf), logits)
    chosen, expert = logits.topk(min(router.top_k, len(kept)), dim=-1)
    weight = found.weight[:, : expert.shape[1]] if keep_gate else router.gate(chosen)
    # One that is not given can fill up top-k; like a forbidden expert it gets no weight.
    weight = weight.masked_fill(chosen.isneginf() | ~found.present[:, None], 0.0)
    return found._replace(expert=expert, weight=weight, logits=logits)


@contextmanager
def skipped(encoder: Encoder, blocks: Iterable[int]) -> Iterator[None]:
    """The feed-forwards of these blocks, dense or mixture, give nothing; attention stays."""

    def nothing(module: nn.Module, given: Any, found: Any) -> Any:
        if isinstance(found, tuple):
            mixed, assignment = found
            return torch.zeros_like(mixed), assignment
        return torch.zeros_like(found)

    mixtures = encoder.mixtures
    with ExitStack() as hooks:
        for block in blocks:
            feed_forward = encoder.blocks.get_submodule(f"{block}.{'mixture' if block in mixtures else 'dense'}")
            hooks.callback(feed_forward.register_forward_hook(nothing).remove)
        yield


def without_mixtures(encoder: Encoder) -> AbstractContextManager[None]:
    """Every mixture gives nothing, its shared expert neither: a context as of `skipped`."""
    return skipped(encoder, encoder.mixtures)


@contextmanager
def at_rest(encoder: Encoder, *others: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, nothing added to the census; afterwards all is as before."""
    modules = (encoder, *others)
    before = [module.training for module in modules]
    with encoder.unobserved(), torch.no_grad():
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module, training in zip(modules, before, strict=True):
                module.train(training)
