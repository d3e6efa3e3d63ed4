"""The encoder: tiles to tokens, through blocks whose feed-forwards are mixtures of experts.

Axes: B tiles, N tokens, D width, h and w the grid of patches of the finest sensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mapex_lightning.model.block import Block, attention_mask
from mapex_lightning.model.config import Allowed, EncoderConfig
from mapex_lightning.model.mixture import Mixture
from mapex_lightning.model.patchify import Patchify
from mapex_lightning.model.router import Assignment
from mapex_lightning.model.tokens import Pool, Tokens
from mapex_lightning.tiles import Tiles


class Encoder(nn.Module):
    """A vision transformer over the tokens of many sensors.

    Any non-empty subset of the modalities, in any sample of a batch, is a valid input.

    Args:
        config: its description, which is also what a checkpoint stores.
        drop_path: stochastic depth of the last block; earlier ones grow linearly towards it.
    """

    def __init__(self, config: EncoderConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.patchify = Patchify(config)
        rates = [drop_path * index / max(1, config.depth - 1) for index in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, index, rate) for index, rate in enumerate(rates))
        self.norm = nn.LayerNorm(config.width)
        self.apply(_initialise)

    def forward(self, tiles: Tiles) -> Tokens:
        """Features of every patch of every sensor that is present."""
        return self.encode(self.patchify(tiles))[0]

    def encode(self, tokens: Tokens) -> tuple[Tokens, dict[int, Assignment]]:
        """Runs the blocks on embedded tokens, maybe only the visible ones.

        Returns:
            The normalised tokens, and the assignment of each mixture by block.
        """
        assignments, mask = {}, attention_mask(tokens.present)
        for index, block in enumerate(self.blocks):
            tokens, assignment = block(tokens, mask)
            if assignment is not None:
                assignments[index] = assignment
        return tokens._replace(values=self.norm(tokens.values)), assignments

    def pooled(self, tiles: Tiles, pool: Pool = "mean") -> Tensor:
        """One vector per tile: (B, D), the mean over its tokens or the mean over its sensors by their redundancy."""
        tokens: Tokens = self(tiles)
        return tokens.pooled() if pool == "mean" else tokens.pooled_by_redundancy(len(self.config.names))

    def pooled_by_modality(self, tiles: Tiles) -> dict[str, Tensor]:
        """One vector per tile and sensor: name to (B, D); zeros where the sensor is absent."""
        tokens: Tokens = self(tiles)
        each = tokens.pooled_by_modality(len(self.config.names))
        return {name: each[:, self.config.names.index(name)] for name in tiles.images}

    def feature_map(self, tiles: Tiles) -> Tensor:
        """Features on the grid of the finest sensor, mean over the sensors that see each place: (B, D, h, w)."""
        tokens = self(tiles)
        grids = {n: self.patchify.grid(n, tiles.images[n]) for n in self.config.names if n in tiles.images}
        finest = max(grids.values())
        total = weight = torch.zeros((), device=tokens.values.device)
        start = 0
        for rows, columns in grids.values():
            run = slice(start, start + rows * columns)
            start = run.stop
            here = rearrange(tokens.present[:, run], "b (h w) -> b 1 h w", h=rows).to(tokens.values.dtype)
            values = rearrange(tokens.values[:, run], "b (h w) d -> b d h w", h=rows)
            total = total + F.interpolate(values * here, finest, mode="nearest-exact")
            weight = weight + F.interpolate(here, finest, mode="nearest-exact")
        return total / weight.clamp(min=1)

    @property
    def mixtures(self) -> dict[int, Mixture]:
        """The mixtures, by block."""
        found = ((index, block.mixture) for index, block in enumerate(self.blocks))
        return {index: mixture for index, mixture in found if isinstance(mixture, Mixture)}

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Takes a census of every forward pass inside the context; until that is whole, the old one stays."""
        for mixture in self.mixtures.values():
            mixture.counted.zero_()
            mixture.observing = True
        try:
            yield
            for mixture in self.mixtures.values():
                mixture.census.copy_(mixture.counted)
        finally:
            for mixture in self.mixtures.values():
                mixture.observing = False

    @contextmanager
    def unobserved(self) -> Iterator[None]:
        """Leaves forward passes inside the context out of a census that is being taken."""
        before = {block: mixture.observing for block, mixture in self.mixtures.items()}
        for mixture in self.mixtures.values():
            mixture.observing = False
        try:
            yield
        finally:
            for block, mixture in self.mixtures.items():
                mixture.observing = before[block]

    def seal(self, allowed: Allowed) -> None:
        """Restricts every modality's routing to the given experts and writes that into the description."""
        self.config = replace(self.config, allowed=allowed)
        for index, mixture in self.mixtures.items():
            mixture.router.restrict(allowed[index])


def _initialise(module: nn.Module) -> None:
    """Xavier for every matrix of embedding, attention and dense feed-forward, as in MAE (experts do so themselves)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
