"""The words of a command that needs no Trainer, read without anything heavy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
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
        _check_lists(words)
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


def _check_lists(words: Sequence[str]) -> None:
    """A list that the shell has taken apart at its spaces is told as what it is.

    Raises:
        MapexError: there is one.
    """
    option = ""
    for word, following in pairwise(words):
        option = word if word.startswith("-") else option
        if option and word.endswith(",") and not following.startswith("-"):
            raise MapexError(
                f"{option.partition('=')[0]} is one word without spaces, such as s1,s2; found {word!r} and then "
                f"{following!r}."
            )
