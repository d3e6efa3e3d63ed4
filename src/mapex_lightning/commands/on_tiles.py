"""What prune and info do on tiles of a config: with its data and Trainer, and a checkpoint in place of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from mapex_lightning.analysis import Analysis, analyse
from mapex_lightning.checkpoint import Description, describe, encoder_of, load_decoder, read
from mapex_lightning.cli.building import MapexCLI, build
from mapex_lightning.comparison import Comparison, compare
from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.pruning import Policy, Report
from mapex_lightning.tiles import Tiles
from mapex_lightning.train.prune import Prune

COMPARED = 32
"""Tiles on which a pruned model is compared with the full one."""


def pruned(
    source: Path, keep: Sequence[str], policy: Policy, words: Sequence[str]
) -> tuple[dict[str, Any], Report, Comparison] | None:
    """Refreshes the census on the validation tiles of a config, prunes, and compares; on the first rank alone.

    Args:
        source: the checkpoint.
        keep: names of modalities.
        policy: which experts stay.
        words: config and settings.

    Returns:
        The pruned checkpoint, what was done, and how it compares with the full one; None on all other ranks.

    Raises:
        MapexError: something that was given cannot be used.
    """
    found: Description = describe(read(source))
    for name in keep:
        found.encoder.modality(name)
    cli, model = _in_place_of_its_model("prune", source, keep, policy, words)
    cli.trainer.validate(model, datamodule=cli.datamodule, verbose=False)
    if not cli.trainer.is_global_zero:
        return None
    assert model.pruned is not None
    checkpoint, report = model.pruned
    device = cli.trainer.strategy.root_device
    tiles = _tiles_for(report.keep, cli.datamodule, COMPARED).to(device)
    pruned = encoder_of(checkpoint, "the pruned model")
    return checkpoint, report, compare(model.encoder.to(device), pruned.to(device), tiles)


def analysed(source: Path, words: Sequence[str], count: int) -> Analysis:
    """What the experts of a checkpoint do on validation tiles of a config, on the device that its Trainer would use.

    Args:
        source: the checkpoint.
        words: config and settings.
        count: tiles, spread over the split.

    Raises:
        MapexError: something that was given cannot be used.
    """
    names = describe(read(source)).encoder.names
    cli, model = _in_place_of_its_model("info", source, names, None, words)
    decoder, device = load_decoder(source), cli.trainer.strategy.root_device
    tiles = _tiles_for(names, cli.datamodule, count).to(device)
    batches = tiles.parts(cli.datamodule.batch_size)
    return analyse(model.encoder.to(device), None if decoder is None else decoder.to(device), batches)


def _in_place_of_its_model(
    command: str, source: Path, keep: Sequence[str], policy: Policy | None, words: Sequence[str]
) -> tuple[MapexCLI, Prune]:
    """Data and Trainer of a config, with a checkpoint in place of its model."""
    settings = None if policy is None else Namespace(**asdict(policy))
    cli = build(command, words, prune={"encoder": str(source), "keep": list(keep), "policy": settings})
    assert isinstance(cli.model, Prune)
    return cli, cli.model


def _tiles_for(sensors: Sequence[str], data: TileData, count: int) -> Tiles:
    """A few validation tiles with those of the sensors that the data has.

    Raises:
        MapexError: it has none of them.
    """
    offered = [modality.name for modality in data.modalities]
    if not set(offered) & set(sensors):
        raise MapexError(
            f"The model reads {', '.join(sensors)}, and the tiles of this config have {', '.join(offered)}; set "
            "data.modalities to some of the former, or give another config."
        )
    return data.examples(count).only(sensors)
