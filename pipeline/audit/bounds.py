"""Bounds of rules, such as `< 0.1`, and the status that a value has by them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

from pipeline.audit.findings import Status

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
_BOUND = re.compile(r"\s*(<=|>=|<|>|==|!=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)\s*")


def meets(value: float, bound: str | None) -> bool:
    """Whether a value meets a bound; False without one.

    Args:
      value: The value; NaN meets no bound.
      bound: A comparison and a number, such as `< 0.1` or `> 5 %`, which `check_bound` has accepted.
    """
    if bound is None:
        return False
    match = _BOUND.fullmatch(bound)
    if match is None:
        raise ValueError(f"{bound!r} is not a bound")
    limit = float(match[2]) / (100.0 if match[3] else 1.0)
    return _COMPARISONS[match[1]](value, limit)


def check_bound(bound: str) -> str:
    """Returns a bound as it is.

    Raises:
      ValueError: The text is not a bound.
    """
    if not _BOUND.fullmatch(bound):
        raise ValueError(f"{bound!r} is not a bound; write a comparison and a number, such as '< 0.1'")
    return bound


def status_of(value: float, warn_if: str | None, error_if: str | None) -> tuple[Status, str | None]:
    """The status of a value under two bounds, and the bound that it meets."""
    if meets(value, error_if):
        return "fail", error_if
    if meets(value, warn_if):
        return "warn", warn_if
    return "pass", None
