"""Numbers and names as a reader sees them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.cells import cell_len, set_cell_size

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: Largest number of characters of a name in a chart.
_LONGEST = 48
#: Characters that stay as they are: the space, and the joiners of Persian, Indic scripts and emoji.
_KEPT = " \u200c\u200d"
_ISOLATE, _END = "\u2068", "\u2069"


def number(value: float | None, digits: int = 4) -> str:
    """Formats a number in few digits: 1,234 · 0.0123 · 1.2×10⁻⁷; None and NaN become a dash."""
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
    """Formats a number with its sign, also a plus sign."""
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def shape_in_words(shape: Iterable[int]) -> str:
    """Describes a tensor by its shape: `28×28 values`."""
    return f"{'×'.join(map(str, shape))} values"


def scalar_or_shape(value: Any, scalar_in_words: Callable[[Any], str]) -> str:
    """Describes a value of a feature: a scalar by the caller's function, a tensor by its shape.

    Args:
      value: A number, a string or None, of Python or numpy, or an array.
      scalar_in_words: Formats a scalar, which is converted to Python's type first.
    """
    if shape := getattr(value, "shape", ()):
        return shape_in_words(shape)
    return scalar_in_words(value.item() if hasattr(value, "item") else value)


def percent(share: float) -> str:
    """Formats a share in per cent, with more digits if it is small."""
    if math.isnan(share):
        return "–"
    value = 100 * share
    if 0 < abs(value) < 0.1:
        return "< 0.1 %" if value > 0 else "> −0.1 %"
    return f"{value:.1f} %" if abs(value) < 9.95 else f"{value:.0f} %"


def plain(text: str) -> str:
    """Puts text from data in one line: control and similar characters are escaped, except joiners."""
    return "".join(c if _is_plain(c) else repr(c)[1:-1] for c in text.replace("\u00a0", " "))


def _is_plain(sign: str) -> bool:
    return sign in _KEPT or unicodedata.category(sign)[0] not in "CZ"


def shorten(text: str, width: int = _LONGEST) -> str:
    """Cuts a text to `width` characters, with an ellipsis at its end."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def isolated(text: str) -> str:
    """Wraps a text in Unicode isolates, so that its writing direction does not affect the text around it."""
    return f"{_ISOLATE}{text}{_END}"


def chart_names(names: Iterable[str], label: Mapping[str, str] | None = None) -> dict[str, str]:
    """Makes distinct short labels, in one line and isolated, for the names in a chart.

    Args:
      names: Names from the data.
      label: Labels by name; names without one are shown as they are.
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
    """Joins two one-line names for an axis with `TWO_LINES`, which shows them in two lines."""
    return f"{first}\n{second}"


#: Options of an axis whose names have two lines; see `two_lines`.
TWO_LINES = {"labelExpr": r"split(datum.value, '\n')", "labelOffset": -6}


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = list(items)
    return f"{', '.join(first)} and {last}" if first else last


def count(number: int, what: str) -> str:
    """`1 row`, `1,234 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Formats a number of bytes."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 99.5 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def duration(seconds: float) -> str:
    """Formats seconds."""
    if seconds < 119.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def fitted(text: str, width: int) -> str:
    """Cuts a text to `width` terminal columns, with an ellipsis at its end."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
