"""Pixels to tokens: one embedding per modality; physical units are normalised here and nowhere else.

Axes: B tiles, C bands, H and W pixels, p patch side, N tokens, D width.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from mapex_lightning.errors import MapexError, unknown
from mapex_lightning.modality import Modality
from mapex_lightning.model.config import EncoderConfig
from mapex_lightning.model.tokens import Tokens, join, position_code
from mapex_lightning.tiles import Tiles


def standardise(image: Tensor, modality: Modality) -> Tensor:
    """(image - mean) / std per band, (B, C, H, W); invalid pixels stay NaN."""
    mean, std = (torch.tensor(v, device=image.device, dtype=image.dtype) for v in (modality.mean, modality.std))
    return (image - rearrange(mean, "c -> c 1 1")) / rearrange(std, "c -> c 1 1")


def patches(image: Tensor, patch: int) -> Tensor:
    """Cuts (B, C, H, W) into (B, N, C p p), row by row."""
    return rearrange(image, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def grid_places(height: int, width: int, spacing: float, device: torch.device) -> Tensor:
    """Centres (height * width, 2) of a grid's cells in metres from the grid's centre, as (y, x)."""
    y, x = ((torch.arange(n, device=device) - (n - 1) / 2) * spacing for n in (height, width))
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)


class Patchify(nn.Module):
    """Tiles to tokens: linear embedding and LayerNorm per modality, position code, modality vector.

    Args:
        config: the encoder's description.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.ModuleDict(
            {m.name: nn.Linear(len(m.bands) * config.patch**2, config.width) for m in config.modalities}
        )
        self.norm = nn.ModuleDict({m.name: nn.LayerNorm(config.width) for m in config.modalities})
        self.modality = nn.Parameter(0.02 * torch.randn(len(config.modalities), config.width))

    def forward(self, tiles: Tiles) -> Tokens:
        """Embeds every modality that the tiles have.

        Args:
            tiles: images in physical units, any non-empty subset of the encoder's modalities.

        Returns:
            Tokens in the order of the encoder's modalities, each row by row. A patch without a single valid pixel
            is an absent token.

        Raises:
            MapexError: a modality is unknown to the encoder, or an image has the wrong bands or is no multiple
                of the patch.
        """
        for name in tiles.images:
            if name not in self.config.names:
                raise unknown("modality", name, self.config.names, "Leave it out of the tiles", "in this encoder")
        here = [name for name in self.config.names if name in tiles.images]
        if not here:
            raise MapexError(f"The tiles are empty; give one or more of {', '.join(self.config.names)}.")
        return join([self._tokens(name, tiles.images[name], tiles.present[name]) for name in here])

    def counts(self, tiles: Tiles) -> dict[str, int]:
        """Tokens per modality, in their order: known from shapes, without a look at the data."""
        grids = {n: self.grid(n, tiles.images[n]) for n in self.config.names if n in tiles.images}
        return {name: rows * columns for name, (rows, columns) in grids.items()}

    def grid(self, name: str, image: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of an image (B, C, H, W).

        Raises:
            MapexError: the image does not have the modality's bands or is no multiple of the patch.
        """
        bands, patch = self.config.modality(name).bands, self.config.patch
        if image.ndim != 4 or image.shape[1] != len(bands):
            raise MapexError(
                f"Modality {name} needs images (tiles, {len(bands)}, rows, columns) with the bands {', '.join(bands)}; "
                f"found shape {tuple(image.shape)}."
            )
        height, width = image.shape[2:]
        if height % patch or width % patch or not height * width:
            raise MapexError(
                f"Modality {name} must be a multiple of the patch of {patch} pixels; found {height} x {width}. "
                "Crop the tiles (data.size) or choose another patch."
            )
        return height // patch, width // patch

    def _tokens(self, name: str, image: Tensor, present: Tensor) -> Tokens:
        rows, columns = self.grid(name, image)
        index, modality = self.config.names.index(name), self.config.modality(name)
        pixels = patches(standardise(image, modality), self.config.patch)
        valid = pixels.isfinite() & present[:, None, None]
        place = grid_places(rows, columns, self.config.patch * modality.gsd, image.device)
        embedded = self.norm[name](self.embed[name](torch.where(valid, pixels, 0.0)))
        code = position_code(place, self.config.step, self.config.width).to(embedded.dtype)
        tiles, count = embedded.shape[:2]
        return Tokens(
            values=embedded + code + self.modality[index],
            modality=torch.full((tiles, count), index, dtype=torch.int64, device=image.device),
            place=repeat(place, "n two -> b n two", b=tiles),
            present=valid.any(-1),
        )
