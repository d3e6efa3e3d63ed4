"""The data of a config, without its model and Trainer."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from mapex_lightning.cli import MapexCLI, build
from mapex_lightning.data.module import TileData


class _Data(MapexCLI):
    """Reads the whole config, so that a mistyped setting is found, and builds the data alone."""

    def before_instantiate_classes(self) -> None:
        """There is neither a checkpoint nor a run folder."""

    def instantiate_classes(self) -> None:
        """Builds the data."""
        parser = LightningArgumentParser()
        parser.add_lightning_class_args(TileData, "data")
        self.datamodule = parser.instantiate_classes(Namespace(data=self.config.data)).data


def data_of(command: str, words: Sequence[str]) -> TileData:
    """The data that a config describes.

    Args:
        command: who asks, for messages.
        words: config and settings.

    Raises:
        MapexError: a setting is unknown or cannot be used.
    """
    data = build(command, words, kind=_Data).datamodule
    assert isinstance(data, TileData)
    return data
