"""The position in a model input from which each value of an entry comes, and to which its φ is credited.

Each tensor gets a map of positions for one row of the input: every op rearranges the maps of its operands as
it rearranges their values. A map is `[1, *shape]`, or `[n, ...]` if the tensor has n rows per row of the
input. Its values are positions in the flattened input, or NOWHERE for a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.graphs.affine import slice_spares_batch
from transforms.models.graphs.trace import SHAPE_ONLY, TracedModel, static_shape

#: Stands for a value that comes from no position: a constant among the input's values.
NOWHERE = -1
#: Stands for a value that comes from all positions alike, such as the number of times that a token occurs.
EVERYWHERE = -2
#: Ops that count over positions: multi-hot, count and tf-idf encodings.
_BINCOUNTS = frozenset({"Bincount", "DenseBincount"})
_COUNTING = _BINCOUNTS | {"Max", "Sum"}
#: Ops that work value by value. All other ops mix the values of a row, except those handled below.
_ELEMENTWISE = frozenset(
    {
        "Abs", "Acos", "Acosh", "Add", "AddV2", "ApproximateEqual", "AsString", "Asin", "Asinh", "Atan",
        "Atan2", "Atanh", "BiasAdd", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Bucketize", "Cast",
        "Ceil", "CheckNumerics", "ClipByValue", "Cos", "Cosh", "DecodeBase64", "Digamma", "Div",
        "DivNoNan", "Elu", "EnsureShape", "Equal", "Erf", "Erfc", "Erfinv", "Exp", "Expm1",
        "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "Floor", "FloorDiv", "FloorMod",
        "Greater", "GreaterEqual", "Identity", "Inv", "Invert", "IsFinite", "IsInf", "IsNan",
        "LeakyRelu", "LeftShift", "Less", "LessEqual", "Lgamma", "Log", "Log1p", "LogicalAnd",
        "LogicalNot", "LogicalOr", "LookupTableFind", "LookupTableFindV2", "Maximum", "Minimum", "Mod",
        "Mul", "MulNoNan", "Ndtri", "Neg", "NextAfter", "NotEqual", "Pow", "PreventGradient",
        "QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "RealDiv", "Reciprocal", "RegexFullMatch",
        "RegexReplace", "Relu", "Relu6", "RightShift", "Rint", "Round", "Rsqrt", "Select", "SelectV2",
        "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Snapshot", "Softplus", "Softsign", "Sqrt", "Square",
        "SquaredDifference", "StaticRegexFullMatch", "StaticRegexReplace", "StopGradient",
        "StringLength", "StringLower", "StringStrip", "StringToHashBucket", "StringToHashBucketFast",
        "StringToHashBucketStrong", "StringToNumber", "StringUpper", "Sub", "Substr", "Tan", "Tanh",
        "TruncateDiv", "TruncateMod", "Xdivy", "Xlog1py", "Xlogy",
    }
)  # fmt: skip
#: Ops that look up rows of a table by the ids in their second operand.
_PICKS = frozenset({"Gather", "GatherV2", "ResourceGather"})
#: Ops that leave zeros and ones unchanged.
_STILL_INDICATORS = frozenset(
    {"Cast", "ExpandDims", "Identity", "Reshape", "Snapshot", "Squeeze", "StridedSlice", "Transpose"}
)


class Mixed(Exception):
    """An op mixes positions; the message is the op's name."""

    def __init__(self, op: Any) -> None:
        self.op = op
        super().__init__(op.name)


def entry_positions(traced: TracedModel, tensor: Any, name: str) -> np.ndarray:
    """The positions of input `name` from which an entry's values come, or EVERYWHERE for counts.

    A count is a sum over all positions of indicators that are computed in the same way at each position.
    Values of other kinds are not shared among positions. The result has the shape of `position_map`'s.

    Raises:
      Mixed: A value comes from several positions, and is not a count.
    """
    positions = _mapped(traced, tensor, name, counts=True)
    if (positions == EVERYWHERE).any() and tensor.op.type == "Cast" and tensor.op.inputs[0].dtype == tf.bool:
        raise Mixed(tensor.op)  # a mask
    return positions


def position_map(traced: TracedModel, tensor: Any, name: str) -> np.ndarray:
    """The positions of input `name` from which the values of a tensor come.

    Args:
      traced: The model.
      tensor: A tensor that depends on this input alone.
      name: The input.
    Returns:
      Positions in the flattened input, `[rows of the tensor per row of the input, *shape]`.
    Raises:
      Mixed: A value comes from several positions, or from an unknown one.
    """
    return _mapped(traced, tensor, name, counts=False)


