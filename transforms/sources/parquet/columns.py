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
    """The columns of a schema with their plain types; fields of structs have dotted names.

    Args:
      schema: The schema of a file.
      name: The file's name in errors.
    """
    twice = [column for column, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise UserError(
            f"has several columns called {twice[0]}", where=name, remedy="rename or drop all but one"
        )
    types: dict[str, pa.DataType] = {}

    def add(prefix: str, dtype: pa.DataType) -> None:
        if pt.is_struct(dtype) and not is_vector(dtype):
            for field in dtype:
                add(f"{prefix}.{field.name}", field.type)
        elif prefix not in types and (prefix in literal) <= (prefix == top):
            types[prefix] = plain(dtype)

    literal = set(schema.names)
    for field in schema:
        top = field.name
        add(top, field.type)
    return types


def resolve(schema: pa.Schema, name: str, file: str) -> list[str]:
    """The path of field names that a dotted name means: a column of exactly that name, else a struct's field.

    Raises:
      UserError: There is no such column, or there are several.
    """
    path = path_of(schema, name, file)
    if path:
        return path
    known = leaves(schema, file)
    remedy = did_you_mean(name, known, f"it has {', '.join(list(known)[:8])}", most=3)
    raise UserError(f"there is no column {name}", where=file, remedy=remedy)


def path_of(schema: pa.Schema, name: str, file: str) -> list[str]:
    """The path of field names that a dotted name means; empty where there is no such column.

    Raises:
      UserError: There are several.
    """
    places = schema.get_all_field_indices(name)  # a hash look-up, where `schema.names` would build a list
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
    dtype = schema.field(path[0]).type
    for name in path[1:]:
        dtype = dtype.field(name).type
    return dtype


def in_order(dtype: pa.DataType, column: str, file: str) -> pa.DataType:
    """The type itself; permuted tensors are refused.

    Raises:
      UserError: The type stores tensors in another order than its shape says.
    """
    order = dtype.permutation if isinstance(dtype, pa.FixedShapeTensorType) else None
    if order is not None and order != list(range(len(order))):
        raise UserError(
            f"column {column} holds tensors of shape {list(dtype.shape)} permuted by {order}",
            where=file,
            remedy="store them in row-major order, without a permutation",
        )
    return dtype


def extract(batch: pa.RecordBatch, path: Sequence[str]) -> pa.Array:
    """A column, or a field of structs, of a batch."""
    array = batch.column(path[0])
    # struct_field, unlike StructArray.field, makes the field null where the struct is.
    return pc.struct_field(array, list(path[1:])) if len(path) > 1 else array


def plain(dtype: pa.DataType) -> pa.DataType:
    """The logical type, without details of storage such as dictionaries, 64-bit offsets and views.

    A UUID becomes a string, and arrow.bool8 a boolean.
    """
    if pt.is_primitive(dtype) and not pt.is_date64(dtype):  # most columns of wide tables
        return dtype
    if isinstance(dtype, pa.FixedShapeTensorType):
        return dtype
    if isinstance(dtype, pa.UuidType):
        return pa.string()
    if isinstance(dtype, pa.Bool8Type):
        return pa.bool_()
    if pt.is_date64(dtype):  # days, counted in milliseconds
        return pa.date32()
    if isinstance(dtype, pa.BaseExtensionType):
        return plain(dtype.storage_type)
    if is_vector(dtype):
        return VECTOR
    if pt.is_run_end_encoded(dtype):
        return plain(dtype.value_type)
    if pt.is_dictionary(dtype):
        return plain(dtype.value_type)
    if pt.is_large_string(dtype) or pt.is_string_view(dtype):
        return pa.string()
    if pt.is_large_binary(dtype) or pt.is_binary_view(dtype):
        return pa.binary()
    if pt.is_fixed_size_list(dtype):
        return pa.list_(plain(dtype.value_type), dtype.list_size)
    if is_list(dtype) or is_view(dtype):
        return pa.list_(plain(dtype.value_type))
    return dtype


def plain_array(array: pa.Array, dtype: pa.DataType) -> pa.Array:
    """The array in its column's plain type; an extension array becomes its storage."""
    if isinstance(array.type, pa.UuidType):
        return uuid_texts(array.storage)
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pt.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if is_vector(array.type):
        array = dense(array)
    array = without_views(array)
    if pt.is_fixed_size_list(dtype) and pt.is_list(array.type):
        return _fixed_size(array, dtype)
    if pt.is_null(dtype):
        return pa.nulls(len(array))
    return array if array.type == dtype else array.cast(dtype, safe=not pt.is_date64(array.type))


#: Positions of the 32 digits in a UUID's text; the other four are hyphens.
_DIGITS = [at for at in range(36) if at not in (8, 13, 18, 23)]
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def uuid_texts(array: pa.FixedSizeBinaryArray) -> pa.StringArray:
    """Values of sixteen bytes as texts of the form 123e4567-e89b-12d3-a456-426614174000."""
    rows, data = len(array), array.buffers()[1]
    if not rows or data is None:
        return pa.nulls(rows, pa.string())
    values = np.frombuffer(data, np.uint8, 16 * rows, 16 * array.offset).reshape(rows, 16)
    characters = np.full((rows, 36), ord("-"), np.uint8)
    characters[:, _DIGITS[0::2]], characters[:, _DIGITS[1::2]] = _HEX[values >> 4], _HEX[values & 15]
    offsets = np.arange(rows + 1, dtype=np.int32) * 36
    texts = pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(characters))
    return pc.if_else(array.is_valid(), texts, pa.scalar(None, pa.string())) if array.null_count else texts


