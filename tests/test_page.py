"""A page stands alone, escapes what it is given, and says in words what it shows in colours."""

from __future__ import annotations

import pytest
import torch

from mapex_lightning.heatmap import DEEP, of_shares
from mapex_lightning.page import Html, figures, heat_table, heat_tables, joined, page, paragraph, section, steps, table
from tests.markup import parsed

NASTY = """</title><script>alert("1 & 2")</script><img src='https://example.org/x.png' onerror=alert(1)>"""


def everything(text: str) -> str:
    """A page of every kind of part, with the same text wherever text can be."""
    return page(
        text,
        text,
        section(text, paragraph(text), paragraph(text, note=True), steps([text]), figures({text: (text, text)})),
        section(text, table([text, text], [[text, text]], caption=text)),
        section(text, heat_tables([of_shares(text, [text], torch.ones(1, 2), kept=[0])])),
        foot=text,
    )


def test_a_page_is_whole_and_loads_nothing() -> None:
    found = parsed(everything("plain"))
    assert found.left_open == []
    assert found.loads == []
    assert {"script", "link", "img", "iframe", "object", "embed", "form", "a"} & set(found.tags) == set()


def test_a_browser_is_told_to_load_nothing() -> None:
    assert """content="default-src 'none'; style-src 'unsafe-inline'">""" in everything("plain")


def test_text_stays_text_wherever_it_is_put() -> None:
    found = parsed(everything(NASTY))
    plain = parsed(everything("plain"))
    assert found.tags == plain.tags
    assert found.text.count(NASTY) == plain.text.count("plain")
    assert found.attributes["aria-label"].count(NASTY) == plain.attributes["aria-label"].count("plain") > 0


def test_markup_is_not_escaped_twice() -> None:
    assert joined("a < b", Html("<br>")) == "a &lt; b<br>"


@pytest.mark.parametrize(
    ("text", "right"), [("1,234", True), ("-54.2%", True), ("12.5 MB", True), ("4.2e-07", True), ("0, 3 of 6", False)]
)
def test_columns_of_numbers_are_set_to_the_right(text: str, right: bool) -> None:
    assert ('<td class="number">' in table(["what", "value"], [["x", text], ["y", "1"]])) == right


def test_a_table_without_rows_is_its_head() -> None:
    assert parsed(table(["what", "value"], [])).tags.count("tr") == 1


def test_a_heat_map_says_the_number_and_what_is_kept_in_words() -> None:
    found = parsed(
        heat_table(of_shares("block 0", ["s1", "s2"], torch.tensor([[0.9, 0, 0.1], [0.5, 0.5, 0]]), kept=[0, 2]))
    )
    assert found.words[:8] == ["block 0", "sensor", "0", "kept", "1", "cut", "2", "kept"]
    assert found.words[8:] == ["s1", "0.90", "0", "0.10", "s2", "0.50", "0.50", "0"]


def test_only_dark_cells_have_light_letters_and_only_kept_ones_an_outline() -> None:
    markup = heat_table(of_shares("block 0", ["s1"], torch.tensor([[DEEP + 0.01, 0, 0.99 - DEEP]]), kept=[2]))
    assert [c for c in parsed(markup).attributes["class"] if c not in ("wide", "heat")] == [
        *("cut", "cut", "kept"),
        *("cut deep", "cut none", "kept"),
    ]


def test_the_parser_of_these_tests_finds_what_is_planted() -> None:
    found = parsed('<p><b>open</p><img src="http://x.org/y.png"><style>@import "z.css"; a{background:url(q)}</style>')
    assert found.left_open == ["p", "b"]
    assert len(found.loads) == 3
