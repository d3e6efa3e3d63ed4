"""The signals that tell this process to stop: they set a flag, and training looks at it between two steps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
"""What clusters send some time before they end a job."""

_heard: list[int] = []


def told_to_stop() -> bool:
    """Whether one of `STOP_SIGNALS` has come since `listening` began."""
    return bool(_heard)


@contextmanager
def listening() -> Iterator[None]:
    """While this is open, `STOP_SIGNALS` set the flag and do nothing else; afterwards they do what they did before.

    Python allows handlers in the main thread only; in any other one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _heard.clear()
    before = {number: signal.signal(number, _hear) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.siginterrupt(number, False)  # libraries in C go on with what they read or write
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _heard.clear()


def _hear(number: int, frame: FrameType | None) -> None:
    _heard.append(number)


@contextmanager
def held_back() -> Iterator[None]:
    """While this is open, `STOP_SIGNALS` wait, also in processes that are started meanwhile, until they `shield`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield(worker: int = 0) -> None:
    """Lets a data worker live on after `STOP_SIGNALS`, which clusters send to every process of a job.

    The run needs it until it has kept its state. SIGTERM from the process that has started it ends it, as ever, and so
    does the end of that process, which need not be its parent: Python may start processes through one that forks.

    Args:
        worker: its number, which a DataLoader gives.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # so that it waits for the thread
    starter = multiprocessing.parent_process()
    number = os.getppid() if starter is None or starter.pid is None else starter.pid
    threading.Thread(target=_end_when_told, args=(number,), daemon=True).start()
    if starter is not None:
        threading.Thread(target=_end_after, args=(starter,), daemon=True).start()


def _end_when_told(by: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != by:
        pass
    os._exit(0)


def _end_after(starter: BaseProcess) -> None:
    starter.join()
    os._exit(0)
