"""Text for a terminal: aligned tables, wrapped paragraphs, bars, and numbers in words."""

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
        # rich would end the program with status 1, which has another meaning here.
        raise BrokenPipeError


def console() -> Console:
    """Standard output as it is now; colours on a terminal alone."""
    return _Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def width_of(out: Console) -> int:
    """Columns to write in: the terminal's, or 80 elsewhere, within reason."""
    return max(_NARROWEST, min(_WIDEST, out.width))


def clean(text: object) -> str:
    """Text from data as a terminal may show it: control characters made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def write(out: Console, line: Cell = "") -> None:
    """Prints a line as it is: a terminal wraps what is too long, so that paths stay whole when copied."""
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
    """Prints rows under each other.

    Args:
      out: Where.
      rows: Cells; a Text may carry a style.
      align: A letter a column: `<` left, `>` right.
      header: Names of the columns.
      indent: Before each line.
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
    """A bar to the right in eighths of a character; the share of the width, 0 to 1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + _RIGHT_PARTS[eighths % 8]


def bar_to_the_left(share: float, width: int) -> str:
    """The same to the left, where characters are filled by halves."""
    halves = round(max(0.0, min(1.0, share)) * width * 2)
    return (("▐" if halves % 2 else "") + "█" * (halves // 2)).rjust(width)


def span(start: float, end: float, width: int, sign: str | None = None) -> str:
    """A bar from one share of the width to another, 0 to 1, in halves of a character and one half at least.

    Args:
      start: Where it begins.
      end: Where it ends, not before.
      width: Of the whole in characters.
      sign: Whole characters of it instead, for who has no blocks.
    """
    halves = 2 * width
    first = min(halves - 1, max(0, round(start * halves)))
    last = min(halves, max(first + 1, round(end * halves)))
    if sign is not None:
        return " " * (first // 2) + sign * ((last + 1) // 2 - first // 2)
    cells = [(first <= 2 * index < last, first <= 2 * index + 1 < last) for index in range((last + 1) // 2)]
    return "".join(_HALVES[cell] for cell in cells)
