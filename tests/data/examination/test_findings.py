"""Findings are lines for people."""

from __future__ import annotations

from mapex_lightning.data.examination.findings import Finding, counted, figure, some


def test_a_finding_is_marked_and_its_remedy_stands_below() -> None:
    lines = Finding("wrong", "values", "word " * 40, "Mend it.").lines().splitlines()
    assert lines[0].split()[:3] == ["wrong", "values", "word"]
    assert lines[-1].strip() == "Mend it."
    assert len({len(line) - len(line.lstrip()) for line in lines[1:]}) == 1
    assert max(map(len, lines)) <= 120


def test_names_and_numbers_are_for_people() -> None:
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert some(["a"]) == "a"
    assert (counted(1, "tile"), counted(2000, "tile")) == ("1 tile", "2,000 tiles")
    assert (figure(14140.4), figure(-12.44), figure(0.0123)) == ("14,140", "-12.4", "0.0123")
