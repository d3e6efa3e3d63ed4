"""The door: answers help, versions and typos at once, and imports nothing heavy before a command is known."""

from __future__ import annotations

import errno
import faulthandler
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mapex_lightning import __version__

if TYPE_CHECKING:
    from mapex_lightning.errors import MapexError, Preempted

PAGES = Path(__file__).parent / "help"
"""What each command says of itself, a file each; ``mapex.txt`` is what all of them say together."""

COMMANDS = tuple(sorted(page.stem for page in PAGES.glob("*.txt") if page.stem not in ("mapex", "common")))
"""The commands: those that have a page."""

LIGHT = ("doctor", "export", "info", "pack", "prune", "results", "tiles")
"""Commands with a module of their own in `mapex_lightning.commands`; the others need a Trainer from the start."""


READING = {
    "DataLoader worker": (
        "A process that reads data was ended from outside ({}), as happens where memory runs out. Use fewer of them "
        "(--data.workers, of mapex tiles --workers) or a smaller data.batch_size."
    ),
    "DataLoader timed out": (
        "No process that reads data has brought a batch in time ({}), as happens where a network file system has gone. "
        "See that the data can be read; where reading is that slow, raise data.timeout (minutes)."
    ),
}
"""How PyTorch's errors about processes that read data begin, and what is said in their place."""

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What the system says of a disk that takes nothing more: full, quota spent, read-only."""


def page(name: str) -> str:
    """The help of a command, or of them all."""
    common = (PAGES / "common.txt").read_text(encoding="utf-8")
    return (PAGES / f"{name}.txt").read_text(encoding="utf-8").replace("{common}\n", common)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the words after ``mapex``; by default those of the process.

    Returns:
        The exit code: 0 for success, or one of those of `mapex_lightning.errors`.
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
    from mapex_lightning.signals import listening

    # From now on, though training begins seconds later, until the last word is said: Slurm ends what is queued again.
    with listening() if command == "fit" else nullcontext():
        return _answer(command, rest)


def _answer(command: str, rest: list[str]) -> int:
    """The exit code of a command that has run, and a sentence where it has not done what was asked for."""
    from mapex_lightning.errors import STOPPED, MapexError, Preempted

    try:
        with _loggers_that_say_it_once():
            _dispatch(command, rest)
    except MapexError as error:
        return _refuse(error)
    except Preempted as stop:
        return _leave(stop)
    except KeyboardInterrupt as stop:
        print(f"mapex: stopped{stop}", file=sys.stderr)
        return STOPPED
    except RuntimeError as error:
        for begins, sentence in READING.items():
            if str(error).startswith(begins):
                return _refuse(MapexError(sentence.format(str(error).splitlines()[0].rstrip(". "))))
        raise
    except OSError as error:  # of what is no checkpoint, such as a log
        if error.errno not in UNWRITABLE:
            raise
        where = f" ({error.filename})" if isinstance(error.filename, str) else ""
        return _refuse(
            MapexError(
                f"A file could not be written: {error.strerror}{where}. What was saved before is whole. Make room or "
                "choose another disk, and go on from the last checkpoint."
            )
        )
    return 0


@contextmanager
def _loggers_that_say_it_once() -> Iterator[None]:
    """TensorBoard writes in a thread, whose error comes up at the next figure too: not in a traceback before that."""
    told = threading.excepthook

    def tell(found: threading.ExceptHookArgs) -> None:
        if not (isinstance(found.exc_value, OSError) and found.exc_value.errno in UNWRITABLE):
            told(found)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = told


def _dispatch(command: str, rest: list[str]) -> None:
    _show_stacks_when_asked()
    if command in LIGHT:
        import_module(f"mapex_lightning.commands.{command}").run(rest)
        return
    from mapex_lightning import cli

    cli.run(command, rest)


def _leave(stop: Preempted) -> int:
    """Says what was kept, which one process of a run knows."""
    if str(stop):
        print(f"mapex: {stop}", file=sys.stderr, flush=True)
    return stop.code


def _refuse(error: MapexError) -> int:
    print(f"mapex: {error}", file=sys.stderr, flush=True)
    return error.code


def _show_stacks_when_asked() -> None:
    """SIGUSR2 prints where every thread is and lets the process go on; its forked workers inherit that."""
    if hasattr(signal, "SIGUSR2") and sys.__stderr__ is not None:
        faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=True)


if __name__ == "__main__":
    sys.exit(main())
