"""Real tiles of four sensors, in memory and in splits: what the ablation trains and judges on.

Axes: N tiles, C bands, H and W pixels, K crops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image
from torch import Tensor

from mapex_lightning.data.sets import EuroSAT
from mapex_lightning.data.tileset import SPLITS, Split
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import MODALITIES, Modality
from mapex_lightning.tiles import Tiles

SIDE = 32
"""Pixels of a crop: sixteen patches."""
PATCH = 8
"""Pixels of a patch."""

BANDS = {
    "radar": ("S1",),
    "false_colour": ("B11", "B08", "B03"),
    "s2": MODALITIES["s2"].bands,
    "rgb": MODALITIES["rgb"].bands,
}
UNITS = {
    "radar": "8-bit, stretched",
    "false_colour": "8-bit",
    "s2": MODALITIES["s2"].unit,
    "rgb": MODALITIES["rgb"].unit,
}

SHARES = {"flood": 24, "s2": 12, "pair": 12, "rgb": 16}
"""Crops of each source in a batch of 64: about as many of each sensor."""


@dataclass(frozen=True)
class Source:
    """Tiles of one data set, all of the same sensors and size.

    Args:
        images: per sensor (N, C, H, W) in the sensor's unit, NaN where nothing was recorded.
        labels: (N,) classes, (N, H, W) water as 0 and 1, or None.
    """

    images: Mapping[str, Tensor]
    labels: Tensor | None = None

    def __len__(self) -> int:
        """The number of tiles N."""
        return len(next(iter(self.images.values())))

    def take(self, index: Sequence[int] | Tensor) -> Source:
        """The tiles at `index`."""
        rows = torch.as_tensor(index, dtype=torch.int64)
        return Source({n: i[rows] for n, i in self.images.items()}, None if self.labels is None else self.labels[rows])

    def crops(self) -> Source:
        """Every tile cut into crops of `SIDE` pixels, tile by tile and row by row; labels of whole tiles are left."""
        return Source({name: cut(image) for name, image in self.images.items()})


Collection = Mapping[Split, Mapping[str, Source]]
"""Per split and source: ``flood`` (radar, false_colour), ``s2``, ``pair`` (s2, rgb) and ``rgb``."""


def cut(image: Tensor) -> Tensor:
    """(N, C, H, W) into (N K, C, SIDE, SIDE)."""
    return rearrange(image, "n c (h s) (w t) -> (n h w) c s t", s=SIDE, t=SIDE)


def collect(data: Path) -> Collection:
    """Reads all sources once.

    Args:
        data: a folder that holds OmbriaS1, OmbriaS2, testset, EuroSAT_MS and EuroSAT_RGB, each maybe one level below.

    Raises:
        MapexError: one of them is not there.
    """
    flood, s2, pair, rgb = _flood(data), _sentinel(data), _eurosat(data, True), _eurosat(data, False)
    return {split: {"flood": flood[split], "s2": s2[split], "pair": pair[split], "rgb": rgb[split]} for split in SPLITS}


def counts(collection: Collection) -> str:
    """How many tiles there are, in a few lines."""
    lines = (
        f"{split}: " + ", ".join(f"{name} {len(source)}" for name, source in sources.items())
        for split, sources in collection.items()
    )
    return "\n".join(lines)


def sensors(collection: Collection) -> tuple[Modality, ...]:
    """The four sensors, with mean and deviation per band as measured on the training tiles."""
    found = []
    for name, bands in BANDS.items():
        parts = [source.images[name] for source in collection["train"].values() if name in source.images]
        pixels = torch.cat([rearrange(part, "n c h w -> c (n h w)") for part in parts], dim=1).double()
        mean = pixels.nanmean(1)
        std = (pixels - mean[:, None]).square().nanmean(1).sqrt()
        measured = (tuple(mean.tolist()), tuple(std.tolist()))
        found.append(Modality(name, bands, 10.0, UNITS[name], *measured, speckle=name == "radar"))
    return tuple(found)


def batch(sources: Mapping[str, Source], generator: torch.Generator) -> Tiles:
    """A training batch: random crops, turned and mirrored, of random tiles of every source."""
    parts = [_crops(sources[name], count, generator) for name, count in SHARES.items()]
    return gathered(parts)


def parts(sources: Mapping[str, Source], generator: torch.Generator) -> list[Tiles]:
    """Half a training batch, in a part per source: no sensor is computed for tiles that do not have it."""
    return [Tiles.of(**_crops(sources[name], count // 2, generator).images) for name, count in SHARES.items()]


def held_out_parts(sources: Mapping[str, Source], most: int) -> list[Tiles]:
    """Up to `most` crops of each source, spread evenly over its tiles, in a part per source."""
    crops = (source.crops() for source in sources.values())
    return [Tiles.of(**found.take(even(len(found), most)).images) for found in crops]


def held_out(sources: Mapping[str, Source], most: int) -> list[Tiles]:
    """The same crops every time: up to `most` of each source, spread evenly over its tiles, a batch per 64."""
    parts = []
    for source in sources.values():
        crops = source.crops()
        parts.append(crops.take(even(len(crops), most)))
    return [gathered([part.take(range(i, min(i + 64, len(part))))]) for part in parts for i in range(0, len(part), 64)]


def gathered(parts: Sequence[Source]) -> Tiles:
    """Crops of several sources as one batch, in which every sensor is a key."""
    total = sum(map(len, parts))
    images = {name: torch.zeros(total, len(bands), SIDE, SIDE) for name, bands in BANDS.items()}
    present = {name: torch.zeros(total, dtype=torch.bool) for name in BANDS}
    start = 0
    for part in parts:
        run = slice(start, start + len(part))
        for name, image in part.images.items():
            images[name][run], present[name][run] = image, True
        start = run.stop
    return Tiles(images, present)


def even(count: int, most: int) -> Tensor:
    """Up to `most` of `count` indices, evenly over them."""
    return torch.linspace(0, count - 1, min(most, count)).long()


def floods(source: Source) -> Source:
    """Crops that are dry (less than a tenth under water, 0) or flooded (more than half, 1); the others are left out."""
    found = _watered(source, SIDE)
    water = _water(found).mean(1)
    clear = found.take(((water < 0.1) | (water > 0.5)).nonzero()[:, 0])
    return Source(clear.images, (_water(clear).mean(1) > 0.5).long())


def shores(source: Source) -> Source:
    """Crops that hold land and water, each patch dry (0), under water (1) or neither for more than three quarters."""
    found = _watered(source, PATCH)
    water = _water(found).mean(1)
    mixed = found.take(((water > 0.2) & (water < 0.8)).nonzero()[:, 0])
    share = _water(mixed)
    return Source(mixed.images, torch.where(share > 0.75, 1, torch.where(share < 0.25, 0, -1)))


def _watered(source: Source, side: int) -> Source:
    """Crops without nodata, labelled with the share of water (N, P) in each square of `side` pixels."""
    water = cut(rearrange(_water(source).float(), "n h w -> n 1 h w"))
    crops = source.crops()
    share = reduce(water, "n 1 (h s) (w t) -> n (h w)", "mean", s=side, t=side)
    whole = torch.stack([image.isfinite().flatten(1).all(1) for image in crops.images.values()]).all(0)
    return Source(crops.images, share).take(whole.nonzero()[:, 0])


def _water(source: Source) -> Tensor:
    assert source.labels is not None
    return source.labels


def _crops(source: Source, count: int, generator: torch.Generator) -> Source:
    height, width = next(iter(source.images.values())).shape[2:]
    tiles = torch.randint(len(source), (count,), generator=generator).tolist()
    tops = torch.randint(height - SIDE + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - SIDE + 1, (count,), generator=generator).tolist()
    turns = torch.randint(8, (count,), generator=generator).tolist()
    drawn = list(zip(tiles, tops, lefts, turns, strict=True))
    return Source(
        {
            name: torch.stack([_turned(image[n, :, y : y + SIDE, x : x + SIDE], turn) for n, y, x, turn in drawn])
            for name, image in source.images.items()
        }
    )


def _turned(image: Tensor, turn: int) -> Tensor:
    """One of the eight symmetries of the square."""
    return torch.rot90(image if turn < 4 else image.flip(-1), turn % 4, (-2, -1))


def _flood(data: Path) -> dict[Split, Source]:
    """OMBRIA after the flood: radar and false colour of the same place, and where the water is.

    A fifth of the published training tiles, every fifth by number, are for validation; testing is as published.
    """
    train = _ombria(data, "train")
    fold = torch.arange(len(train)) % 5 == 4
    return {
        "train": train.take((~fold).nonzero()[:, 0]),
        "val": train.take(fold.nonzero()[:, 0]),
        "test": _ombria(data, "test"),
    }


def _ombria(data: Path, part: str) -> Source:
    def read(sensor: int, moment: str) -> np.ndarray:
        found = files(data, f"OmbriaS{sensor}/{part}/{moment}/*.png")
        return np.stack([np.asarray(Image.open(file)) for file in found])

    radar, colour, water = read(1, "AFTER"), read(2, "AFTER"), read(1, "MASK")
    images = {"radar": torch.from_numpy(radar).float()[:, None]}
    images["false_colour"] = rearrange(torch.from_numpy(colour).float(), "n h w c -> n c h w")
    # Margins outside the swath are black in all bands.
    nothing = (images["false_colour"] == 0).all(1, keepdim=True)
    images["false_colour"] = images["false_colour"].masked_fill(nothing, torch.nan)
    return Source(images, torch.from_numpy(water) > 0)


def _sentinel(data: Path) -> dict[Split, Source]:
    """Unlabelled Sentinel-2 L2A tiles: of ten by number, eight to train, one to validate, one to test."""
    found = np.stack([np.load(file) for file in files(data, "testset/*.npy")])
    whole = Source({"s2": rearrange(torch.from_numpy(found.astype(np.float32)), "n h w c -> n c h w")})
    fold = torch.arange(len(whole)) % 10
    masks: dict[Split, Tensor] = {"train": fold < 8, "val": fold == 8, "test": fold == 9}
    return {split: whole.take(mask.nonzero()[:, 0]) for split, mask in masks.items()}


def _eurosat(data: Path, paired: bool) -> dict[Split, Source]:
    """EuroSAT in the splits of our reader: multispectral tiles with their true-colour twins, or true colour alone."""
    reader = EuroSAT(root=data)
    wanted = [MODALITIES[name] for name in (("s2", "rgb") if paired else ("rgb",))]
    found: dict[Split, Source] = {}
    for split in SPLITS:
        keys = set(reader.keys(split, [MODALITIES["rgb"]]))
        twins = set(reader.keys(split, [MODALITIES["s2"]]))
        tiles = [reader.read(key, wanted) for key in sorted(keys & twins if paired else keys - twins)]
        images = {m.name: torch.from_numpy(np.stack([tile.images[m.name] for tile in tiles])).float() for m in wanted}
        found[split] = Source(images, torch.tensor([reader.label(tile.name) for tile in tiles]))
    return found


def files(data: Path, pattern: str) -> list[Path]:
    """Files of a pattern in the folder or one level below it, in order of their names.

    Raises:
        MapexError: there is none.
    """
    found = sorted(data.glob(pattern)) or sorted(data.glob(f"*/{pattern}"))
    if not found:
        raise MapexError(f"No {pattern} in {data.absolute()} or one level below; see docs/method.md for the data sets.")
    return found
