"""Wording of messages: similar names, lists of names, and one-line summaries of a library's errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def close(name: str, known: Iterable[str], *, most: int = 2, cutoff: float = 0.6) -> list[str]:
    """Finds the known names with the most similar spelling; names that differ only in case come first.

    Args:
      name: The unknown name.
      known: The known names.
      most: The largest number of names.
      cutoff: The least similarity, 0 to 1.
    """
    names = list(known)
    alike = [other for other in names if other.lower() == name.lower()]
    return alike or get_close_matches(name, names, n=most, cutoff=cutoff)


def did_you_mean(
    name: str, known: Iterable[str], otherwise: str = "", *, most: int = 2, cutoff: float = 0.6
) -> str:
    """`did you mean a or b?`, or `otherwise` if no known name is close; see `close`."""
    return meant(close(name, known, most=most, cutoff=cutoff), otherwise)


def meant(names: Sequence[str], otherwise: str = "") -> str:
    """`did you mean a or b?`, or `otherwise` without names."""
    return f"did you mean {' or '.join(names)}?" if names else otherwise


def one_line(error: BaseException) -> str:
    """A library's message in one short line."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line[:200].rstrip(". ")


def names_in_words(names: Sequence[str], most: int = 8) -> str:
    """`a, b, c and 5 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
