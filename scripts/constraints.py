"""Writes constraints.txt from what pip would install, which it reads as a report: `make constraints` runs it."""

from __future__ import annotations

import json
import re
import sys

HEADER = """\
# The versions that this project is set up with and tested against, for Python 3.11.
# Made by `make constraints`, which asks pip what `.[dev,bench]` would install today, and refreshed by it; the tests
# then say whether the new set still works. Do not edit by hand: a bound and its reason belong into pyproject.toml.
# Left out: cuda-*, nvidia-* and triton. torch itself pins those that its build needs, a CPU or macOS build needs none.
"""

PLATFORM = re.compile(r"(cuda|nvidia)-.+|triton")
OURS = "mapex-lightning"


def pins(report: str) -> list[str]:
    """One ``name==version`` per package of a report of ``pip install --dry-run --report``.

    Args:
        report: the report, as JSON.

    Returns:
        The pins, sorted by name. A local label such as that of a CPU build is cut off: it is not a release.
    """
    found = {}
    for item in json.loads(report)["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if name != OURS and not PLATFORM.fullmatch(name):
            found[name] = item["metadata"]["version"].partition("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    sys.stdout.write(HEADER + "\n".join(pins(sys.stdin.read())) + "\n")
