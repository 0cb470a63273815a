"""Evaluation of conditions over the columns of a batch, with Arrow.

Null and NaN mean unknown: a comparison with null or NaN is neither true nor false, and neither is its
negation. Arithmetic is in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.slices.expressions import ColumnRef, Constant, Literal, Node, OneOf
from transforms.slices.times import time_constant


def evaluate(node: Node, columns: Mapping[str, pa.Array]) -> pa.BooleanArray:
    """A mask of the rows for which a condition is true, `[B]` without nulls.

    Args:
      node: The condition, from `expressions.parse`.
      columns: The values of each column that the condition names, `[B]`, as decoded for slices.
    Cost: one Arrow kernel per operator.
    """
    return pc.fill_null(_value(node, columns), False)


def _value(node: Node, columns: Mapping[str, pa.Array]) -> Any:
    """The value of a node: an array `[B]`, an Arrow scalar, or the Python value of a literal.

    Truth values follow Kleene's three-valued logic: null means unknown, and `evaluate` turns it into false.
    """
    if isinstance(node, ColumnRef):
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
    joined = _scalar(values[0])
    for value in values[1:]:
        joined = join(joined, _scalar(value))
    return joined


_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal, "==": pc.equal,
    "!=": pc.not_equal,
}  # fmt: skip


def _modulo(one: Any, other: Any) -> Any:
    """The remainder, with the sign of the divisor as in Python and pandas; Arrow has no kernel for it."""
    sides: list[Any] = [
        side.to_numpy(zero_copy_only=False) if isinstance(side, pa.Array) else np.float64(side.as_py())
        for side in (one, other)
    ]
    with np.errstate(invalid="ignore"):
        remainder = np.mod(sides[0], sides[1])
    return pa.array(remainder, pa.float64()) if np.ndim(remainder) else pa.scalar(float(remainder))


_CALCULATED: dict[str, Callable[[Any, Any], Any]] = {
    "+": pc.add, "-": pc.subtract, "*": pc.multiply, "/": pc.divide, "%": _modulo,
}  # fmt: skip


def _column(array: pa.Array, kind: str) -> pa.Array:
    if kind == "number":
        if pt.is_string(array.type):  # decimal numbers arrive as strings
            array = array.cast(pa.float64())
        elif pt.is_float16(array.type):
            array = _of_halves(array)
        return _without_nan(array)
    return array


def _of_halves(array: pa.Array) -> pa.Array:
    """Half floats as the float32 nearest to their shortest decimal text, such as 0.1, as in slice names."""
    # distinct values [D], and the index [B] of each row's value among them
    distinct, index = np.unique(
        array.to_numpy(zero_copy_only=False).astype(np.float16), return_inverse=True, equal_nan=False
    )
    floats = distinct.astype(str).astype(np.float32)[index]
    return pa.array(floats, pa.float32(), mask=array.is_null().to_numpy(zero_copy_only=False))


def _without_nan(value: Any) -> Any:
    """The value with null in place of NaN."""
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
    """Two values, converted to types that Arrow can compare; a constant takes the type of the other value."""
    one, other = _as_number(one), _as_number(other)
    if isinstance(one, pa.Array | pa.Scalar):
        if isinstance(other, pa.Array | pa.Scalar):
            # Arrow has no common type for uint64 and int64.
            if {one.type, other.type} == {pa.uint64(), pa.int64()}:
                return _as_float(one), _as_float(other)
            return one, other
        return _with_constant(one, other)
    if isinstance(other, pa.Array | pa.Scalar):
        value, constant = _with_constant(other, one)
        return constant, value
    return pa.scalar(one), pa.scalar(other)


def _as_number(value: Any) -> Any:
    """Booleans as 0 and 1, as in Python; other values unchanged."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, pa.Array | pa.Scalar) and pt.is_boolean(value.type):
        return value.cast(pa.int8())
    return value


def _with_constant(value: Any, constant: Any) -> tuple[Any, pa.Scalar]:
    dtype = value.type
    if isinstance(constant, str):
        return value, time_constant(constant, dtype) if pt.is_temporal(dtype) else pa.scalar(constant)
    if pt.is_floating(dtype):
        # 0.1 is a different number in single and in double precision: use the one of the column's type.
        return value, pa.scalar(float(_in_type(float(constant), dtype)), dtype)
    if isinstance(constant, int) and not pt.is_null(dtype):
        if -(2**63) <= constant < 2**63 and dtype != pa.uint64():
            return value, pa.scalar(constant, pa.int64())
        if dtype == pa.uint64() and 0 <= constant < 2**64:
            return value, pa.scalar(constant, pa.uint64())
    return _as_float(value), pa.scalar(float(constant))


def _in_type(value: float, dtype: pa.DataType) -> np.floating[Any]:
    with np.errstate(over="ignore"):
        rounded: np.floating[Any] = dtype.to_pandas_dtype()(value)
    return rounded


def _one_of(value: Any, constants: Sequence[Constant]) -> Any:
    value = _scalar(_as_number(value))
    dtype = value.type
    if pt.is_temporal(dtype):  # compared as integers, because Python's types cannot hold all times
        chosen = pa.array(
            [time_constant(str(constant), dtype).cast(_counted(dtype)) for constant in constants]
        )
        value, chosen = value.cast(_counted(dtype)), chosen.cast(_counted(dtype))
    else:
        chosen = pa.array(list(_of_type(constants, dtype)), dtype)
    is_member = pc.is_in(value, value_set=chosen)
    return pc.if_else(pc.is_valid(value), is_member, pa.scalar(None, pa.bool_()))


def _counted(dtype: pa.DataType) -> pa.DataType:
    """The integer type in which days and times are stored."""
    return pa.int32() if dtype.bit_width == 32 else pa.int64()


def _of_type(constants: Sequence[Constant], dtype: pa.DataType) -> Iterator[Any]:
    """The constants in a column's type; constants that no value of this type can equal are left out."""
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif pt.is_floating(dtype):
            yield float(_in_type(float(constant), dtype))
        elif pt.is_integer(dtype):
            limits = np.iinfo(dtype.to_pandas_dtype())
            if constant == constant // 1 and limits.min <= constant <= limits.max:
                yield int(constant)
