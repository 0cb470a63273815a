"""Which position of a model input each value of an entry comes from: attributions go back there.

Maps are followed from the input through the ops, by what each op does to one row of the input: `[1, *shape]`,
or `[n, ...]` where the batch was flattened. A value is a position of the flattened input, or NOWHERE for a
constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.affine import slice_spares_batch
from transforms.models.trace import SHAPE_ONLY, TracedModel, static_shape

#: A value that comes from no position: a constant beside the input's values.
NOWHERE = -1
#: A value that comes from all positions alike: how often a token stands anywhere among them.
EVERYWHERE = -2
#: Ops that count over positions, whichever has what: multi-hot, count and tf-idf encodings.
_COUNTING = frozenset({"Bincount", "DenseBincount", "Max", "Sum"})
#: Ops that mix values of a row, even where they happen to keep its shape.
_MIXING = frozenset(
    {
        "All", "Any", "ArgMax", "ArgMin", "BatchMatMul", "BatchMatMulV2", "Bincount", "Cumprod", "Cumsum",
        "DenseBincount", "Einsum", "If", "MatMul", "Max", "Mean", "Min", "PartitionedCall", "Prod",
        "RaggedBincount", "ReduceJoin", "ReverseSequence", "ReverseV2", "Roll", "ScatterNd",
        "SparseBincount", "StatefulPartitionedCall", "StatelessIf", "StatelessWhile", "StringJoin",
        "StringNGrams", "StringSplitV2", "Sum", "TopKV2", "Unique", "UniqueV2", "UnsortedSegmentSum",
        "Where", "While",
    }
)  # fmt: skip


class Mixed(Exception):
    """An op mixes positions; its name is the message's."""

    def __init__(self, op: Any) -> None:
        self.op = op
        super().__init__(op.name)


def entry_positions(traced: TracedModel, tensor: Any, name: str) -> np.ndarray:
    """Positions of input `name` that the values of an entry come from: `position_map`, or EVERYWHERE.

    Raises:
      Mixed: A value comes from several positions that are not all alike to it.
    """
    try:
        return position_map(traced, tensor, name)
    except Mixed as error:
        listed = len(static_shape(traced.inputs[name]) or ()) == 2
        mask = tensor.op.type == "Cast" and tensor.op.inputs[0].dtype == tf.bool
        extents = (static_shape(tensor) or (1,))[1:]
        if error.op.type not in _COUNTING or not listed or mask or not extents or None in extents:
            raise
        return np.full([1, *(extent or 0 for extent in extents)], EVERYWHERE)


def position_map(traced: TracedModel, tensor: Any, name: str) -> np.ndarray:
    """Positions of input `name` that the values of a tensor come from.

    Args:
      traced: The model.
      tensor: Depends on this input alone.
      name: The input.
    Returns:
      Positions of the flattened input, `[rows of the tensor for a row of the input, *shape]`.
    Raises:
      Mixed: A value comes from several positions, or from which one cannot be told.
    """
    source = traced.inputs[name]
    shape = static_shape(source)
    assert shape is not None
    size = int(np.prod([extent or 1 for extent in shape[1:]], dtype=np.int64))
    extents = (static_shape(tensor) or (None,))[1:]
    if size == 1 and None not in extents:
        return np.zeros([1, *(extent or 0 for extent in extents)], np.int64)
    maps = {source.name: np.arange(size).reshape(1, *shape[1:])}
    needed = traced.ancestors([tensor], frozenset([source.name]))
    for op in traced.graph.get_operations():
        if op.name not in needed or op.type in SHAPE_ONLY:
            continue
        operands = {index: maps[t.name] for index, t in enumerate(op.inputs) if t.name in maps}
        if not operands:
            continue
        if op.type in _MIXING:
            raise Mixed(op)
        try:
            found = _rearranged(op, operands)
        except (ValueError, IndexError, tf.errors.InvalidArgumentError) as error:
            raise Mixed(op) from error  # what it does to a single row cannot be told
        for output, value in zip(op.outputs, found, strict=False):
            maps[output.name] = value
    return maps[tensor.name]


def _rearranged(op: Any, maps: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    """Maps of an op's outputs."""
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
        if op.get_attr("batch_dims"):
            raise Mixed(op)
        return [np.take(first, _constant(op, 1), int(axis))]
    return [_elementwise(op, list(maps.values()))]


_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def _elementwise(op: Any, maps: list[np.ndarray]) -> np.ndarray:
    """Value by value, perhaps with axes behind: a lookup, a hash, a comparison, one-hot, an embedding."""
    whole = np.broadcast_arrays(*maps)
    if any((other != whole[0]).any() for other in whole[1:]):
        raise Mixed(op)
    extents = _extents(op)
    found = whole[0]
    while found.ndim < 1 + len(extents):
        found = found[..., np.newaxis]
    return np.broadcast_to(found, [found.shape[0], *extents])


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
