"""Computes integers in a graph that do not depend on the rows: loop counters, their limits, extents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf


def work_out(tensor: Any, known: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Computes the value of an integer tensor; None if it cannot be known.

    Args:
      tensor: A tensor of any graph.
      known: Known values, by tensor name.
    """
    if tensor.name in known:
        return known[tensor.name]
    value = tf.get_static_value(tensor)
    if value is not None:
        return np.asarray(value)
    return apply(tensor.op, lambda operand: work_out(operand, known))


def apply(op: Any, known: Callable[[Any], Any]) -> np.ndarray | None:
    """Computes an op's output; None if it cannot be known. `known` gives the value of an operand, or None."""
    if op.type == "StridedSlice" and op.inputs[0].op.type == "Shape":
        return _extent(op, known)
    rule = _WHOLE.get(op.type)
    if rule is None:
        return None
    given = [known(operand) for operand in op.inputs]
    if any(value is None for value in given):
        return None
    return np.asarray(rule(*given))


def _extent(op: Any, known: Callable[[Any], Any]) -> np.ndarray | None:
    """The extent that a StridedSlice selects from a shape, such as a sequence length; None if not static."""
    begin = known(op.inputs[1])
    shape = op.inputs[0].op.inputs[0].shape
    single = op.get_attr("shrink_axis_mask") == 1 and begin is not None and begin.size == 1
    if not single or shape.rank is None:
        return None
    extent = shape[int(begin[0])]
    return None if extent is None else np.asarray(extent)


#: Arithmetic of loop counters and their limits.
_WHOLE: dict[str, Callable[..., Any]] = {
    "Identity": np.asarray,
    "Cast": np.asarray,
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Equal": np.equal,
    "NotEqual": np.not_equal,
    "LogicalAnd": np.logical_and,
    "LogicalOr": np.logical_or,
    "LogicalNot": np.logical_not,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Max": lambda value, axes: np.max(value, tuple(np.atleast_1d(axes))) if np.size(axes) else value,
    "Min": lambda value, axes: np.min(value, tuple(np.atleast_1d(axes))) if np.size(axes) else value,
    "Range": np.arange,
}
