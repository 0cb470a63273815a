"""Names that were meant: the nearest ones to a name that nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def close(name: str, known: Sequence[str]) -> list[str]:
    """The names that are spelt most like it, two at most; one in the wrong case is nearer than any other."""
    alike = [other for other in known if other.lower() == name.lower()]
    return alike or get_close_matches(name, list(known), n=2, cutoff=0.6)


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean a or b?`, or nothing."""
    found = close(name, known)
    return f"did you mean {' or '.join(found)}?" if found else ""
