"""What a report is made of: sections of paragraphs, figures and tables, before they are HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: What a cell shows: text as it is, a number in a number's form, None as nothing.
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Numbers under a header.

    Args:
      header: Names of the columns.
      rows: A cell a column each.
      caption: What it is, in a line.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """A picture.

    Args:
      src: Its address, which holds it.
      alt: What it shows.
      shape: Rows and columns of what it shows.
      small: Whether its pixels are to be seen one by one.
    """

    src: str
    alt: str
    shape: tuple[int, int]
    small: bool

    @property
    def wide(self) -> bool:
        """Whether it is wider than high."""
        return self.shape[1] > self.shape[0]


@dataclass(frozen=True)
class Scale:
    """What colours mean: the palette from left to right, and what stands at its ends and in its middle."""

    src: str
    low: str
    middle: str
    high: str
    title: str


@dataclass(frozen=True)
class Card:
    """Pictures that belong together, and what is said below them."""

    tiles: Sequence[Tile]
    title: str = ""
    lines: Sequence[str] = ()
    scale: Scale | None = None


@dataclass(frozen=True)
class Pictures:
    """Cards beside each other.

    Args:
      cards: In order.
      size: small, large (of one picture each), or single.
      scale: Of all of them.
    """

    cards: Sequence[Card]
    size: str
    scale: Scale | None = None


@dataclass(frozen=True)
class Figure:
    """A plot with the numbers behind it.

    Args:
      name: Stem of its file with `--figures`; letters, digits and hyphens, of its own in the report.
      title: What it shows, in a line.
      description: The same for who does not see it, with the numbers that matter most.
      spec: Vega-Lite without `$schema` and config, which the page adds: colours are the theme's. A width of
        "container" fills the column. Names from the data are values in it and never fields. `usermeta:
        {"renderer": "canvas"}` or "svg" overrides the choice by the number of marks; `"column": 20`
        leaves out data from the number `n` on that does not fit beside the rest. None: what
        follows is shown instead.
      pictures: Shown as they are, in the page and with `--figures`.
      html: Trusted markup, made by a template with escaping; only in the page.
      table: The numbers.
      note: How to read it, in a sentence or two.
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
    """Names and what there is to say of each, under each other."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """Small figures beside each other, as many in a line as there is room for; their specs fill a cell."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Choice:
    """Blocks of which one is shown at a time, chosen by a name: targets, features, examples.

    Choices of one label move together, wherever they stand, as far as they have options of the same name.

    Args:
      label: What is chosen, such as "Target".
      options: Blocks by what the reader chooses from; the first is shown at first.
    """

    label: str
    options: Mapping[str, Sequence[Block]]


@dataclass(frozen=True)
class Prose:
    """A paragraph of plain text; `kind` is plain, or good, caution or bad for what is a judgement."""

    text: str
    kind: str = "plain"


Block = Prose | Figure | Table | Terms | Grid | Choice


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Args:
      id: Its anchor.
      title: The heading.
      lead: What it answers, in a sentence, for who is no engineer.
      blocks: What it shows.
    """

    id: str
    title: str
    lead: str
    blocks: Sequence[Block] = field(default_factory=tuple)
