"""Several processes on this machine that act as the ranks of one run, for tests of what they do together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

SECONDS = 240.0
"""How long a test waits before it says that the ranks hang."""

NAMES = ("out", "err")
"""How the files begin into which `commands` writes what a rank says."""

# The ranks are forks of a process that has imported everything already, which takes a process of its own many seconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["mapex_lightning.cli"])


def together(
    work: Callable[..., Any], *args: Any, world: int = 2, environment: Mapping[str, str] | None = None
) -> list[Any]:
    """What `work(*args)` returns on each rank, in the order of the ranks.

    The Trainer in there takes its process for one that a launcher has started; `work` must be importable by name.

    Args:
        work: what every rank does.
        args: its arguments, the same for all ranks.
        world: how many ranks.
        environment: further variables.

    Raises:
        AssertionError: a rank failed or did not end; all of them are ended then.
    """
    ends, ranks = [], []
    for variables in _places(world):
        mine, theirs = _context.Pipe(duplex=False)
        variables |= environment or {}
        process = _context.Process(target=_rank, args=(theirs, variables, os.getcwd(), work, args), daemon=True)
        process.start()
        theirs.close()
        ends.append(mine)
        ranks.append(process)
    try:
        limit = time.monotonic() + SECONDS
        found = []
        for rank, end in enumerate(ends):
            assert end.poll(max(0.0, limit - time.monotonic())), f"rank {rank} of {world} did not end"
            try:
                error, value = end.recv()
            except EOFError:
                error, value = "it ended without a word", None
            assert error is None, f"rank {rank} of {world}: {error}"
            found.append(value)
        return found
    finally:
        for process in ranks:
            process.join(10.0)
            if process.is_alive():
                process.kill()
                process.join()


def commands(folder: Path, words: Sequence[str], world: int = 1) -> list[BaseProcess]:
    """Starts ``mapex`` on every rank, each in a session of its own, as a launcher from outside does.

    What rank r says is in ``out-r.txt`` and ``err-r.txt`` in the folder, which is the current one of the command.
    """
    places = _places(world) if world > 1 else [{}]
    ranks: list[BaseProcess] = [_context.Process(target=_command, args=(folder, words, place)) for place in places]
    for number, rank in enumerate(ranks):
        for name in NAMES:
            (folder / f"{name}-{number}.txt").write_text("")
        rank.start()
    return ranks


def _places(world: int) -> list[dict[str, str]]:
    """What tells each rank its place."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    return [{**shared, "LOCAL_RANK": str(rank)} for rank in range(world)]


def _command(folder: Path, words: Sequence[str], variables: Mapping[str, str]) -> None:
    from mapex_lightning.__main__ import main

    os.setsid()
    os.environ.update(variables)
    os.chdir(folder)
    torch.set_num_threads(1)
    for number, name in enumerate(NAMES, start=1):
        os.dup2(os.open(f"{name}-{variables.get('LOCAL_RANK', '0')}.txt", os.O_WRONLY), number)
    sys.exit(main(words))


def _free_port() -> int:
    """A port below those that the system hands out by itself, so that no other program is given it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("", port))
            return port


def _rank(end: Connection, variables: Mapping[str, str], folder: str, work: Callable[..., Any], args: Any) -> None:
    os.environ.update(variables)
    os.chdir(folder)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # what Lightning says of itself
    try:
        end.send((None, work(*args)))
    except BaseException:
        end.send((traceback.format_exc(), None))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
