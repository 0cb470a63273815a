"""Summarises a baseline by feature: the values of one row, or means and most frequent values of many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.wording import count, shape_in_words
from transforms.models.categories import Categories

#: Most frequent values that are listed for a baseline of many rows.
_MOST_VALUES = 3
#: Most characters of a text.
_TEXT = 40


def described_values(
    features: Mapping[str, np.ndarray], categories: Mapping[str, Categories] | None = None
) -> list[dict[str, Any]]:
    """Describes each feature by `feature` and `text`; scalar numbers also by `mean`, `min` and `max`.

    Args:
      features: The rows of a baseline, `[R, *shape]` by feature; strings as bytes.
      categories: The categories of features that are held as codes.
    """
    known = categories or {}
    return [
        {"feature": name, **_described(values_of_codes(values, known[name]) if name in known else values)}
        for name, values in features.items()
    ]


def values_of_codes(codes: np.ndarray, categories: Categories) -> np.ndarray:
    """The categories that codes stand for, as objects; None where a value is missing."""
    words = np.empty(codes.size, object)
    words[:] = categories.of_codes(codes.reshape(-1).astype(np.float64)).to_pylist()
    return words.reshape(codes.shape)


def _described(values: np.ndarray) -> dict[str, Any]:
    if values.size == 0:
        return {"text": "no value"}
    if values.dtype == object:
        return {"text": _texts(values)}
    numbers = values.astype(np.float64)
    known = numbers[~np.isnan(numbers)]
    if not known.size:
        return {"text": "missing"}
    statistics = {"mean": float(known.mean()), "min": float(known.min()), "max": float(known.max())}
    shape = "" if values[0].size == 1 else f"{shape_in_words(values.shape[1:])}, "
    if statistics["min"] == statistics["max"]:
        text = _number(statistics["min"])
    else:
        mean, low, high = (_number(statistics[name]) for name in ("mean", "min", "max"))
        text = f"mean {mean}, from {low} to {high}"
    missing = int(np.isnan(numbers).sum())
    more = f", {missing:,} missing" if missing else ""
    return {"text": f"{shape}{text}{more}", **statistics}


def _texts(values: np.ndarray) -> str:
    """The most frequent values with their counts."""
    counts: dict[Any, int] = {}
    for item in values.reshape(-1).tolist():
        counts[item] = counts.get(item, 0) + 1
    first = sorted(counts, key=lambda item: (-counts[item], str(item)))
    if len(first) == 1:
        return _word(first[0])
    lines = [f"{_word(item)} {_times(counts[item])}" for item in first[:_MOST_VALUES]]
    rest = len(first) - len(lines)
    return ", ".join(lines) + (f", {count(rest, 'other value')}" if rest else "")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _word(item: Any) -> str:
    if item is None:
        return "missing"
    text = item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
    text = text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
    return repr(text) if not text or text != text.strip() else text


def _number(value: float) -> str:
    return f"{value:.5g}".replace("-", "−")
