"""The words of a command that needs no Trainer, read without anything heavy."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mapex_lightning.errors import MapexError


class Parser(argparse.ArgumentParser):
    """A parser that refuses in our own sentences.

    Args:
        command: the command's name.
        ckpt: whether it needs a checkpoint; None is a command that takes neither checkpoints nor configs.
    """

    def __init__(self, command: str, *, ckpt: bool | None = True) -> None:
        super().__init__(f"mapex {command}", add_help=False, allow_abbrev=False)
        if ckpt is None:
            return
        self.add_argument("--ckpt", required=ckpt)
        self.add_argument("--config", "-c", action="append", default=[])

    def read(self, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options, and with tiles the words that are settings of their config.

        Raises:
            MapexError: a word is no option of the command.
        """
        known, rest = self.parse_known_args(words)
        if rest and not known.config:
            raise MapexError(f"{rest[0]} is no option of {self.prog} without --config TILES. See {self.prog} --help.")
        return known, [*(word for name in known.config for word in ("--config", name)), *rest]

    def error(self, message: str) -> NoReturn:
        """Called by argparse.

        Raises:
            MapexError: always.
        """
        raise MapexError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")
