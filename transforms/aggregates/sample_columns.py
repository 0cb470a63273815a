"""Feature values and attributions of a sample of rows as columns of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.arrow.nested import unnested

#: A tensor of so many numbers is its numbers; a longer one is its mean.
_SHORT = 8
#: A number of so many values or fewer is a category.
_FEW = 8


@dataclass(frozen=True)
class Column:
    """Numbers of rows, `[n]` float64 without NaN.

    Args:
      values: Numbers, or codes of categories.
      categories: They are codes: larger and smaller mean nothing.
    """

    values: np.ndarray
    categories: bool


def phi_of(array: pa.Array) -> np.ndarray:
    """Attributions of a feature, `[n, numbers]`."""
    numbers, shape = unnested(array)
    found: np.ndarray = numbers.to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(array), -1)
    return found if math.prod(shape) else np.zeros((len(array), 1))


def is_held(array: pa.Array) -> bool:
    """Whether rows of about the same value of this feature can be told from its columns."""
    return not _is_list(array.type) or 0 < _extent(array.type) <= _SHORT


def columns_of(array: pa.Array) -> list[Column]:
    """A feature's values as columns; none of a tensor of strings."""
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


def _scalar(array: pa.Array) -> list[Column]:
    if pa.types.is_null(array.type):
        return []
    if not _is_number(array.type):
        codes = array.dictionary_encode() if not pa.types.is_dictionary(array.type) else array
        found = pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False).astype(np.float64)
        return [Column(found, True)]
    values = _numbers(array)
    missing = np.isnan(values)
    distinct = np.unique(values[~missing])
    if len(distinct) <= _FEW:
        return [Column(np.where(missing, -1, np.searchsorted(distinct, values)).astype(np.float64), True)]
    if not missing.any():
        return [Column(values, False)]
    filled = np.where(missing, np.median(values[~missing]), values)
    return [Column(missing.astype(np.float64), True), Column(filled, False)]


def _numbers(array: pa.Array) -> np.ndarray:
    """Numbers as float64; null is NaN."""
    found: np.ndarray = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def _extent(kind: pa.DataType) -> int:
    """Numbers of a tensor of fixed shape; 0 where rows may differ."""
    extent = 1
    while _is_list(kind):
        extent *= kind.list_size if pa.types.is_fixed_size_list(kind) else 0
        kind = kind.value_type
    return extent


def _mean_of_lists(array: pa.Array) -> pa.Array:
    """The mean of each row's numbers, whatever the nesting; null where there are none, or strings."""
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
