"""What Arrow's types say of a column: the shape of a value, whether it is a number, how it is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.errors import UserError


def is_list(kind: pa.DataType) -> bool:
    """Whether values of the type are lists."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def squeezed(shape: Sequence[int | None]) -> list[int | None]:
    """A shape without its axes of one value."""
    return [extent for extent in shape if extent != 1]


def storage(kind: pa.DataType) -> pa.DataType:
    """The type without extension, dictionary, 64-bit offsets and views."""
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
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
        if kind.permutation not in (None, list(range(len(kind.shape)))):
            raise UserError(
                f"{kind} is a tensor in an order other than row-major", remedy="store it row-major"
            )
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
