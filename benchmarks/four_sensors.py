"""Tiles of four sensors, held in memory, for studies that train small encoders many times.

Real ones are read from a folder that holds copies of OMBRIA (radar and false colour of the same places, 8-bit), of
unlabelled Sentinel-2 level-2A tiles (`*.npy` of 64 x 64 x 12) and of EuroSAT's true-colour tiles; without such a folder
the synthetic scenes stand in, of which nothing follows for real satellites.

Axes: n places, B tiles, C bands, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from mapex_lightning.data import Synthetic
from mapex_lightning.data.eurosat import CLASSES
from mapex_lightning.modality import MODALITIES, Modality
from mapex_lightning.tiles import Tiles

SIDE = 64
"""Pixels along a place."""


@dataclass(frozen=True)
class Places:
    """Places that were seen by the same sensors.

    Args:
        images: per sensor (n, C, 64, 64), in physical units and any number type.
        labels: (n,): the class of EuroSAT or of a synthetic scene, the flooded share of OMBRIA; None where there is
            none.
    """

    images: dict[str, Tensor]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.images.values())))

    def at(self, index: Tensor) -> Places:
        """The places at `index`."""
        labels = None if self.labels is None else self.labels[index]
        return Places({name: image[index] for name, image in self.images.items()}, labels)


@dataclass(frozen=True)
class Pool:
    """Training and held-out places of all sensors.

    Args:
        kind: ``real`` or ``synthetic``.
        sensors: with statistics of the training places where they are real.
        train: a source each.
        test: the same sources, other places.
    """

    kind: str
    sensors: tuple[Modality, ...]
    train: tuple[Places, ...]
    test: tuple[Places, ...]

    def batch(self, count: int, size: int, generator: torch.Generator) -> Tiles:
        """A training batch: random places, crops, turns and flips."""
        return self._draw(self.train, count, size, generator, turn=True)

    def held_out(self, batches: int, count: int, size: int, seed: int = 0) -> list[Tiles]:
        """Held-out batches, the same for the same seed, upright."""
        generator = torch.Generator().manual_seed(seed)
        return [self._draw(self.test, count, size, generator, turn=False) for _ in range(batches)]

    def _draw(self, sources: Sequence[Places], count: int, size: int, generator: torch.Generator, turn: bool) -> Tiles:
        # By its number of sensors, so that every sensor is seen about as often.
        weight = torch.tensor([float(len(source.images)) for source in sources])
        source = torch.multinomial(weight, count, replacement=True, generator=generator).tolist()
        images = {m.name: torch.zeros(count, len(m.bands), size, size) for m in self.sensors}
        present = {m.name: torch.zeros(count, dtype=torch.bool) for m in self.sensors}
        for row, places in enumerate(sources[index] for index in source):
            place, y, x, turns, flip = (
                int(torch.randint(high, (), generator=generator))
                for high in (len(places), SIDE - size + 1, SIDE - size + 1, 4, 2)
            )
            for name, stack in places.images.items():
                crop = stack[place, :, y : y + size, x : x + size].float()
                if turn:
                    crop = crop.rot90(turns, (1, 2))
                    crop = crop.flip(2) if flip else crop
                images[name][row], present[name][row] = crop, True
        return Tiles(images, present)


def load(root: Path | None, synthetic: int = 1500) -> Pool:
    """The real tiles below `root`, or as many synthetic ones.

    Args:
        root: a folder with `ombria`, `hsg-s2l2a-unlabelled/testset` and `eurosat-rgb/EuroSAT_RGB`; None for synthetic
            scenes.
        synthetic: how many of those for training; a third as many are held out.
    """
    if root is None:
        return _synthetic(synthetic)
    ombria = [_ombria(root / "ombria", split) for split in ("train", "test")]
    others = [_split(_sentinel2(root / "hsg-s2l2a-unlabelled" / "testset"))]
    others += [_split(_eurosat(root / "eurosat-rgb" / "EuroSAT_RGB"))]
    train = (ombria[0], *(one for one, _ in others))
    test = (ombria[1], *(other for _, other in others))
    plain = (
        Modality("radar", ("S1",), 10.0, "8-bit, stretched", (0.0,), (1.0,), speckle=True),
        Modality("falsecolour", ("B11", "B08", "B03"), 10.0, "8-bit", (0.0,) * 3, (1.0,) * 3),
        MODALITIES["s2"],
        MODALITIES["rgb"],
    )
    stacks = {name: stack for places in train for name, stack in places.images.items()}
    return Pool("real", tuple(_measured(modality, stacks[modality.name]) for modality in plain), train, test)


def _measured(modality: Modality, stack: Tensor) -> Modality:
    """The modality with the mean and deviation of these images."""
    bands = rearrange(stack, "n c h w -> c (n h w)").double()
    return replace(modality, mean=tuple(bands.mean(1).tolist()), std=tuple(bands.std(1).tolist()))


def _ombria(root: Path, split: str) -> Places:
    """Windows of 64 x 64 of its tiles of 256 x 256, the flooded share as label."""
    names = sorted(path.name.removeprefix("S1_after_") for path in (root / "OmbriaS1" / split / "AFTER").glob("*.png"))

    def windows(sensor: str, kind: str) -> Tensor:
        folder = root / f"Ombria{sensor}" / split / kind.upper()
        stack = np.stack([np.atleast_3d(np.asarray(Image.open(folder / f"{sensor}_{kind}_{name}"))) for name in names])
        return torch.from_numpy(rearrange(stack, "n (i h) (j w) c -> (n i j) c h w", h=SIDE, w=SIDE).copy())

    flooded = (windows("S1", "mask") > 0).float().mean((1, 2, 3))
    return Places({"radar": windows("S1", "after"), "falsecolour": windows("S2", "after")}, flooded)


def _sentinel2(root: Path) -> Places:
    stack = np.stack([np.load(path) for path in sorted(root.glob("*.npy"))]).astype(np.float32)
    return Places({"s2": torch.from_numpy(rearrange(stack, "n h w c -> n c h w").copy())})


def _eurosat(root: Path) -> Places:
    paths = sorted(root.glob("*/*.jpg"))
    stack = np.stack([np.asarray(Image.open(path)) for path in paths])
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    return Places({"rgb": torch.from_numpy(rearrange(stack, "n h w c -> n c h w").copy())}, labels)


def _split(places: Places) -> tuple[Places, Places]:
    """Four fifths for training, the same ones every time."""
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    held_out = len(places) // 5
    return places.at(order[held_out:]), places.at(order[:held_out])


def _synthetic(count: int) -> Pool:
    scenes = Synthetic(train=count, test=count // 3, size=SIDE, missing=0.0)
    sensors = tuple(MODALITIES[name] for name in ("s1", "s2", "rgb", "dem"))

    def places(split: str) -> Places:
        tiles = [scenes.read(key, sensors) for key in scenes.keys("train" if split == "train" else "test", sensors)]
        stacks = {m.name: torch.from_numpy(np.stack([tile.images[m.name] for tile in tiles])) for m in sensors}
        return Places(stacks, torch.tensor([tile.target for tile in tiles]))

    return Pool("synthetic", sensors, (places("train"),), (places("test"),))
