"""Columns in which rows hold either of two types: each type is read by itself, and the rows put in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.rows.problems import Problems

Read = TypeVar("Read", np.ndarray, pa.Array)


def by_type(column: pa.Array, problems: Problems, read: Callable[[pa.Array, Problems], Read]) -> Read:
    """What `read` makes of a column, type by type where it is a dense union, and at once where it is not.

    So a number is what it would be in a column of its own type: a common type would round 2⁵³ + 1 beside a
    half, and write ids in another way.

    Args:
      column: `[B]`.
      problems: Takes the rows that `read` finds fault with.
      read: Gives values of one type, `[n, …]`, for values of any.
    Returns:
      `[B, …]`.
    """
    if not pt.is_union(column.type):
        return read(column, problems)
    codes, offsets = column.type_codes.to_numpy(), column.offsets.to_numpy()
    places: list[np.ndarray] = []
    parts: list[Read] = []
    for code in column.type.type_codes:
        at = np.flatnonzero(codes == code)
        own = Problems()
        parts.append(read(column.field(code).take(pa.array(offsets[at])), own))
        places.append(at)
        for row, reason in own.reasons.items():
            problems.reasons.setdefault(int(at[row]), reason)
    order = np.argsort(np.concatenate(places))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)[order]
    return pa.concat_arrays(parts).take(pa.array(order))
