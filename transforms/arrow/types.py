"""Properties of Arrow's types: the shape of a value, whether it is a number, and how it is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt


def is_list(dtype: pa.DataType) -> bool:
    """True for types of lists."""
    return bool(pt.is_list(dtype) or pt.is_large_list(dtype) or pt.is_fixed_size_list(dtype))


def is_view(dtype: pa.DataType) -> bool:
    """True for list views, whose values may be stored in any order."""
    return bool(pt.is_list_view(dtype) or pt.is_large_list_view(dtype))


def without_views(array: pa.Array) -> pa.Array:
    """List views, at any depth, as plain lists; other arrays unchanged."""
    inner = array.type
    while is_list(inner):
        inner = inner.value_type
    if not is_view(inner):
        return array
    # pyarrow 25 casts list views with nulls, and slices of them, to lists with broken offsets.
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.r_[0, np.cumsum(lengths)], pa.int32())
    return pa.ListArray.from_arrays(offsets, without_views(array.flatten()), mask=array.is_null())


def squeezed(shape: Sequence[int | None]) -> list[int | None]:
    """A shape without its axes of extent 1."""
    return [extent for extent in shape if extent != 1]


def in_same_order(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """True if the row-major values of one shape can be taken for those of the other, of the same size.

    One of the two may be flat; otherwise they must agree apart from axes of extent 1.
    """
    # [3, 32, 32] for [32, 32, 3] would scramble a picture.
    shapes = squeezed(one), squeezed(other)
    return min(map(len, shapes)) < 2 or shapes[0] == shapes[1]


def storage(dtype: pa.DataType) -> pa.DataType:
    """The type without extension, dictionary, 64-bit offsets and views."""
    while isinstance(dtype, pa.BaseExtensionType):
        dtype = dtype.storage_type
    if pt.is_run_end_encoded(dtype):
        dtype = dtype.value_type
    if pt.is_dictionary(dtype):
        dtype = dtype.value_type
    if pt.is_large_string(dtype) or pt.is_string_view(dtype):
        return pa.string()
    binary = pt.is_large_binary(dtype) or pt.is_binary_view(dtype) or pt.is_fixed_size_binary(dtype)
    return pa.binary() if binary and not pt.is_decimal(dtype) else dtype


def leaf(dtype: pa.DataType) -> pa.DataType:
    """The type of a list's values, or of the value itself."""
    dtype = storage(dtype)
    while is_list(dtype):
        dtype = storage(dtype.value_type)
    return dtype


def extents(dtype: pa.DataType) -> tuple[int, ...]:
    """The shape of a value, as far as fixed-size lists give it."""
    if isinstance(dtype, pa.FixedShapeTensorType):
        return tuple(dtype.shape)
    dtype, shape = storage(dtype), []
    while pt.is_fixed_size_list(dtype):
        shape.append(dtype.list_size)
        dtype = storage(dtype.value_type)
    return tuple(shape)


def width(dtype: pa.DataType) -> int | None:
    """The number of values per row, according to the type; None for lists of any length."""
    size = int(np.prod(extents(dtype), dtype=np.int64))
    dtype = storage(dtype)
    while pt.is_fixed_size_list(dtype):
        dtype = storage(dtype.value_type)
    return None if is_list(dtype) else size


def is_number(dtype: pa.DataType) -> bool:
    """True for numbers and booleans, and for the type null."""
    dtype = storage(dtype)
    named = pt.is_integer(dtype) or pt.is_floating(dtype) or pt.is_boolean(dtype) or pt.is_decimal(dtype)
    # A column without any value has the type null; decoding rejects or fills its rows one by one.
    return bool(named or pt.is_null(dtype))


def is_text(dtype: pa.DataType) -> bool:
    """True for strings and bytes."""
    dtype = storage(dtype)
    return bool(pt.is_string(dtype) or pt.is_binary(dtype))


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest scalar type that holds the values of two types; the first type if they are not numbers.

    Whole numbers with floats become floats, as is usual, although 2⁵³ + 1 is not representable. Together,
    int64 and uint64 fit in no number type, and become decimal. Times take the finer unit, except that
    nanoseconds, which end in the year 2262, with another unit become microseconds. Days with times become
    times.
    """
    if pt.is_null(one):
        return other
    if pt.is_temporal(one) and pt.is_temporal(other) and one != other:
        return _common_time(one, other)
    plain = pt.is_integer, pt.is_floating, pt.is_boolean
    if one == other or not all(any(is_kind(kind) for is_kind in plain) for kind in (one, other)):
        return next((kind for kind in (one, other) if pt.is_decimal(kind)), one)
    if pt.is_boolean(one) or pt.is_boolean(other):
        return other if pt.is_boolean(one) else one
    wider = np.promote_types(one.to_pandas_dtype(), other.to_pandas_dtype())
    whole = pt.is_integer(one) and pt.is_integer(other)
    return pa.decimal128(20) if whole and wider.kind == "f" else pa.from_numpy_dtype(wider)


#: Whole numbers up to here, and powers of ten, have no error in float64.
_EXACT_WHOLE, _EXACT_POWERS = 2**53, 22
_FINER = ("s", "ms", "us", "ns")


def _common_time(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if pt.is_date(one) and pt.is_date(other):
        return pa.date32()
    units = [kind.unit for kind in (one, other) if not pt.is_date(kind)]
    finest = max(units, key=_FINER.index)
    if pt.is_time(one):
        return pa.time64("ns" if finest == "ns" else "us")
    coarse = "us" if finest == "ns" and (set(units) != {"ns"} or len(units) < 2) else finest
    if pt.is_duration(one):
        return pa.duration(coarse)
    zones = [kind.tz for kind in (one, other) if pt.is_timestamp(kind)]
    return pa.timestamp(coarse, zones[0] if len(set(zones)) == 1 else "UTC")


def without_zone(times: pa.Array) -> pa.Array:
    """Times with a zone converted to UTC without one; other times unchanged."""
    return times.cast(pa.timestamp(times.type.unit)) if times.type.tz is not None else times


def floats_of_decimals(array: pa.Array) -> pa.Array:
    """Decimals as the nearest float64, `[B]`; Arrow's own cast is sometimes off by one in the last place.

    Cost: one division per value if all are at most 2⁵³ and the scale is at most 22, because both operands are
      then exact; otherwise a conversion by way of text.
    """
    if pt.is_decimal32(array.type) or pt.is_decimal64(array.type):
        array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
    kind = array.type
    data = array.buffers()[1]
    if pt.is_decimal128(kind) and 0 <= kind.scale <= _EXACT_POWERS and len(array) and data is not None:
        words = np.frombuffer(data, np.int64, 2 * len(array), 16 * array.offset).reshape(-1, 2)
        low, high = words[:, 0], words[:, 1]
        missing = array.is_null().to_numpy(zero_copy_only=False)
        exact = (high == low >> 63) & (low <= _EXACT_WHOLE) & (low >= -_EXACT_WHOLE)
        if (exact | missing).all():
            return pa.array(low / 10.0**kind.scale, mask=missing)
    return array.cast(pa.string()).cast(pa.float64())
