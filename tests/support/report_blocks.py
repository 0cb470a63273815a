"""What is in the sections of a report, its markup and its pictures; helpers, not tests."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html.parser import HTMLParser

import matplotlib.image
import numpy as np

from pipeline.report.blocks import Block, Choice, Figure, Prose, Section
from pipeline.report.page import render as page


def prose(blocks: Iterable[Block]) -> list[Prose]:
    """All paragraphs, those within choices included."""
    found: list[Prose] = []
    for block in blocks:
        if isinstance(block, Prose):
            found.append(block)
        elif isinstance(block, Choice):
            found += [inner for option in block.options.values() for inner in prose(option)]
    return found


def figures(sections: Iterable[Section]) -> dict[str, Figure]:
    """All figures by name, those within choices included."""
    return {figure.name: figure for figure in page.figures(list(sections))}


def decoded(uri: str) -> np.ndarray:
    """The pixels of a data address, by a decoder that is not ours, 0 to 255."""
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    found: np.ndarray = matplotlib.image.imread(io.BytesIO(base64.b64decode(body)), format="png")
    return np.rint(found * 255).astype(int)


class Elements(HTMLParser):
    """The elements of some markup with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and data.strip():
            self.texts.append((self.found[-1][0], data))
