"""What Arrow's types say of a column: the shape of a value, whether it is a number, how it is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt


def is_list(kind: pa.DataType) -> bool:
    """Whether values of the type are lists."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def is_view(kind: pa.DataType) -> bool:
    """Whether values of the type are lists that are stored anywhere among each other."""
    return bool(pt.is_list_view(kind) or pt.is_large_list_view(kind))


def without_views(array: pa.Array) -> pa.Array:
    """Views of lists, at any depth, as plain lists; another array as it is."""
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
    """A shape without its axes of one value."""
    return [extent for extent in shape if extent != 1]


def in_same_order(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether equally many values of two shapes, row-major, mean the same: one axis is any other's values."""
    # [3, 32, 32] for [32, 32, 3] would scramble a picture; axes of one value say nothing.
    shapes = squeezed(one), squeezed(other)
    return min(map(len, shapes)) < 2 or shapes[0] == shapes[1]


def storage(kind: pa.DataType) -> pa.DataType:
    """The type without extension, dictionary, 64-bit offsets and views."""
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pt.is_run_end_encoded(kind):
        kind = kind.value_type
    if pt.is_dictionary(kind):
        kind = kind.value_type
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    binary = pt.is_large_binary(kind) or pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind)
    return pa.binary() if binary and not pt.is_decimal(kind) else kind


def leaf(kind: pa.DataType) -> pa.DataType:
    """The type of a list's values, or of the value itself."""
    kind = storage(kind)
    while is_list(kind):
        kind = storage(kind.value_type)
    return kind


def extents(kind: pa.DataType) -> tuple[int, ...]:
    """Shape of a value, as far as fixed-size lists say it."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    kind, shape = storage(kind), []
    while pt.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = storage(kind.value_type)
    return tuple(shape)


def width(kind: pa.DataType) -> int | None:
    """Values a row that the column's type promises; None for a list of any length."""
    size = int(np.prod(extents(kind), dtype=np.int64))
    kind = storage(kind)
    while pt.is_fixed_size_list(kind):
        kind = storage(kind.value_type)
    return None if is_list(kind) else size


def is_number(kind: pa.DataType) -> bool:
    """Whether a value is a number, or true or false."""
    kind = storage(kind)
    named = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_decimal(kind)
    # A column without a single value has the type null; its rows are rejected, or filled, one by one.
    return bool(named or pt.is_null(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a value is a string, or bytes."""
    kind = storage(kind)
    return bool(pt.is_string(kind) or pt.is_binary(kind))


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest type of a value a row that holds the values of two; the first where they are no numbers.

    Whole numbers beside others are floating ones, as everywhere, though 2⁵³ + 1 is none. What no type of
    numbers holds, the whole range of int64 and uint64, is decimal. Times are of the finer unit, but for
    nanoseconds, which hold no year beyond 2262: of these and others microseconds. Days beside times are
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
    """Times with a zone as the times that they are in UTC; others as they are."""
    return times.cast(pa.timestamp(times.type.unit)) if times.type.tz is not None else times


def floats_of_decimals(array: pa.Array) -> pa.Array:
    """Decimals as the nearest float64, `[B]`; Arrow's own cast is off by one in the last place now and then.

    Cost: a division a value up to 2⁵³ and a scale of 22, of which both sides are exact; else by its text.
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
