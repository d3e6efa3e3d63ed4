"""The signals that tell this process to stop: they set a flag, and training looks at it between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


def shield(worker: int = 0) -> None:
    """Lets a data worker live on after `STOP_SIGNALS`, which clusters send to every process of a job.

    The run needs it until it has kept its state. SIGTERM from the process that has started it ends it, as ever.

    Args:
        worker: its number, which a DataLoader gives.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # so that it waits for the thread
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