def _mapped(traced: TracedModel, tensor: Any, name: str, *, counts: bool) -> np.ndarray:
    source = traced.inputs[name]
    shape = static_shape(source)
    assert shape is not None
    size = int(np.prod([extent or 1 for extent in shape[1:]], dtype=np.int64))
    extents = (static_shape(tensor) or (None,))[1:]
    if size == 1 and None not in extents:
        return np.zeros([1, *(extent or 0 for extent in extents)], np.int64)
    maps = {source.name: np.arange(size).reshape(1, *shape[1:])}
    unlike: set[str] = set()  # tensors whose values were computed differently at different positions
    mixed: dict[str, Any] = {}  # tensors without a map, with the op that mixed their values
    needed = traced.ancestors([tensor], frozenset([source.name]))
    for op in traced.graph.get_operations():
        if op.name not in needed or op.type in SHAPE_ONLY:
            continue
        # Operand 1 of a bincount, the number of possible ids, is computed from the ids but is not a value.
        values = [t for i, t in enumerate(op.inputs) if not (i == 1 and op.type in _BINCOUNTS)]
        operands = {index: maps[t.name] for index, t in enumerate(op.inputs) if t.name in maps}
        mapped: list[np.ndarray] = []
        blamed = next((mixed[t.name] for t in values if t.name in mixed), None)
        if blamed is None and not operands:
            continue
        differs = any(t.name in unlike for t in op.inputs) or _distinguishes_positions(op, operands)
        if blamed is None:
            try:
                mapped = _output_maps(op, operands, size, counts=counts and not differs)
            # Some ops cannot be applied to the map of a single row.
            except (Mixed, ValueError, IndexError, tf.errors.InvalidArgumentError):
                blamed = op
        if blamed is not None:
            mixed.update((output.name, blamed) for output in op.outputs)
            continue
        for output, value in zip(op.outputs, mapped, strict=False):
            maps[output.name] = value
            if differs:
                unlike.add(output.name)
    if tensor.name in mixed:
        raise Mixed(mixed[tensor.name])
    return maps[tensor.name]


def _output_maps(op: Any, operands: Mapping[int, np.ndarray], size: int, *, counts: bool) -> list[np.ndarray]:
    """Position maps of an op's outputs; `counts` permits ops that count over all positions (EVERYWHERE)."""
    if op.type not in _COUNTING:
        return _rearranged(op, operands)
    if not counts:
        raise Mixed(op)
    return [_counted(op, operands, size)]


def _distinguishes_positions(op: Any, maps: Mapping[int, np.ndarray]) -> bool:
    """True if an op treats the values of different positions differently."""
    if op.type not in _ELEMENTWISE:
        return False
    rank = max((value.ndim for value in maps.values()), default=0)
    for index, tensor in enumerate(op.inputs):
        shape = static_shape(tensor)
        if index in maps or shape == ():
            continue
        if shape is None:
            return True
        value = tf.get_static_value(tensor)
        for axis, extent in enumerate(shape, start=rank - len(shape)):
            if extent == 1 or axis < 0:
                continue
            along = [m for m in maps.values() if m.ndim == rank and m.shape[axis] > 1]
            if not any((np.diff(m, axis=axis) != 0).any() for m in along):
                continue
            own = axis - rank + len(shape)
            if value is None or (np.diff(np.asarray(value), axis=own) != 0).any():
                return True
    return False


def _counted(op: Any, maps: Mapping[int, np.ndarray], size: int) -> np.ndarray:
    """The map EVERYWHERE of an op that counts each position of a row once."""
    extents = _extents(op)
    counted = maps.get(0)
    if counted is None or 2 in maps or not extents or len(counted) > 1:
        raise Mixed(op)
    if op.type in _BINCOUNTS:
        # Weights would come from another input, or make the positions differ.
        weighed = op.inputs[2].shape.num_elements() != 0
        if weighed or counted.ndim != 2 or not np.array_equal(np.sort(counted[0]), np.arange(size)):
            raise Mixed(op)
        return np.full([1, *extents], EVERYWHERE)
    axes = np.atleast_1d(_constant(op, 1)) % counted.ndim
    if not _is_indicator(op.inputs[0]) or 0 in axes:
        raise Mixed(op)
    kept = [axis for axis in range(counted.ndim) if axis not in axes]
    cells = np.transpose(counted, [*kept, *axes]).reshape(int(np.prod([counted.shape[a] for a in kept])), -1)
    if not (np.sort(cells, axis=1) == np.arange(size)).all():
        raise Mixed(op)
    return np.full([1, *extents], EVERYWHERE)


def _is_indicator(tensor: Any) -> bool:
    """True if all values are indicators: zeros and ones."""
    op = tensor.op
    while op.type in _STILL_INDICATORS and op.inputs[0].dtype != tf.bool:
        op = op.inputs[0].op
    if op.type == "OneHot":
        on, off = (tf.get_static_value(op.inputs[index]) for index in (2, 3))
        return on is not None and off is not None and (on, off) == (1, 0)
    return bool(op.type == "Cast" and op.inputs[0].dtype == tf.bool)


