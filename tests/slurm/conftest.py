"""One Slurm for all tests that need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.slurm.cluster import Cluster, Unavailable, cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A running Slurm of two nodes; skips the test, with the reason, where there can be none."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(cluster())
        except Unavailable as error:
            pytest.skip(str(error))
        yield running
