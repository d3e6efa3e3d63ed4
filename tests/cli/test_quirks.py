"""A warning of ours is a sentence; others are shown with their place."""

from __future__ import annotations

import warnings

from mapex_lightning.cli import quirks


def test_a_warning_of_ours_is_a_sentence_and_others_keep_their_place() -> None:
    quirks.quiet()
    assert warnings.formatwarning("Look.", UserWarning, quirks.__file__, 7) == "mapex: Look.\n"
    assert ":7:" in warnings.formatwarning("Look.", UserWarning, __file__, 7)
