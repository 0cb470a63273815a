"""Warns of baselines that make attributions meaningless: one randomly drawn row, or the explained rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from transforms.methods.base import AttributionMethod

#: Kinds whose rows come from data: a baseline of one such row is arbitrary.
_DRAWN = ("sample", "file", "run")


def degenerate_baseline(
    kind: str,
    method: AttributionMethod,
    background: Mapping[str, np.ndarray],
    first: Mapping[str, np.ndarray] | None,
) -> tuple[str, ...]:
    """Warns if a baseline makes φ meaningless: all 0, or relative to one randomly drawn row.

    Args:
      kind: The kind of the baseline.
      method: The method that uses it.
      background: The rows of the baseline, `[R, *shape]` by feature.
      first: The first rows of the input, in the same form; None if there are none.
    """
    if method.needs.gradients and not method.additive:
        return ()  # plain gradients do not depend on the baseline
    rows = len(next(iter(background.values())))
    alike = all(_same(values, values[:1]) for values in background.values())
    if not alike:
        return ()
    if first is not None and all(_same(first[name], values[:1]) for name, values in background.items()):
        one = len(next(iter(first.values()))) == 1
        looked_at = "the input's one row is" if one else "all inspected rows are"
        return (
            f"baseline: {looked_at} the baseline itself, so every φ is 0; compare with other rows: "
            "baseline: {kind: file, path: …}, or with kind: zeros or constant",
        )
    if kind in _DRAWN and method.needs.background:
        problem = "is one row" if rows == 1 else f"is {rows} identical rows"
        return (
            f"baseline: the background of {method.name} {problem}: φ are relative to that row alone; draw "
            "from more rows, or choose what one row stands for, kind: mean or zeros",
        )
    return ()


def _same(values: np.ndarray, row: np.ndarray) -> bool:
    """Whether all rows equal one row; NaN equals NaN."""
    if values.shape[1:] != row.shape[1:]:
        return False
    same = values == row
    if values.dtype.kind == "f":
        same |= np.isnan(values) & np.isnan(row)
    return bool(np.all(same))
