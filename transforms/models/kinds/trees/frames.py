"""Data frames such as users pass to a tree model's library, to get the library's own prediction for rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.arrow.values import plain
from transforms.models.categories import Categories


def frame_of(
    rows: pa.RecordBatch,
    taken: np.ndarray,
    names: Sequence[str],
    categories: Mapping[int, Categories],
    types: Mapping[int, Any],
) -> Any:
    """Builds a pandas data frame of rows; None if the rows do not have one plain column for each feature.

    Args:
      rows: The columns of the features as the input file holds them, in the model's order.
      taken: The features as the model takes them, `[B, n]`; nulls are replaced by the config's `fill`.
      names: Names of the model's features; if empty, the columns keep their names.
      categories: The model's categories, by the position of the feature.
      types: The numpy type that categories had in the training frame, by the position of the feature; pandas
        chooses the type of categories at other positions.
    """
    import pandas as pd

    held = [rows.column(place) for place in range(rows.num_columns)]
    if len(held) != taken.shape[1] or any(pt.is_union(c.type) or pt.is_nested(plain(c).type) for c in held):
        return None
    columns = []
    for place, array in enumerate(map(plain, held)):
        known = categories.get(place)
        if known is None:
            columns.append(pd.Series(_numbers(array, taken[:, place])))
            continue
        kept = list(known.values)
        index = pd.Index(kept if known.strings else np.array(kept, types.get(place)))
        values = _values(array, known, taken[:, place])
        columns.append(pd.Series(pd.Categorical(values, dtype=pd.CategoricalDtype(index))))
    frame = pd.concat(columns, axis=1)
    frame.columns = pd.Index(list(names) or rows.schema.names)
    return frame


def _numbers(array: pa.Array, taken: np.ndarray) -> np.ndarray:
    """A column of numbers: integers without nulls are unchanged; other columns become floats with NaN."""
    dtype = array.type
    if pt.is_integer(dtype) and not array.null_count:
        integers: np.ndarray = array.to_numpy(zero_copy_only=False)
        return integers
    if pt.is_decimal(dtype) or pt.is_float16(dtype):
        array = array.cast(pa.float64())
    elif pt.is_boolean(dtype):
        array = array.cast(pa.uint8())
    elif pt.is_null(dtype):
        array = pa.nulls(len(array), pa.float64())
    values = array.to_numpy(zero_copy_only=False).astype(
        np.float32 if pt.is_float32(array.type) else np.float64
    )
    return np.where(~np.isfinite(values) & np.isfinite(taken), taken, values)


def _values(array: pa.Array, known: Categories, taken: np.ndarray) -> Any:
    """A column of categories with the values that pandas would hold, and nulls replaced by `fill`."""
    import pandas as pd

    if known.strings:
        values = np.array(
            [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in array.to_pylist()], object
        )
    else:
        values = _numbers(array, np.full(len(array), np.nan))
        if isinstance(known.values[0], bool):  # pandas does not match 1 with the category True
            values = np.array([bool(v) if v in (0, 1) else None for v in values.tolist()], object)
    filled = pd.isna(values) & ~np.isnan(taken)
    if filled.any():
        values = values.astype(object)
        values[filled] = [known.values[int(code)] for code in taken[filled]]
    return values
