"""What a data worker does in tests, in a module that takes no time to import."""

from __future__ import annotations

import time

from mapex_lightning.signals import shield


def read() -> None:
    """Says that it has begun, and goes on."""
    shield()
    print("reads", flush=True)
    time.sleep(600)
