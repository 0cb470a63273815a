"""Pictures of a report as SVG files, with the layout that CSS gives them in the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.report.blocks import Card, Pictures, Tile
from pipeline.report.page.markup import markup
from pipeline.report.page.theme import LIGHT, SANS
from pipeline.wording import fitted

# Lengths are in the units of the page.
#: The longer side of a picture by the cards' size.
_SIDES = {"small": 150, "large": 340, "single": 300}
#: Cards per line, by their size.
_ACROSS = {"small": 3, "large": 2, "single": 1}
#: The least width of a card.
_NARROWEST = 220
#: The margin around the whole.
_EDGE = 16
#: The gap between a card's parts.
_GAP = 6
#: The gap between cards.
_BETWEEN = 26
#: The height of a line of text.
_LINE = 17
#: The height of a scale of colours.
_SCALE = 50
#: The assumed width of a letter, larger than the average; wider lines are cut off.
_LETTER = 7.0
#: The width of a bold letter.
_BOLD = 7.8


def drawing(shown: Pictures, description: str) -> str:
    """Draws pictures as an SVG file that contains them.

    Args:
      shown: The pictures.
      description: A text for readers who cannot see the pictures.
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
        # Pictures in a line have the same height, so that the texts below them are aligned.
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
    """Width and height of a picture within a square; at least 1.5, so that thin pictures are visible."""
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
