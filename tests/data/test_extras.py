"""Optional packages: a sentence says which is missing and what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mapex_lightning.data.extras import imported
from mapex_lightning.errors import MapexError


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    says = r"^This needs the Python package nosuchthing: run `pip install 'mapex-lightning\[cubes\]'`\.$"
    with pytest.raises(MapexError, match=says):
        imported("nosuchthing.part", "cubes", "This")


def test_a_package_that_a_package_leaves_to_its_users_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking.py").write_text("import nosuchthing.part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MapexError, match=r"package nosuchthing: run `pip install 'mapex-lightning\[cubes\]' nosuch"):
        imported("lacking", "cubes", "This")
    assert "lacking" not in sys.modules
