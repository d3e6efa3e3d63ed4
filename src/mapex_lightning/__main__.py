"""The door: answers help, versions and typos at once, and imports nothing heavy before a command is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mapex_lightning import __version__

PAGES = Path(__file__).parent / "help"
"""What each command says of itself, a file each; ``mapex.txt`` is what all of them say together."""

COMMANDS = tuple(sorted(page.stem for page in PAGES.glob("*.txt") if page.stem not in ("mapex", "common")))
"""The commands: those that have a page."""

LIGHT = ("doctor", "export", "info", "pack", "prune", "tiles")
"""Commands with a module of their own in `mapex_lightning.commands`; the others need a Trainer from the start."""


STOPPED = 130
"""The exit code of what was stopped with Ctrl-C, as shells know it."""


def page(name: str) -> str:
    """The help of a command, or of them all."""
    common = (PAGES / "common.txt").read_text(encoding="utf-8")
    return (PAGES / f"{name}.txt").read_text(encoding="utf-8").replace("{common}\n", common)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the words after ``mapex``; by default those of the process.

    Returns:
        The exit code: 0 for success, 2 for input that cannot be used, `STOPPED` after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except BrokenPipeError:  # mapex --help | head
        sys.stderr.close()
        return 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(page("mapex"), end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"mapex {__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        from mapex_lightning.errors import unknown

        return _refuse(unknown("command", command, COMMANDS))
    if "-h" in rest or "--help" in rest:
        print(page(command), end="")
        return 0
    from mapex_lightning.errors import MapexError

    try:
        _dispatch(command, rest)
    except MapexError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print("mapex: stopped", file=sys.stderr)
        return STOPPED
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        found = str(error).splitlines()[0].rstrip(". ")
        return _refuse(
            MapexError(
                f"A process that reads data was ended from outside ({found}), as happens where memory runs out. Use "
                "fewer of them (--data.workers, of mapex tiles --workers) or a smaller data.batch_size."
            )
        )
    return 0


def _dispatch(command: str, rest: list[str]) -> None:
    if command in LIGHT:
        import_module(f"mapex_lightning.commands.{command}").run(rest)
    else:
        from mapex_lightning import cli

        cli.run(command, rest)


def _refuse(error: Exception) -> int:
    print(f"mapex: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
