"""Conditions over columns evaluated by Arrow, a batch at a time.

A null says nothing, and so does NaN: what is compared with it is neither true nor false, nor is its opposite.
Numbers are calculated with in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.slices.expressions import Column, Constant, Literal, Node, OneOf
from transforms.slices.times import time_constant


def evaluate(node: Node, columns: Mapping[str, pa.Array]) -> pa.BooleanArray:
    """Where a condition is true: `[B]` without nulls.

    Args:
      node: As `parse` gives it.
      columns: Of each column its values `[B]`, as they are decoded for slices.
    Cost: an Arrow kernel an operator.
    """
    return pc.fill_null(_value(node, columns), False)


def _value(node: Node, columns: Mapping[str, pa.Array]) -> Any:
    """An array `[B]`, a scalar, or of a literal its plain value."""
    if isinstance(node, Column):
        return _column(columns[node.name], node.kind)
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, OneOf):
        return _one_of(_value(node.value, columns), node.constants)
    values = [_value(part, columns) for part in node.values]
    if node.sign in _COMPARED:
        return _COMPARED[node.sign](*_aligned(*values))
    if node.sign in _CALCULATED:
        return _without_nan(_CALCULATED[node.sign](*map(_as_float, values)))
    return _folded(node.sign, values)


def _folded(sign: str, values: Sequence[Any]) -> Any:
    if sign == "isnull":
        return pc.is_null(_scalar(values[0]))
    if sign == "not":
        return pc.invert(_scalar(values[0]))
    join = pc.and_kleene if sign == "and" else pc.or_kleene
    found = _scalar(values[0])
    for value in values[1:]:
        found = join(found, _scalar(value))
    return found


_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal, "==": pc.equal,
    "!=": pc.not_equal,
}  # fmt: skip


def _modulo(one: Any, other: Any) -> Any:
    """Of the sign of the divisor, as Python and pandas have it; Arrow has none."""
    sides: list[Any] = [
        side.to_numpy(zero_copy_only=False) if isinstance(side, pa.Array) else np.float64(side.as_py())
        for side in (one, other)
    ]
    with np.errstate(invalid="ignore"):
        found = np.mod(sides[0], sides[1])
    return pa.array(found, pa.float64()) if np.ndim(found) else pa.scalar(float(found))


_CALCULATED: dict[str, Callable[[Any, Any], Any]] = {
    "+": pc.add, "-": pc.subtract, "*": pc.multiply, "/": pc.divide, "%": _modulo,
}  # fmt: skip


def _column(array: pa.Array, kind: str) -> pa.Array:
    if kind == "number":
        if pt.is_string(array.type):  # so decimal numbers are decoded
            array = array.cast(pa.float64())
        elif pt.is_float16(array.type):
            array = _of_halves(array)
        return _without_nan(array)
    return array


def _of_halves(array: pa.Array) -> pa.Array:
    """Halves as the numbers that their texts say: 0.1 is the half nearest to it, here as in slices' names."""
    distinct, places = np.unique(
        array.to_numpy(zero_copy_only=False).astype(np.float16), return_inverse=True, equal_nan=False
    )
    floats = distinct.astype(str).astype(np.float32)[places]
    return pa.array(floats, pa.float32(), mask=array.is_null().to_numpy(zero_copy_only=False))


def _without_nan(value: Any) -> Any:
    """Null for NaN."""
    if not pt.is_floating(value.type):
        return value
    odd = pc.is_nan(value)
    if isinstance(value, pa.Scalar):
        return pa.scalar(None, value.type) if odd.as_py() else value
    return pc.if_else(odd, pa.scalar(None, value.type), value) if pc.any(odd).as_py() else value


def _scalar(value: Any) -> Any:
    return value if isinstance(value, pa.Array | pa.Scalar) else pa.scalar(value)


def _as_float(value: Any) -> Any:
    if not isinstance(value, pa.Array | pa.Scalar):
        return pa.scalar(float(value))
    if pt.is_boolean(value.type):
        value = value.cast(pa.int8())
    return value.cast(pa.float64(), safe=False)


def _aligned(one: Any, other: Any) -> tuple[Any, Any]:
    """Both in a type in which they can be compared; a constant in that of what it is compared with."""
    one, other = _as_number(one), _as_number(other)
    if isinstance(one, pa.Array | pa.Scalar):
        if isinstance(other, pa.Array | pa.Scalar):
            whole = {pa.uint64(), pa.int64()}
            if {one.type, other.type} == whole:
                return _as_float(one), _as_float(other)
            return one, other
        return _with_constant(one, other)
    if isinstance(other, pa.Array | pa.Scalar):
        value, constant = _with_constant(other, one)
        return constant, value
    return pa.scalar(one), pa.scalar(other)


def _as_number(value: Any) -> Any:
    """Truths as numbers, as Python has them; the rest as it is."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, pa.Array | pa.Scalar) and pt.is_boolean(value.type):
        return value.cast(pa.int8())
    return value


def _with_constant(value: Any, constant: Any) -> tuple[Any, pa.Scalar]:
    kind = value.type
    if isinstance(constant, str):
        return value, time_constant(constant, kind) if pt.is_temporal(kind) else pa.scalar(constant)
    if pt.is_floating(kind):
        # In single precision 0.1 is another number than in double: what is written means the column's.
        return value, pa.scalar(float(_in_type(float(constant), kind)), kind)
    if isinstance(constant, int) and not pt.is_null(kind):
        if -(2**63) <= constant < 2**63 and kind != pa.uint64():
            return value, pa.scalar(constant, pa.int64())
        if kind == pa.uint64() and 0 <= constant < 2**64:
            return value, pa.scalar(constant, pa.uint64())
    return _as_float(value), pa.scalar(float(constant))


def _in_type(value: float, kind: pa.DataType) -> np.floating[Any]:
    with np.errstate(over="ignore"):
        found: np.floating[Any] = kind.to_pandas_dtype()(value)
    return found


def _one_of(value: Any, constants: Sequence[Constant]) -> Any:
    value = _scalar(_as_number(value))
    kind = value.type
    if pt.is_temporal(kind):  # whose values Python cannot always hold
        chosen = pa.array([time_constant(str(constant), kind).cast(_counted(kind)) for constant in constants])
        value, chosen = value.cast(_counted(kind)), chosen.cast(_counted(kind))
    else:
        chosen = pa.array(list(_of_type(constants, kind)), kind)
    found = pc.is_in(value, value_set=chosen)
    return pc.if_else(pc.is_valid(value), found, pa.scalar(None, pa.bool_()))


def _counted(kind: pa.DataType) -> pa.DataType:
    """The whole numbers that days and times are stored as."""
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def _of_type(constants: Sequence[Constant], kind: pa.DataType) -> Iterator[Any]:
    """The constants as values of a column; those that no value of its type equals are left out."""
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif pt.is_floating(kind):
            yield float(_in_type(float(constant), kind))
        elif pt.is_integer(kind):
            limits = np.iinfo(kind.to_pandas_dtype())
            if constant == constant // 1 and limits.min <= constant <= limits.max:
                yield int(constant)
