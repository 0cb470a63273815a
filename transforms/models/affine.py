"""Which ops of a TensorFlow graph are affine in what varies and keep the batch as the leading axis.

Along a straight path an affine map stays straight, so that its ends are all one has to evaluate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.trace import static_shape

#: Affine in any number of varying operands.
_SUMS = frozenset({"Add", "AddV2", "AddN", "Sub", "BiasAdd"})
#: Affine in one varying operand, element by element or by rearranging; the others are constant.
_UNARY = frozenset({"Identity", "Neg", "Snapshot"})
#: Linear in their first operand, which is the one that varies.
_FIRST = frozenset({"RealDiv", "Div"})
#: The contractions: they cost the multiplications that skipping a prefix saves.
CONTRACTIONS = frozenset(
    {"MatMul", "BatchMatMul", "BatchMatMulV2", "Conv2D", "Conv3D", "DepthwiseConv2dNative"}
)
_POOLS = frozenset({"AvgPool", "AvgPool3D"})


def is_affine(op: Any, varying: Callable[[Any], bool]) -> bool:
    """Whether the op's output is an affine function of its varying operands, row by row.

    Args:
      op: An op at least one of whose operands varies.
      varying: Whether a tensor depends on the model's inputs.
    """
    kind = op.type
    operands = [position for position, tensor in enumerate(op.inputs) if varying(tensor)]
    only_first = operands == [0]
    if any(not op.inputs[position].dtype.is_floating for position in operands):
        return False
    if any(not tensor.dtype.is_floating for tensor in op.outputs):
        return False
    # Where rows share a leading axis of one, an operand may be broadcast along the batch; refuse that.
    if kind in _SUMS or kind == "Mul":
        same_rank = all(op.inputs[p].shape.rank == op.outputs[0].shape.rank for p in operands)
        return same_rank and (kind in _SUMS or len(operands) == 1)
    if kind in _UNARY or kind == "Cast":
        return only_first
    if kind in _FIRST:
        return only_first and op.inputs[0].shape.rank == op.outputs[0].shape.rank
    if kind in ("MatMul", "BatchMatMul", "BatchMatMulV2"):
        flipped = kind == "MatMul" and bool(op.get_attr("transpose_a"))
        return only_first and not flipped and op.inputs[0].shape.rank == op.outputs[0].shape.rank
    if kind in CONTRACTIONS or kind in _POOLS:
        return only_first
    if kind in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"):
        return only_first and not op.get_attr("is_training")
    if kind == "Reshape":
        return only_first and _leads_with_batch(op.outputs[0])
    if kind in ("Squeeze", "ExpandDims", "Pad", "PadV2", "MirrorPad", "ResizeBilinear", "ResizeNearestNeighbor"):
        return only_first and _leads_with_batch(op.outputs[0])
    if kind in ("Sum", "Mean"):
        return only_first and _axes_spare_batch(op.inputs[1], op.inputs[0])
    if kind == "ConcatV2":
        return len(op.inputs) - 1 not in operands and _axes_spare_batch(op.inputs[-1], op.inputs[0])
    if kind == "Pack":
        return op.get_attr("axis") not in (0, -op.outputs[0].shape.rank if op.outputs[0].shape.rank else 0)
    if kind == "Transpose":
        order = _constant(op.inputs[1])
        return only_first and order is not None and len(order) > 0 and order[0] == 0
    if kind == "StridedSlice":
        return only_first and _slice_spares_batch(op)
    if kind == "GatherV2":
        return only_first and _axes_spare_batch(op.inputs[2], op.inputs[0]) and op.get_attr("batch_dims") == 0
    return False


def multiplications(op: Any) -> int:
    """Multiplications that a contraction spends on a row; 0 for every other op."""
    if op.type not in CONTRACTIONS:
        return 0
    kernel, out = static_shape(op.inputs[1]), static_shape(op.outputs[0])
    if kernel is None or out is None or any(extent is None for extent in (*kernel, *out[1:])):
        return 0
    weights = int(np.prod([extent or 1 for extent in kernel]))
    if op.type in ("MatMul", "BatchMatMul", "BatchMatMulV2"):
        return weights * int(np.prod([extent or 1 for extent in out[1:-1]]))
    return weights * int(np.prod([extent or 1 for extent in out[1:-1]]))


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


def _slice_spares_batch(op: Any) -> bool:
    # x[:, a:b, ...]: the first axis whole, by the begin and end masks or an ellipsis that covers it.
    if op.get_attr("ellipsis_mask") & 1:
        return _leads_with_batch(op.outputs[0])
    whole = op.get_attr("begin_mask") & 1 and op.get_attr("end_mask") & 1
    kept = not op.get_attr("shrink_axis_mask") & 1 and not op.get_attr("new_axis_mask") & 1
    strides = _constant(op.inputs[3])
    return bool(whole and kept and strides is not None and strides[0] == 1)
