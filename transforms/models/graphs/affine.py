"""Recognises ops that are affine in their varying operands and keep the batch as leading axis.

An affine op maps a straight path to a straight path, so that only the path's two ends need to be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.graphs.trace import STOPS, static_shape

#: Affine in any number of varying operands.
_SUMS = frozenset({"Add", "AddV2", "AddN", "Sub", "BiasAdd"})
#: Linear in their only operand.
_UNARY = frozenset({"Identity", "Neg", "Snapshot"}) | STOPS
#: Linear in their first operand, if the second operand does not vary.
_FIRST = frozenset({"RealDiv", "Div"})
_MATMULS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2"})
#: Matrix products and convolutions: skipping an affine prefix saves their multiplications.
CONTRACTIONS = _MATMULS | {"Conv2D", "Conv3D", "DepthwiseConv2dNative"}
_POOLS = frozenset({"AvgPool", "AvgPool3D"})
_BATCH_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_PADS = frozenset({"Pad", "PadV2", "MirrorPad"})
_RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims", "ResizeBilinear", "ResizeNearestNeighbor"})


def is_affine(op: Any, varying: Callable[[Any], bool]) -> bool:
    """True if the op's first output is an affine function of its varying operands, row by row.

    Args:
      op: An op with at least one varying operand; the other operands are equal for all rows.
      varying: Tells whether a tensor depends on the model's inputs.
    """
    kind = op.type
    operands = [position for position, tensor in enumerate(op.inputs) if varying(tensor)]
    if any(not op.inputs[position].dtype.is_floating for position in operands):
        return False
    if any(not tensor.dtype.is_floating for tensor in op.outputs):
        return False
    if kind in _SUMS or kind == "Mul":
        return _keeps_rank(op, operands) and (kind in _SUMS or len(operands) == 1)
    if kind == "ConcatV2":
        return len(op.inputs) - 1 not in operands and _axes_spare_batch(op.inputs[-1], op.inputs[0])
    if kind == "Pack":
        rank = op.outputs[0].shape.rank
        return rank is not None and op.get_attr("axis") % rank != 0
    return operands == [0] and _is_affine_in_first(op)


def _is_affine_in_first(op: Any) -> bool:
    kind, out = op.type, op.outputs[0]
    if kind in _UNARY:
        return True
    if kind == "Cast":
        # Rounding to half precision is too coarse to count as affine on an integration path.
        return bool(out.dtype.size >= min(op.inputs[0].dtype.size, 4))
    if kind in _FIRST:
        return _keeps_rank(op, [0])
    if kind in _MATMULS:
        return _rows_meet_weights(op)
    if kind in CONTRACTIONS or kind in _POOLS:
        return True
    if kind in _BATCH_NORMS:
        return not op.get_attr("is_training")
    if kind in _RESHAPES:
        return _leads_with_batch(out)
    if kind in _PADS:
        paddings = _constant(op.inputs[1])
        return paddings is not None and not np.any(paddings[0])
    if kind in ("Sum", "Mean"):
        return _axes_spare_batch(op.inputs[1], op.inputs[0])
    if kind == "Transpose":
        order = _constant(op.inputs[1])
        return order is not None and len(order) > 0 and order[0] == 0
    if kind == "StridedSlice":
        return slice_spares_batch(op)
    if kind == "GatherV2":
        return op.get_attr("batch_dims") == 0 and _axes_spare_batch(op.inputs[2], op.inputs[0])
    return False


def multiplications(op: Any) -> int:
    """The number of multiplications that a contraction takes per row; 0 for every other op."""
    if op.type not in CONTRACTIONS:
        return 0
    kernel, out = static_shape(op.inputs[1]), static_shape(op.outputs[0])
    if kernel is None or out is None or any(extent is None for extent in (*kernel, *out[1:])):
        return 0
    weights = int(np.prod([extent or 1 for extent in kernel]))
    if op.type == "Conv3D":
        places = out[1:-1] if op.get_attr("data_format") == b"NDHWC" else out[2:]
    elif op.type in _MATMULS or op.get_attr("data_format") == b"NHWC":
        places = out[1:-1]
    else:
        places = out[2:]
    return weights * int(np.prod([extent or 1 for extent in places]))


def slice_spares_batch(op: Any) -> bool:
    """True if a StridedSlice keeps the whole first axis, by its masks or by an ellipsis over that axis."""
    strides = _constant(op.inputs[3])
    rank = op.inputs[0].shape.rank
    if strides is None or rank is None:
        return False
    added, shrunk = op.get_attr("new_axis_mask"), op.get_attr("shrink_axis_mask")
    if op.get_attr("ellipsis_mask") & 1:
        axes = len(strides) - 1 - bin(added).count("1")
        return axes < rank and _leads_with_batch(op.outputs[0])
    whole = op.get_attr("begin_mask") & 1 and op.get_attr("end_mask") & 1
    return bool(whole and not (added | shrunk) & 1 and strides[0] == 1)


def _keeps_rank(op: Any, operands: list[int]) -> bool:
    """True if no varying operand is broadcast along the batch and no constant differs between rows."""
    rank = op.outputs[0].shape.rank
    if rank is None:
        return False
    for position, tensor in enumerate(op.inputs):
        shape = static_shape(tensor)
        if shape is None or (position in operands and len(shape) != rank):
            return False
        if position not in operands and len(shape) == rank and rank and shape[0] not in (1, None):
            return False
    return True


def _rows_meet_weights(op: Any) -> bool:
    """True if a matrix product multiplies each row by the same weights."""
    rows, weights = static_shape(op.inputs[0]), static_shape(op.inputs[1])
    if rows is None or weights is None or op.outputs[0].shape.rank != len(rows) or len(rows) < 2:
        return False
    flipped = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    if len(rows) == 2:
        return not flipped
    return len(weights) < len(rows) or weights[0] == 1


def _constant(tensor: Any) -> Any:
    return tf.get_static_value(tensor)


def _leads_with_batch(tensor: Any) -> bool:
    shape = static_shape(tensor)
    return shape is not None and len(shape) > 0 and shape[0] is None and all(e is not None for e in shape[1:])


def _axes_spare_batch(axes: Any, operand: Any) -> bool:
    value = _constant(axes)
    rank = operand.shape.rank
    if value is None or rank is None:
        return False
    return all(int(axis) % rank != 0 for axis in np.atleast_1d(value))
