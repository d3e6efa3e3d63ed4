"""What ends a command with a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

REFUSED = 2
"""The exit code where something that was given cannot be used."""

LOST = 1
"""The exit code where another process of the job is gone for a reason that it has not told."""

TRY_AGAIN = 75
"""The exit code of a run that has kept its state and wants to go on, as in sysexits.h (EX_TEMPFAIL)."""

STOPPED = 130
"""The exit code of what was stopped with Ctrl-C, as shells know it."""


class MapexError(Exception):
    """Something the user gave cannot be used.

    The message is one sentence that says what was wanted, what was found, what is available and what to do. The command
    line prints it without a traceback and exits with code `REFUSED`. It is no ValueError, because libraries that parse
    settings catch those and bury the sentence in one of their own.

    Args:
        sentence: the message. PyTorch hands over an error of a worker process as its whole traceback; of that only the
            sentence at the end is kept.

    Attributes:
        code: the exit code of the command line.
    """

    code: int = REFUSED

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence.rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip())


class LostRank(MapexError):
    """Another process of the same job is gone or does not answer, so that this one cannot go on.

    Args:
        sentence: the message.
        code: the exit code, that of the other process where it told its reason by one.
    """

    def __init__(self, sentence: str, code: int = LOST) -> None:
        super().__init__(sentence)
        self.code = code


class Preempted(Exception):
    """A run was told to stop and has kept its state: no error, and yet not what was asked for.

    Args:
        sentence: what was kept, and how to go on; empty in all processes of a run but one.
        code: the exit code, `TRY_AGAIN` where the run is back in a queue as well.
    """

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def unknown(kind: str, name: str, known: Iterable[str], remedy: str = "", where: str = "") -> MapexError:
    """The error for a name that is not in a known list, with the nearest known name.

    Args:
        kind: what the name stands for, such as ``"modality"``.
        name: the name that was given.
        known: the names that exist.
        remedy: what else the user can do, a clause without a full stop.
        where: where it was looked for, such as ``"in this encoder"``.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(known)
    lowered = {known.lower(): known for known in names}
    near = get_close_matches(name.lower(), lowered, n=1)
    hint = f" Did you mean {lowered[near[0]]!r}?" if near else ""
    way_out = f" {remedy}." if remedy else ""
    place = f" {where}" if where else ""
    return MapexError(f"There is no {kind} {name!r}{place}.{hint} Known: {', '.join(names) or 'none'}.{way_out}")
