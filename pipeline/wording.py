"""Numbers and names as a reader sees them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.cells import cell_len, set_cell_size

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: Characters of a name in a chart.
_LONGEST = 48
#: A blank, and what Persian, the scripts of India and emoji join and part letters by.
_KEPT = " \u200c\u200d"
_ISOLATE, _END = "\u2068", "\u2069"


def number(value: float | None, digits: int = 4) -> str:
    """A number in few digits: 1,234 · 0.0123 · 1.2×10⁻⁷; none, or none that exists, is a dash."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if -4 <= exponent < 7:
        shown = f"{rounded:,.{max(0, digits - 1 - exponent)}f}"
        shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
        return shown.replace("-", "−")
    mantissa = f"{rounded / 10.0**exponent:.{digits - 1}f}".rstrip("0").rstrip(".")
    return f"{mantissa}×10{str(exponent).translate(_SUPERSCRIPT)}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, + included."""
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def shape_in_words(shape: Iterable[int]) -> str:
    """A tensor in words: `28×28 values`."""
    return f"{'×'.join(map(str, shape))} values"


def scalar_or_shape(value: Any, scalar_in_words: Callable[[Any], str]) -> str:
    """A value of a feature in words: a single one by the caller's rule, a tensor by its shape.

    Args:
      value: A number, a string or nothing, as Python or numpy has them, or an array.
      scalar_in_words: Writes a single value, which it is given as Python has it.
    """
    if shape := getattr(value, "shape", ()):
        return shape_in_words(shape)
    return scalar_in_words(value.item() if hasattr(value, "item") else value)


def percent(share: float) -> str:
    """A share in per cent, finer where it is small."""
    if math.isnan(share):
        return "–"
    value = 100 * share
    if 0 < abs(value) < 0.1:
        return "< 0.1 %" if value > 0 else "> −0.1 %"
    return f"{value:.1f} %" if abs(value) < 9.95 else f"{value:.0f} %"


def plain(text: str) -> str:
    """Text from data in one line: what has no picture of its own is written out, but joiners of letters."""
    return "".join(c if _is_plain(c) else repr(c)[1:-1] for c in text.replace("\u00a0", " "))


def _is_plain(sign: str) -> bool:
    return sign in _KEPT or unicodedata.category(sign)[0] not in "CZ"


def shorten(text: str, width: int = _LONGEST) -> str:
    """The text in at most so many characters, its end cut off for an ellipsis."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def isolated(text: str) -> str:
    """The text so that its direction, and what it holds of such marks, changes nothing around it."""
    return f"{_ISOLATE}{text}{_END}"


def chart_names(names: Iterable[str], label: Mapping[str, str] | None = None) -> dict[str, str]:
    """What each name is in a chart: its label, in one line, short, isolated, and like no other's.

    Args:
      names: From the data.
      label: Texts by name, where there are some.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        text = plain((label or {}).get(name, name)).strip() or "(blank)"
        short, again = shorten(text), 1
        while short in taken:
            again += 1
            short = f"{shorten(text, _LONGEST - 5)} ({again})"
        taken.add(short)
        found[name] = isolated(short)
    return found


def two_lines(first: str, second: str) -> str:
    """What an axis shows as two lines, where its labels are `TWO_LINES`; of names that are one line each."""
    return f"{first}\n{second}"


#: The axis of names in two lines.
TWO_LINES = {"labelExpr": r"split(datum.value, '\n')", "labelOffset": -6}


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = list(items)
    return f"{', '.join(first)} and {last}" if first else last


def count(number: int, what: str) -> str:
    """`1 row`, `1,234 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 99.5 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 119.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def fitted(text: str, width: int) -> str:
    """The text in at most so many columns, its end cut off for an ellipsis."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
