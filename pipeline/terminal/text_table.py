"""Formats text for a terminal: aligned tables, wrapped paragraphs and bars."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

_NARROWEST = 40
_WIDEST = 120
_RIGHT_PARTS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")

_HALVES = {(False, False): " ", (True, False): "▌", (False, True): "▐", (True, True): "█"}

Cell = str | Text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would exit with status 1, which here means that a limit was exceeded.
        raise BrokenPipeError


def console() -> Console:
    """A console on the current standard output, with colours only on a terminal."""
    return _Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def width_of(out: Console) -> int:
    """The width in columns: the terminal's, or 80 elsewhere, within limits."""
    return max(_NARROWEST, min(_WIDEST, out.width))


def clean(text: object) -> str:
    """Text from data with control characters made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def write(out: Console, line: Cell = "") -> None:
    """Prints a line without wrapping it, so that a copied path stays in one piece."""
    text = line if isinstance(line, Text) else Text(line)
    text.rstrip()
    out.print(text, soft_wrap=True)


def wrapped(out: Console, text: str, indent: str = "", first: str | None = None) -> None:
    """Prints a paragraph broken at the width; words such as paths are never broken."""
    lines = textwrap.wrap(
        text,
        width_of(out),
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines or [(first or "").rstrip()]:
        write(out, line)


def print_table(
    out: Console, rows: Sequence[Sequence[Cell]], align: str, *, header: Sequence[str] = (), indent: str = ""
) -> None:
    """Prints rows as an aligned table.

    Args:
      out: The console.
      rows: Cells; a Text may carry a style.
      align: A sign per column: `<` left, `>` right.
      header: Names of the columns.
      indent: Text before each line.
    """
    cells = [[Text(name, style="bold") for name in header]] if header else []
    cells += [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    if not cells:
        return
    widths = [max(row[index].cell_len for row in cells) for index in range(len(align))]
    for row in cells:
        line = Text(indent)
        for index, (cell, width, side) in enumerate(zip(row, widths, align, strict=True)):
            space = " " * (width - cell.cell_len)
            line.append("  " if index else "")
            line.append(space if side == ">" else "")
            line.append_text(cell)
            line.append(space if side == "<" else "")
        write(out, line)


def bar(share: float, width: int) -> str:
    """A bar to the right, in eighths of a character, for a share of the width, 0 to 1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + _RIGHT_PARTS[eighths % 8]


def bar_to_the_left(share: float, width: int) -> str:
    """A bar to the left, in halves of a character, for a share of the width, 0 to 1."""
    halves = round(max(0.0, min(1.0, share)) * width * 2)
    return (("▐" if halves % 2 else "") + "█" * (halves // 2)).rjust(width)


def span(start: float, end: float, width: int, sign: str | None = None) -> str:
    """A bar between two shares of the width, 0 to 1, in halves of a character and at least one half wide.

    Args:
      start: The share at which it begins.
      end: The share at which it ends, not before the start.
      width: The whole width in characters.
      sign: A character to draw with instead of blocks.
    """
    halves = 2 * width
    first = min(halves - 1, max(0, round(start * halves)))
    last = min(halves, max(first + 1, round(end * halves)))
    if sign is not None:
        return " " * (first // 2) + sign * ((last + 1) // 2 - first // 2)
    cells = [(first <= 2 * index < last, first <= 2 * index + 1 < last) for index in range((last + 1) // 2)]
    return "".join(_HALVES[cell] for cell in cells)
