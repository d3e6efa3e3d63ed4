"""The command ``mapex doctor``: is my data right, and will it train?"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from mapex_lightning.commands.parser import Parser
from mapex_lightning.errors import MapexError

if TYPE_CHECKING:
    from mapex_lightning.data.examination import Finding
    from mapex_lightning.data.statistics import Statistics
    from mapex_lightning.modality import Modality

SHARES = (0, 2, 25, 50, 75, 98, 100)
"""The percentiles that ``--stats`` shows."""


def run(words: Sequence[str]) -> None:
    """Examines the data and the model of a config, as the words after ``mapex doctor`` ask.

    Raises:
        MapexError: a word or a setting is wrong, or something was found that is.
    """
    parser = Parser("doctor", ckpt=False)
    for option in ("--json", "--stats", "--checksums"):
        parser.add_argument(option, action="store_true")
    known, settings = parser.read(list(words))
    if not known.config:
        raise MapexError("mapex doctor needs a config, such as: mapex doctor --config eurosat.yaml.")
    from mapex_lightning.commands import checkup

    with redirect_stdout(sys.stderr):  # what it says of a checkpoint is no finding
        patient = checkup.admit([*settings, *(["--ckpt", known.ckpt] if known.ckpt else [])])
    found: list[Finding] = []
    for finding in checkup.findings(patient, sums=known.checksums):
        found.append(finding)
        if not known.json:
            print(finding.lines(), flush=True)
    statistics, unread = checkup.statistics_of(patient.datamodule) if known.stats else ([], [])
    if known.json:
        print(json.dumps(_plain(found, statistics, unread), indent=2, allow_nan=False), flush=True)
    else:
        counts = Counter(finding.mark for finding in found)
        print(f"\n{', '.join(f'{counts[mark]} {mark}' for mark in ('ok', 'look', 'wrong', 'unknown') if counts[mark])}")
        if known.stats:
            print(f"\n{_table(statistics, unread)}", flush=True)
    wrong = [finding for finding in found if finding.mark == "wrong"]
    if wrong:
        raise MapexError(f"{wrong[0].check}: {wrong[0].sentence} (wrong: {len(wrong)} of {len(found)} findings)")


def _table(statistics: Sequence[tuple[Modality, Statistics]], unread: Sequence[str]) -> str:
    """Statistics for people, then as the block of YAML that a config takes."""
    from mapex_lightning.data.statistics import block, with_statistics
    from mapex_lightning.info import heading_of
    from mapex_lightning.text import aligned, indented

    lines, blocks = [], []
    for modality, its in statistics:
        percentiles = [its.percentile(share) for share in SHARES]
        rows = [["band", "valid pixels", "invalid", "mean", "std", *(f"{share} %" for share in SHARES)]]
        for index, band in enumerate(modality.bands):
            figures = [its.mean[index], its.std[index], *(values[index] for values in percentiles)]
            rows.append(
                [band, f"{its.count[index]:,}", f"{its.invalid[index]:.1%}", *(f"{value:.5g}" for value in figures)]
            )
        lines += [heading_of(modality), *indented(aligned(rows)), ""]
        try:
            blocks.append(block(with_statistics(modality, its)))
        except MapexError as error:
            lines += [f"  no block: {error}", ""]
    if unread:
        lines += [f"{len(unread):,} tiles could not be read and are left out; the first: {unread[0]}", ""]
    text = "".join(blocks)
    lines += [
        "as a block of YAML, in place of the names in data.modalities (all training tiles):",
        "",
        *indented(text.splitlines()),
    ]
    return "\n".join(lines)


def _plain(
    found: Sequence[Finding], statistics: Sequence[tuple[Modality, Statistics]], unread: Sequence[str]
) -> dict[str, Any]:
    """The same for programs."""
    return {
        "findings": [finding.plain() for finding in found],
        "statistics": {
            modality.name: {
                "bands": list(modality.bands),
                "unit": modality.unit,
                "gsd": modality.gsd,
                "valid": list(its.count),
                "invalid": list(its.invalid),
                "mean": _finite(its.mean),
                "std": _finite(its.std),
                "percentiles": {str(share): _finite(its.percentile(share)) for share in SHARES},
            }
            for modality, its in statistics
        },
        "unread": list(unread),
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    """Figures, with None for what JSON has no word for."""
    return [None if value != value else value for value in values]
