"""Columns whose rows hold one of two types: each type is read by itself, and the results put in row order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.rows.problems import Problems

Read = TypeVar("Read", np.ndarray, pa.Array)


def by_type(column: pa.Array, problems: Problems, read: Callable[[pa.Array, Problems], Read]) -> Read:
    """Applies `read` to a column; a dense union is read type by type.

    Each type is converted by itself: a common type would round 2⁵³ + 1 and format ids differently.

    Args:
      column: `[B]`, a dense union or any other array.
      problems: Receives the rows that `read` rejects.
      read: Converts an array `[n]` of one type to values `[n, …]`.
    Returns:
      The values of all rows, `[B, …]`.
    """
    if not pt.is_union(column.type):
        return read(column, problems)
    codes, offsets = column.type_codes.to_numpy(), column.offsets.to_numpy()
    places: list[np.ndarray] = []
    parts: list[Read] = []
    for code in column.type.type_codes:
        rows = np.flatnonzero(codes == code)
        own = Problems()
        parts.append(read(column.field(code).take(pa.array(offsets[rows])), own))
        places.append(rows)
        for row, reason in own.reasons.items():
            problems.reasons.setdefault(int(rows[row]), reason)
    order = np.argsort(np.concatenate(places))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)[order]
    return pa.concat_arrays(parts).take(pa.array(order))
