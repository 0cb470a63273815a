"""Feature values and attributions of a sample of rows as columns of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.arrow.nested import unnested

#: A tensor of at most this many numbers becomes one column each; a longer one becomes its mean.
_SHORT = 8
#: Numbers with at most this many distinct values are categories.
_FEW = 8


@dataclass(frozen=True)
class SampleColumn:
    """One number per row, `[n]` float64 without NaN.

    Args:
      values: Numbers, or codes of categories.
      categories: True for codes, whose order means nothing.
    """

    values: np.ndarray
    categories: bool


def phi_of(array: pa.Array) -> np.ndarray:
    """Attributions of a feature, `[n, numbers]`."""
    numbers, shape = unnested(array)
    phi: np.ndarray = numbers.to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(array), -1)
    return phi if math.prod(shape) else np.zeros((len(array), 1))


def is_held(array: pa.Array) -> bool:
    """True if the feature's columns represent all of its value, so that similar rows can be found."""
    return not _is_list(array.type) or 0 < _extent(array.type) <= _SHORT


def columns_of(array: pa.Array) -> list[SampleColumn]:
    """A feature's values as columns; empty for a tensor of strings."""
    if not _is_list(array.type):
        return _scalar(array)
    extent = _extent(array.type)
    if not extent:
        return _scalar(_mean_of_lists(array))
    numbers, _ = unnested(array)
    if not _is_number(numbers.type):
        return []
    table = _numbers(numbers).reshape(len(array), -1)
    if extent > _SHORT:
        return _scalar(pa.array(table.mean(axis=1)))
    return [column for at in range(extent) for column in _scalar(pa.array(table[:, at]))]


def _scalar(array: pa.Array) -> list[SampleColumn]:
    if pa.types.is_null(array.type):
        return []
    if not _is_number(array.type):
        codes = array.dictionary_encode() if not pa.types.is_dictionary(array.type) else array
        indices = pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False).astype(np.float64)
        return [SampleColumn(indices, True)]
    values = _numbers(array)
    missing = np.isnan(values)
    distinct = np.unique(values[~missing])
    if len(distinct) <= _FEW:
        return [
            SampleColumn(np.where(missing, -1, np.searchsorted(distinct, values)).astype(np.float64), True)
        ]
    if not missing.any():
        return [SampleColumn(values, False)]
    filled = np.where(missing, np.median(values[~missing]), values)
    return [SampleColumn(missing.astype(np.float64), True), SampleColumn(filled, False)]


def _numbers(array: pa.Array) -> np.ndarray:
    """Numbers as float64; null is NaN."""
    numbers: np.ndarray = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def _is_number(dtype: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(dtype) or types.is_floating(dtype) or types.is_boolean(dtype))


def _is_list(dtype: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_fixed_size_list(dtype) or types.is_list(dtype) or types.is_large_list(dtype))


def _extent(dtype: pa.DataType) -> int:
    """The number of values in a tensor of fixed shape; 0 if rows may differ."""
    extent = 1
    while _is_list(dtype):
        extent *= dtype.list_size if pa.types.is_fixed_size_list(dtype) else 0
        dtype = dtype.value_type
    return extent


def _mean_of_lists(array: pa.Array) -> pa.Array:
    """The mean of each row's numbers, at any nesting; null without numbers, and for strings."""
    rows = np.arange(len(array))
    count = len(array)
    while _is_list(array.type):
        rows = rows[pc.list_parent_indices(array).to_numpy()]
        array = pc.list_flatten(array)
    if not _is_number(array.type):
        return pa.nulls(count)
    numbers = _numbers(array)
    there = ~np.isnan(numbers)
    number = np.bincount(rows[there], minlength=count)
    total = np.bincount(rows[there], weights=numbers[there], minlength=count)
    return pa.array(np.where(number > 0, total / np.maximum(number, 1), np.nan))
