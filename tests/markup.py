"""A reader of HTML, for what tests have to say about pages."""

from __future__ import annotations

import re
from collections import defaultdict
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input", "col"}
"""Elements that have no end."""

LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
"""Attributes whose value a browser may load."""


class Parsed(HTMLParser):
    """What a page holds: its tags, attributes and text, what it would load, and what is not closed as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = defaultdict(list)
        self.words: list[str] = []
        self.loads: list[str] = []
        self.left_open: list[str] = []

    @property
    def text(self) -> str:
        """All text, with a line break between elements."""
        return "\n".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes an element."""
        self.tags.append(tag)
        if tag not in VOID:
            self.left_open.append(tag)
        for name, value in attrs:
            self.attributes[name].append(value or "")
            if name in LOADING or name.startswith("on"):
                self.loads.append(f"{name}={value}")

    def handle_endtag(self, tag: str) -> None:
        """Closes the element that was opened last; another one stays in the list."""
        if self.left_open and self.left_open[-1] == tag:
            self.left_open.pop()

    def handle_data(self, data: str) -> None:
        """Notes text, and of style what it would load."""
        if self.left_open and self.left_open[-1] == "style":
            self.loads += re.findall(r"@import|url\(|https?:|src\s*:", data)
        elif data.strip():
            self.words.append(data.strip())


def parsed(markup: str) -> Parsed:
    """Reads a page or a part of one."""
    reader = Parsed()
    reader.feed(markup)
    reader.close()
    return reader