def _fixed_size(array: pa.Array, dtype: pa.DataType) -> pa.Array:
    """Lists of any size as lists of fixed size; nulls stay null.

    Unchanged where a list has another size, as in a damaged file: decoding then rejects its row.
    """
    if not pc.all(pc.equal(array.value_lengths(), dtype.list_size), min_count=0).as_py():
        return array
    values = plain_array(array.flatten(), bare(dtype.value_type))
    fixed = pa.FixedSizeListArray.from_arrays(values, dtype.list_size)
    if not array.null_count:
        return fixed
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return fixed.take(pa.array(np.cumsum(valid) - 1, mask=~valid))


def compatible(one: pa.DataType, other: pa.DataType) -> bool:
    """True if a column may have one type in one file and the other type in another."""
    one, other = bare(one), bare(other)
    if pt.is_null(one) or pt.is_null(other) or one == other:
        return True
    if pt.is_nested(one) or pt.is_nested(other):
        lists = (pt.is_list, pt.is_fixed_size_list)
        if not all(any(is_list_type(dtype) for is_list_type in lists) for dtype in (one, other)):
            return False
        return compatible(one.value_type, other.value_type)
    if pt.is_timestamp(one) and pt.is_timestamp(other):
        return (one.tz is None) == (other.tz is None)
    return any(family(one) and family(other) for family in _FAMILIES)


def bare(dtype: pa.DataType) -> pa.DataType:
    """The type itself, or the storage type of an extension type."""
    return bare(dtype.storage_type) if isinstance(dtype, pa.BaseExtensionType) else dtype


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pt.is_integer(dtype) or pt.is_floating(dtype) or pt.is_boolean(dtype) or pt.is_decimal(dtype))


def _is_text(dtype: pa.DataType) -> bool:
    return bool(pt.is_string(dtype) or pt.is_binary(dtype) or pt.is_fixed_size_binary(dtype))


def _is_day(dtype: pa.DataType) -> bool:
    return bool(pt.is_date(dtype) or (pt.is_timestamp(dtype) and dtype.tz is None))


#: A column may change between types of one family from file to file.
_FAMILIES = (_is_number, _is_text, _is_day, pt.is_time, pt.is_duration)
