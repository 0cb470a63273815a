"""The parts of a report before they are HTML: sections of paragraphs, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: A cell of a table: text is shown as it is, a number is formatted, None leaves the cell empty.
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Numbers under a header.

    Args:
      header: Names of the columns.
      rows: The rows, with one cell for each column.
      caption: A one-line title.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """A picture.

    Args:
      src: A data: URL, which contains the picture.
      alt: A description for readers who cannot see the picture.
      shape: Rows and columns in pixels.
      small: Whether each pixel is drawn sharply.
    """

    src: str
    alt: str
    shape: tuple[int, int]
    small: bool

    @property
    def wide(self) -> bool:
        """True if the picture is wider than high."""
        return self.shape[1] > self.shape[0]


@dataclass(frozen=True)
class Scale:
    """A key to colours: the palette from left to right, with texts at its ends and in its middle."""

    src: str
    low: str
    middle: str
    high: str
    title: str


@dataclass(frozen=True)
class Card:
    """Pictures that belong together, with the lines of text below them."""

    tiles: Sequence[Tile]
    title: str = ""
    lines: Sequence[str] = ()
    scale: Scale | None = None


@dataclass(frozen=True)
class Pictures:
    """Cards beside each other.

    Args:
      cards: From left to right.
      size: small, large (of one picture each), or single.
      scale: A scale that all cards share.
    """

    cards: Sequence[Card]
    size: str
    scale: Scale | None = None


@dataclass(frozen=True)
class Figure:
    """A plot with the numbers behind it.

    Args:
      name: Stem of its file with `--figures`: letters, digits and hyphens, unique in the report.
      title: The content of the figure in one line.
      description: A text for readers who cannot see the figure, with its most important numbers.
      spec: Vega-Lite without `$schema` and config, which the page adds: colours are the theme's. A width of
        "container" fills the column. Names from the data are values in it and never fields. `usermeta:
        {"renderer": "canvas"}` or "svg" overrides the choice by the number of marks; `"column": 20`
        leaves out data from the number `n` on that does not fit beside the rest. None: what
        follows is shown instead.
      pictures: Pictures to show as they are, in the page and with `--figures`.
      html: Trusted markup, made by a template with escaping; only in the page.
      table: The numbers behind the plot.
      note: How to read the figure, in a sentence or two.
    """

    name: str
    title: str
    description: str
    spec: Mapping[str, Any] | None = None
    pictures: Pictures | None = None
    html: str = ""
    table: Table | None = None
    note: str = ""


@dataclass(frozen=True)
class Terms:
    """A list of terms, each with a text."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """Small figures beside each other, as many in a line as fit; their charts fill a cell."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Choice:
    """A choice of options, such as targets, features or examples, of which one is shown at a time.

    Choices with the same label move together, wherever they are in the page, if their options' names match.

    Args:
      label: The kind of option, such as "Target".
      options: Blocks by the name that the reader chooses; the first is shown initially.
    """

    label: str
    options: Mapping[str, Sequence[Block]]


@dataclass(frozen=True)
class Prose:
    """A paragraph of plain text; `kind` is plain, or good, caution or bad for a judgement."""

    text: str
    kind: str = "plain"


Block = Prose | Figure | Table | Terms | Grid | Choice


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Args:
      id: The section's anchor.
      title: The heading.
      lead: The question that the section answers, in a sentence for readers who are not engineers.
      blocks: The content.
    """

    id: str
    title: str
    lead: str
    blocks: Sequence[Block] = field(default_factory=tuple)
