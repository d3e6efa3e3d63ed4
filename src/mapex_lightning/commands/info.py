"""The command ``mapex info``: what a checkpoint is in a second, and on tiles what its experts do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mapex_lightning.commands.parser import Parser
from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_text
from mapex_lightning.info import Info, inform
from mapex_lightning.runs import find_checkpoint

if TYPE_CHECKING:
    from mapex_lightning.analysis import Analysis  # with timm behind it, which takes seconds to import

TILES = 128
"""Tiles that are looked at unless said otherwise."""

PAGE = "info.html"
"""The file for people among those that are written."""


def run(words: Sequence[str]) -> None:
    """Says what a checkpoint is, as the words after ``mapex info`` ask.

    Raises:
        MapexError: a word is wrong, the checkpoint or the tiles cannot be used, or the output cannot be written.
    """
    parser = Parser("info")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiles", type=int)
    named = bool(words) and not words[0].startswith("-")
    if not named and "--ckpt" not in {word.partition("=")[0] for word in words}:
        raise MapexError("The checkpoint is missing, which comes first: mapex info CKPT. See mapex info --help.")
    known, settings = parser.read(["--ckpt", *words] if named else list(words))
    if known.tiles is not None and (known.tiles < 1 or not settings):
        raise MapexError(f"--tiles is a number of tiles, 1 or more, of --config TILES; found {known.tiles}.")
    source = find_checkpoint(known.ckpt)
    info, analysis = inform(source), None
    if settings:
        from mapex_lightning.commands import on_tiles

        analysis = on_tiles.analysed(source, settings, known.tiles or TILES)
    plain = {**info.plain(), "analysis": None if analysis is None else analysis.plain()}
    print(json.dumps(plain, indent=2, allow_nan=False) if known.json else _for_people(info, analysis), flush=True)
    if settings or known.out:
        folder = known.out or source.with_name(f"{source.stem}-info")
        write(folder, info, analysis, plain)
        if not known.json:
            print(f"\n{folder / PAGE}", flush=True)


def _for_people(info: Info, analysis: Analysis | None) -> str:
    return info.table() if analysis is None else f"{info.table()}\n\n{analysis.table()}"


def write(folder: Path, info: Info, analysis: Analysis | None, plain: dict[str, Any]) -> None:
    """Writes ``info.html``, ``info.json`` and the heat maps; all of it is made before the first is written."""
    from mapex_lightning.heatmap import write_png
    from mapex_lightning.report import info_page, info_pictures

    texts = {PAGE: info_page(info, analysis), "info.json": json.dumps(plain, indent=2, allow_nan=False) + "\n"}
    pictures = info_pictures(info, analysis)
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, picture in pictures.items():
        write_png(picture, folder / name)
