"""A self-contained HTML page: one file with its style inside, that loads nothing and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from mapex_lightning.heatmap import DEEP, HeatMap

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f7f9; --line: #dde2e7; --ink: #1f2328; --soft: #5b6570;
  --heat: 8 48 107; --deep: #ffffff; --mark: #b84a00;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --panel: #1b1f25; --line: #303740; --ink: #e3e7eb; --soft: #9ba6b1;
  --heat: 120 174 255; --deep: #0a1220; --mark: #ff9d5c;
} }
@media print { :root {
  --paper: #ffffff; --panel: #ffffff; --line: #b9c0c7; --ink: #000000; --soft: #444444;
  --heat: 8 48 107; --deep: #ffffff; --mark: #b84a00;
} }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  print-color-adjust: exact; -webkit-print-color-adjust: exact;
}
h1 { margin: 0 0 .25rem; font-size: 1.75rem; line-height: 1.2; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .75rem; font-size: 1.2rem; font-weight: 600; }
p { margin: 0 0 1rem; max-width: 46rem; overflow-wrap: anywhere; }
.lead { color: var(--soft); font-size: 1.05rem; }
.note, caption, thead th, dt { color: var(--soft); }
.note { font-size: .9rem; }
ol { margin: 0; padding-left: 1.5rem; max-width: 46rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1.75rem 0 0; }
dl div { padding: .75rem .9rem .85rem; background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; }
dt { font-size: .85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dd.figure { font-size: 1.05rem; line-height: 1.35; font-weight: 600; }
.wide { overflow-x: auto; margin: 0 0 1.25rem; }
.maps { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; align-items: flex-start; }
.maps .wide { max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { padding: 0 0 .4rem; text-align: left; font-size: .9rem; white-space: nowrap; }
th, td { padding: .32rem 1.1rem .32rem 0; text-align: left; vertical-align: top; font-weight: 400; }
thead th { border-bottom: 1px solid var(--line); vertical-align: bottom; font-size: .85rem; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
table.heat { border-collapse: separate; border-spacing: 2px 0; }
table.heat th, table.heat td { padding: .35rem .2rem; border: 0; vertical-align: middle; }
table.heat thead th { vertical-align: bottom; }
table.heat tbody th { padding-right: .9rem; }
table.heat thead th + th, table.heat td { min-width: 3rem; text-align: center; }
table.heat thead small { display: block; font-size: .75rem; line-height: 1.1; }
table.heat td { background: rgb(var(--heat) / var(--share)); box-shadow: inset 0 2px 0 var(--paper); }
table.heat td.none { color: var(--soft); }
table.heat td.deep { color: var(--deep); }
table.heat thead th.kept { color: var(--ink); font-weight: 600; border-bottom: 2px solid var(--mark); }
table.heat td.kept { border-left: 2px solid var(--mark); border-right: 2px solid var(--mark); }
table.heat tbody tr:last-child td.kept { border-bottom: 2px solid var(--mark); }
footer { margin-top: 3.5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
@media print {
  body { max-width: none; padding: 0; font-size: .85rem; }
  dl div, table, .wide { break-inside: avoid; overflow: visible; }
  h2 { break-after: avoid; }
}
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load for a page: nothing."""


NUMBER = re.compile(r"[<>+\u2212-]?[\d.,]+(e[+-]\d+)?( ?(%|ms|[kMG]?B|m))?|\u2013|")
"""What counts as a number in a table: with a sign or a unit, or a dash where there is none."""


class Html(str):
    """Markup. Text that is no `Html` is escaped wherever it enters a page."""


def tag(name: str, *inside: str, **attributes: str) -> Html:
    """An element. An attribute that is a word of Python has an underscore behind it: ``class_``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value
    )
    return Html(f"<{name}{given}>{joined(*inside)}</{name}>")


def joined(*parts: str) -> Html:
    """Markup and escaped text, one after the other."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def page(title: str, lead: str, *sections: Html, foot: str = "") -> str:
    """The whole file.

    Args:
        title: of the page.
        lead: what there is to know, in a sentence or two.
        sections: the rest.
        foot: the last line, such as what made the page.
    """
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{tag('title', title)}\n<style>{STYLE}</style>\n</head>\n"
    )
    header = tag("header", tag("h1", title), tag("p", lead, class_="lead"))
    footer = tag("footer", tag("p", foot, class_="note")) if foot else Html()
    body = tag("body", tag("main", header, *(joined("\n", section) for section in sections)), "\n", footer)
    return f"{head}{body}\n</html>\n"


def section(title: str, *inside: Html) -> Html:
    """A heading with what belongs below it."""
    return tag("section", tag("h2", title), *(joined("\n", part) for part in inside))


def paragraph(*text: str, note: bool = False) -> Html:
    """A paragraph; a note is set smaller."""
    return tag("p", *text, class_="note" if note else "")


def steps(lines: Sequence[str]) -> Html:
    """A numbered list."""
    return tag("ol", *(tag("li", line) for line in lines))


def figures(cards: Mapping[str, tuple[str, str]]) -> Html:
    """Key figures in a row: of each its name, the figure, and a remark."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", value, class_="figure"), tag("dd", remark, class_="note"))
            for name, (value, remark) in cards.items()
        ),
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Html:
    """A table whose first column names the rows; columns of numbers are set to the right."""
    sides = [
        "number" if column and rows and all(NUMBER.fullmatch(row[column]) for row in rows) else ""
        for column in range(len(head))
    ]
    heads = [tag("th", text, scope="col", class_=side) for text, side in zip(head, sides, strict=True)]
    lines = [
        tag(
            "tr", tag("th", first, scope="row"), *(tag("td", t, class_=s) for t, s in zip(rest, sides[1:], strict=True))
        )
        for first, *rest in rows
    ]
    return _wide(
        caption or head[0],
        tag("caption", caption) if caption else "",
        tag("thead", tag("tr", *heads)),
        tag("tbody", *lines),
    )


def heat_table(heat_map: HeatMap) -> Html:
    """A heat map as a table; what is kept is said in a word above its column as well as drawn as an outline."""
    heads = [
        tag("th", str(expert), tag("small", mark) if mark else "", scope="col", class_=mark)
        for expert, mark in enumerate(map(heat_map.mark, range(heat_map.experts)))
    ]
    rows = [
        tag("tr", tag("th", name, scope="row"), *map(_cell, shades, words, map(heat_map.mark, range(len(shades)))))
        for name, shades, words in zip(heat_map.names, heat_map.shades, heat_map.words, strict=True)
    ]
    return _wide(
        heat_map.title,
        tag("caption", heat_map.title),
        tag("thead", tag("tr", tag("th", "sensor", scope="col"), *heads)),
        tag("tbody", *rows),
        class_="heat",
    )


def heat_tables(maps: Sequence[HeatMap]) -> Html:
    """Heat maps side by side as far as the page is wide."""
    return tag("div", *map(heat_table, maps), class_="maps")


def _wide(label: str, *inside: str, class_: str = "") -> Html:
    """A table that scrolls by itself where the screen is narrow; it can be reached from the keyboard."""
    return tag(
        "div", tag("table", *inside, class_=class_), class_="wide", tabindex="0", role="region", aria_label=label
    )


def _cell(shade: float, word: str, mark: str) -> Html:
    depth = "deep" if shade > DEEP else "" if shade else "none"
    return tag("td", word, class_=f"{mark} {depth}".strip(), style=f"--share: {shade:.4f}")
