"""The command ``mapex results``: the figures of several runs in one table, in a moment."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from mapex_lightning.commands.parser import Parser
from mapex_lightning.files import write_whole
from mapex_lightning.results import gather


def run(words: Sequence[str]) -> None:
    """Prints the results of runs, as the words after ``mapex results`` ask.

    Raises:
        MapexError: a word is wrong, there is no such run, or the file cannot be written.
    """
    parser = Parser("results", ckpt=None)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--csv", type=Path)
    known = parser.parse_args(list(words))
    results = gather(known.names)
    if known.csv:
        rows = results.rows()

        def write(beside: Path) -> None:
            with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                csv.writer(file).writerows(rows)

        write_whole(known.csv, write)
    print(json.dumps(results.plain(), indent=2, allow_nan=False) if known.json else results.table(), flush=True)
