"""Wording of messages: similar names, lists of names, and one-line summaries of a library's errors."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def close(name: str, known: Sequence[str]) -> list[str]:
    """The known names spelt most like `name`, at most two; a mere difference of case comes first."""
    alike = [other for other in known if other.lower() == name.lower()]
    return alike or get_close_matches(name, list(known), n=2, cutoff=0.6)


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean a or b?`, or an empty string."""
    similar = close(name, known)
    return f"did you mean {' or '.join(similar)}?" if similar else ""


def one_line(error: BaseException) -> str:
    """A library's error message as one short line."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line[:200].rstrip(". ")


def names_in_words(names: Sequence[str], most: int = 8) -> str:
    """`a, b, c and 5 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