def _rearranged(op: Any, maps: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    """Position maps of the outputs of an op that rearranges values or works value by value."""
    kind = op.type
    first = maps.get(0)
    if kind in ("Reshape", "Squeeze", "ExpandDims") and first is not None:
        return [first.reshape(-1, *_extents(op))]
    if kind == "StridedSlice" and first is not None:
        begin, end, strides = (_constant(op, index) for index in (1, 2, 3))
        if not slice_spares_batch(op):
            raise Mixed(op)
        masks = {key: op.get_attr(key) for key in _MASKS}
        return [tf.strided_slice(first, begin, end, strides, **masks).numpy()]
    if kind == "Transpose" and first is not None:
        order = _constant(op, 1)
        if order[0] != 0:
            raise Mixed(op)
        return [np.transpose(first, order)]
    if kind in ("Split", "SplitV"):
        value, axis = (maps[1], _constant(op, 0)) if kind == "Split" else (maps[0], _constant(op, 2))
        _spare_rows(op, axis, value.ndim)
        if kind == "Split":
            return [np.asarray(part) for part in np.split(value, len(op.outputs), int(axis))]
        ends = np.cumsum([output.shape[int(axis)] for output in op.outputs])
        return [np.asarray(part) for part in np.split(value, ends[:-1], int(axis))]
    if kind == "Unpack":
        axis = op.get_attr("axis")
        _spare_rows(op, axis, maps[0].ndim)
        return [np.take(maps[0], index, axis) for index in range(len(op.outputs))]
    if kind in ("ConcatV2", "Pack"):
        count = len(op.inputs) - (kind == "ConcatV2")
        lead = next(iter(maps.values())).shape[0]
        parts = [maps.get(i, _nowhere(op.inputs[i], lead)) for i in range(count)]
        axis = int(_constant(op, count)) if kind == "ConcatV2" else op.get_attr("axis")
        _spare_rows(op, axis, parts[0].ndim + (kind == "Pack"))
        return [np.concatenate(parts, axis) if kind == "ConcatV2" else np.stack(parts, axis)]
    if kind == "GatherV2" and first is not None:
        axis = _constant(op, 2)
        _spare_rows(op, axis, first.ndim)
        if op.get_attr("batch_dims") or 1 in maps:
            raise Mixed(op)
        index = tf.get_static_value(op.inputs[1])
        if index is None:  # the index is unknown, but irrelevant if the whole axis comes from one position
            one = np.take(first, [0], int(axis))
            if (first != one).any() or op.inputs[1].shape.rank != 1:
                raise Mixed(op)
            return [np.broadcast_to(one, [len(one), *_extents(op)])]
        return [np.take(first, index, int(axis))]
    if kind in _PICKS and list(maps) == [1]:
        return [_with_axes_behind(op, maps[1])]
    if kind == "OneHot" and list(maps) == [0]:
        axis = op.get_attr("axis")
        classes = _extents(op)
        value = np.expand_dims(maps[0], axis if axis >= 0 else maps[0].ndim)
        return [np.broadcast_to(value, [len(value), *classes])]
    if kind == "BroadcastTo" and first is not None:
        return [np.broadcast_to(first, [len(first), *_extents(op)])]
    if kind == "IdentityN":
        lead = next(iter(maps.values())).shape[0]
        return [maps[i] if i in maps else _nowhere(op.inputs[i], lead) for i in range(len(op.inputs))]
    if kind not in _ELEMENTWISE:
        raise Mixed(op)
    return [_elementwise(op, list(maps.values()))]


_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def _elementwise(op: Any, maps: list[np.ndarray]) -> np.ndarray:
    """The map of an element-wise op, such as a lookup or comparison: all operands' positions must agree."""
    whole = np.broadcast_arrays(*maps)
    if any((other != whole[0]).any() for other in whole[1:]):
        raise Mixed(op)
    # `_extents` refuses a constant with more axes, which would add axes before the batch.
    return np.broadcast_to(whole[0], [whole[0].shape[0], *_extents(op)])


def _with_axes_behind(op: Any, ids: np.ndarray) -> np.ndarray:
    """The map of an embedding: each id is replaced by a row of a table."""
    extents = _extents(op)
    widened = ids
    while widened.ndim < 1 + len(extents):
        widened = widened[..., np.newaxis]
    return np.broadcast_to(widened, [widened.shape[0], *extents])


def _extents(op: Any) -> tuple[int, ...]:
    shape = static_shape(op.outputs[0])
    if not shape or shape[0] is not None or None in shape[1:]:
        raise Mixed(op)
    return tuple(extent or 0 for extent in shape[1:])


def _constant(op: Any, index: int) -> Any:
    value = tf.get_static_value(op.inputs[index])
    if value is None:
        raise Mixed(op)
    return value


def _spare_rows(op: Any, axis: Any, rank: int) -> None:
    if int(axis) % rank == 0:
        raise Mixed(op)


def _nowhere(tensor: Any, lead: int) -> np.ndarray:
    extents = (static_shape(tensor) or (None,))[1:]
    return np.full([lead, *(extent or 1 for extent in extents)], NOWHERE)
