"""Words of a command line as people write them become settings."""

from __future__ import annotations

import json

import pytest

from mapex_lightning.cli.words import SCENE, with_scene


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["s2=S2.tif,", "s1=S1.tif"], {"s2": ["S2.tif"], "s1": ["S1.tif"]}),
        (["A.tif,", "B.tif"], ["A.tif", "B.tif"]),
        (["s2=a,b.tif"], {"s2": ["a,b.tif"]}),
    ],
)
def test_files_of_a_scene_may_have_commas_between_them(
    words: list[str], wanted: dict[str, list[str]] | list[str]
) -> None:
    (word,) = with_scene([SCENE, *words])
    assert json.loads(word.removeprefix(f"{SCENE}=")) == wanted
