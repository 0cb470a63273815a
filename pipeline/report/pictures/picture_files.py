"""Pictures of a report as files of their own: what CSS lays out in the page is laid out here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.report.blocks import Card, Pictures, Tile
from pipeline.report.page.markup import markup
from pipeline.report.page.theme import LIGHT, SANS
from pipeline.wording import fitted

#: In the units of the page, by the cards' size: the longer side of a picture. Cards in a line.
_SIDES = {"small": 150, "large": 340, "single": 300}
_ACROSS = {"small": 3, "large": 2, "single": 1}
#: The width of a card at least; margins and gaps; the heights of a line and of a scale.
_NARROWEST = 220
_EDGE, _GAP, _BETWEEN, _LINE, _SCALE = 16, 6, 26, 17, 50
#: Units that a column of text takes, rather more than the usual ones; what takes more still is cut off.
_LETTER, _BOLD = 7.0, 7.8


def drawing(shown: Pictures, description: str) -> str:
    """Pictures as an SVG file that holds them.

    Args:
      shown: The pictures.
      description: What they show, for who does not see it.
    """
    across, side = _ACROSS[shown.size], _SIDES[shown.size]
    beside = max(len(card.tiles) for card in shown.cards)
    width = max(beside * side + (beside - 1) * _GAP, _NARROWEST)
    top: float = _EDGE
    scale = None
    if shown.scale is not None:
        scale = (_EDGE, top, width, shown.scale)
        top += _SCALE + _GAP
    cards: list[dict[str, Any]] = []
    for first in range(0, len(shown.cards), across):
        line = shown.cards[first : first + across]
        # The pictures of a line take the same height, so that what is said stands below all of them.
        tall = max(_extent(tile, side)[1] for card in line for tile in card.tiles)
        said = max(len(card.lines) + bool(card.title) for card in line)
        scales = any(card.scale is not None for card in line)
        for place, card in enumerate(line):
            left = _EDGE + place * (width + _BETWEEN)
            below = top + tall + _GAP + _LINE * said + _GAP
            cards.append(
                {
                    "tiles": list(_tiles(card, left, top, side)),
                    "lines": list(_lines(card, left, top + tall, width)),
                    "scale": None if card.scale is None else (left, below, width, card.scale),
                }
            )
        top += tall + _GAP + _LINE * said + (_GAP + _SCALE) * scales + _BETWEEN
    columns = min(across, len(shown.cards))
    return markup(
        "pictures.svg.j2",
        cards=cards,
        scale=scale,
        width=2 * _EDGE + columns * width + (columns - 1) * _BETWEEN,
        height=top - _BETWEEN + _EDGE,
        description=description,
        colours=LIGHT,
        font=SANS.replace('"', "'"),
    )


def _extent(tile: Tile, side: int) -> tuple[float, float]:
    """Width and height of a picture that fits a square; the thinnest is seen with its frame."""
    rows, columns = tile.shape
    longest = max(rows, columns)
    return max(1.5, round(side * columns / longest, 1)), max(1.5, round(side * rows / longest, 1))


def _tiles(card: Card, left: float, top: float, side: int) -> Iterator[dict[str, Any]]:
    for place, tile in enumerate(card.tiles):
        width, height = _extent(tile, side)
        at = left + place * (side + _GAP)
        yield {
            "x": at, "y": top, "width": width, "height": height,
            "src": tile.src, "alt": tile.alt, "small": tile.small,
        }  # fmt: skip


def _lines(card: Card, left: float, top: float, width: float) -> Iterator[dict[str, Any]]:
    titles: Sequence[tuple[str, str, float]] = [("id", card.title, _BOLD)] if card.title else []
    lines = [*titles, *(("muted", line, _LETTER) for line in card.lines)]
    for place, (kind, text, letter) in enumerate(lines):
        said = fitted(text, int(width / letter))
        y = top + _GAP + _LINE * place
        yield {"x": left, "y": y, "width": width, "height": _LINE, "kind": kind, "text": said}
