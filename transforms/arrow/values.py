"""Conversions of Arrow arrays to plain Arrow types and to numpy arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.arrow.types import floats_of_decimals, without_views
from transforms.errors import UserError


def plain(array: pa.Array) -> pa.Array:
    """Normalises an array.

    Combines chunks, unwraps extension types, decodes run ends and dictionaries, and casts large types (64-bit
    offsets), views and fixed-size binary to the ordinary types.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pt.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    dtype = array.type
    if pt.is_large_string(dtype) or pt.is_string_view(dtype):
        return array.cast(pa.string())
    if pt.is_large_binary(dtype) or pt.is_binary_view(dtype) or pt.is_fixed_size_binary(dtype):
        return array.cast(pa.binary())
    return without_views(array)


def nulls_of(array: pa.Array) -> np.ndarray:
    """A mask of the null values, `[B]` bool."""
    mask: np.ndarray = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def numbers_of(array: pa.Array, wanted: str, where: str) -> np.ndarray:
    """A column's numbers as stored, `[B]`, with arbitrary values in place of nulls.

    Integers and floats are returned as a view of the column's buffer: a conversion that turned nulls into NaN
    would make integers floats and round 2⁵³ + 1. Half floats are the exception: they are copied to float32.

    Args:
      array: `[B]`.
      wanted: The reason why numbers are needed, for the error.
      where: The file and column, for the error.
    Raises:
      UserError: The column does not hold numbers.
    """
    kind = array.type
    if pt.is_decimal(kind):
        array = floats_of_decimals(array)
    elif pt.is_null(kind):
        array = array.cast(pa.float64())
    elif pt.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif not (pt.is_integer(kind) or pt.is_floating(kind)):
        raise UserError(f"column is {kind}, and {wanted}", where)
    dtype = np.dtype(array.type.to_pandas_dtype())
    data = array.buffers()[1]
    values = np.zeros(len(array), dtype)
    if len(array) and data is not None:
        values = np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)
    # Half floats are widened, because comparing them with limits beyond their range would overflow.
    return values.astype(np.float32) if dtype == np.float16 else values


def slice_type(stored: pa.DataType) -> pa.DataType:
    """The type in which a slice column is written: its own if that is a plain scalar, otherwise string."""
    if pt.is_dictionary(stored):
        stored = stored.value_type
    own = pt.is_integer(stored) or pt.is_floating(stored) or pt.is_boolean(stored)
    # Durations become strings: Parquet has no such type, and other readers would find plain numbers.
    times = pt.is_date(stored) or pt.is_time(stored) or pt.is_timestamp(stored)
    return stored if own or times else pa.string()
