"""Columns of Parquet files by name, and their values in plain types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.arrow.types import is_list, is_view, without_views
from transforms.errors import UserError
from transforms.sources.parquet.vectors import VECTOR, dense, is_vector
from transforms.wording import did_you_mean


def leaves(schema: pa.Schema, name: str) -> dict[str, pa.DataType]:
    """The columns of a file of this name with their plain types, fields of structs by dotted names."""
    twice = [column for column, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise UserError(
            f"has several columns called {twice[0]}", where=name, remedy="rename or drop all but one"
        )
    found: dict[str, pa.DataType] = {}

    def add(prefix: str, kind: pa.DataType) -> None:
        if pt.is_struct(kind) and not is_vector(kind):
            for field in kind:
                add(f"{prefix}.{field.name}", field.type)
        elif prefix not in found and (prefix in literal) <= (prefix == top):
            found[prefix] = plain(kind)

    literal = set(schema.names)
    for field in schema:
        top = field.name
        add(top, field.type)
    return found


def resolve(schema: pa.Schema, name: str, file: str) -> list[str]:
    """The field names that a dotted name means: a column of just that name, else a field of a struct.

    Raises:
      UserError: There is none, or there are several.
    """
    path = found_at(schema, name, file)
    if path:
        return path
    known = leaves(schema, file)
    remedy = did_you_mean(name, known, f"it has {', '.join(list(known)[:8])}", most=3)
    raise UserError(f"there is no column {name}", where=file, remedy=remedy)


def found_at(schema: pa.Schema, name: str, file: str) -> list[str]:
    """The same, and nothing where there is none.

    Raises:
      UserError: There are several.
    """
    places = schema.get_all_field_indices(name)  # a look-up by hash: `schema.names` would be made anew
    if len(places) == 1:
        return [name]
    if not places:
        return _descend(list(schema), name)
    raise UserError(f"has several columns called {name}", where=file, remedy="rename or drop all but one")


def _descend(fields: Sequence[pa.Field], name: str) -> list[str]:
    for field in fields:
        if field.name == name and (not pt.is_struct(field.type) or is_vector(field.type)):
            return [name]
        if name.startswith(field.name + ".") and pt.is_struct(field.type):
            rest = _descend(list(field.type), name[len(field.name) + 1 :])
            if rest:
                return [field.name, *rest]
    return []


def type_at(schema: pa.Schema, path: Sequence[str]) -> pa.DataType:
    """The type of a column or of a field of structs."""
    kind = schema.field(path[0]).type
    for name in path[1:]:
        kind = kind.field(name).type
    return kind


def in_order(kind: pa.DataType, column: str, file: str) -> pa.DataType:
    """The type, unless it stores tensors in another order than it shows them."""
    order = kind.permutation if isinstance(kind, pa.FixedShapeTensorType) else None
    if order is not None and order != list(range(len(order))):
        raise UserError(
            f"column {column} holds tensors of shape {list(kind.shape)} permuted by {order}",
            where=file,
            remedy="store them in row-major order, without a permutation",
        )
    return kind


def extract(batch: pa.RecordBatch, path: Sequence[str]) -> pa.Array:
    """A column, or a field of structs."""
    array = batch.column(path[0])
    # struct_field, unlike StructArray.field, makes the field null where the struct is.
    return pc.struct_field(array, list(path[1:])) if len(path) > 1 else array


def plain(kind: pa.DataType) -> pa.DataType:
    """The type without what only says how values are stored: dictionaries, 64-bit offsets, views.

    A UUID is its text, and arrow.bool8 a truth.
    """
    if pt.is_primitive(kind) and not pt.is_date64(kind):  # most columns of wide tables
        return kind
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if pt.is_date64(kind):  # days, counted in milliseconds
        return pa.date32()
    if isinstance(kind, pa.BaseExtensionType):
        return plain(kind.storage_type)
    if is_vector(kind):
        return VECTOR
    if pt.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pt.is_dictionary(kind):
        return plain(kind.value_type)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_binary(kind) or pt.is_binary_view(kind):
        return pa.binary()
    if pt.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type), kind.list_size)
    if is_list(kind) or is_view(kind):
        return pa.list_(plain(kind.value_type))
    return kind


def plain_array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The array in its column's plain type; of an extension type, the storage."""
    if isinstance(array.type, pa.UuidType):
        return uuid_texts(array.storage)
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pt.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if is_vector(array.type):
        array = dense(array)
    array = without_views(array)
    if pt.is_fixed_size_list(kind) and pt.is_list(array.type):
        return _fixed_size(array, kind)
    if pt.is_null(kind):
        return pa.nulls(len(array))
    return array if array.type == kind else array.cast(kind, safe=not pt.is_date64(array.type))


#: Where the 32 digits of a UUID stand in its text, and the hyphens between them.
_DIGITS = [at for at in range(36) if at not in (8, 13, 18, 23)]
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def uuid_texts(array: pa.FixedSizeBinaryArray) -> pa.StringArray:
    """Sixteen bytes a value in the form 123e4567-e89b-12d3-a456-426614174000."""
    rows, data = len(array), array.buffers()[1]
    if not rows or data is None:
        return pa.nulls(rows, pa.string())
    values = np.frombuffer(data, np.uint8, 16 * rows, 16 * array.offset).reshape(rows, 16)
    texts = np.full((rows, 36), ord("-"), np.uint8)
    texts[:, _DIGITS[0::2]], texts[:, _DIGITS[1::2]] = _HEX[values >> 4], _HEX[values & 15]
    offsets = np.arange(rows + 1, dtype=np.int32) * 36
    found = pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(texts))
    return pc.if_else(array.is_valid(), found, pa.scalar(None, pa.string())) if array.null_count else found


def _fixed_size(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Lists of any size as lists of one size; null where they are null.

    As they are where one has another size, in a damaged file: it is for the row to be rejected.
    """
    if not pc.all(pc.equal(array.value_lengths(), kind.list_size), min_count=0).as_py():
        return array
    values = plain_array(array.flatten(), bare(kind.value_type))
    fixed = pa.FixedSizeListArray.from_arrays(values, kind.list_size)
    if not array.null_count:
        return fixed
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return fixed.take(pa.array(np.cumsum(valid) - 1, mask=~valid))


def compatible(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two files may have a column in these types."""
    one, other = bare(one), bare(other)
    if pt.is_null(one) or pt.is_null(other) or one == other:
        return True
    if pt.is_nested(one) or pt.is_nested(other):
        lists = (pt.is_list, pt.is_fixed_size_list)
        if not all(any(is_kind(kind) for is_kind in lists) for kind in (one, other)):
            return False
        return compatible(one.value_type, other.value_type)
    if pt.is_timestamp(one) and pt.is_timestamp(other):
        return (one.tz is None) == (other.tz is None)
    return any(family(one) and family(other) for family in _FAMILIES)


def bare(kind: pa.DataType) -> pa.DataType:
    """The type, or the storage of an extension type."""
    return bare(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_binary(kind) or pt.is_fixed_size_binary(kind))


def _is_day(kind: pa.DataType) -> bool:
    return bool(pt.is_date(kind) or (pt.is_timestamp(kind) and kind.tz is None))


#: Types of a family may stand for each other from file to file.
_FAMILIES = (_is_number, _is_text, _is_day, pt.is_time, pt.is_duration)
