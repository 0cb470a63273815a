"""Splits grouped convolutions into one convolution per group, on machines without kernels for them.

In a grouped convolution, each filter sees only some of the channels. Its forward kernel runs on every
processor. Two other kernels need oneDNN: its gradient, and the kernel into which TensorFlow's optimiser fuses
the convolution and a following bias. oneDNN is off by default on processors without AVX-512, and there both
kernels fail at run time.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.util import _pywrap_util_port

from transforms.models.graphs.rewrites.inline import rebuilt
from transforms.models.graphs.trace import TracedModel, static_shape


def ungrouped(traced: TracedModel) -> TracedModel:
    """Splits a model's grouped convolutions if this machine lacks kernels for them.

    Cost: None if nothing is split; otherwise one kernel call per group.
    """
    if _pywrap_util_port.IsMklEnabled() or tf.config.list_physical_devices("GPU"):
        return traced
    groups = {op.name: found for op in traced.graph.get_operations() if (found := _groups(op)) > 1}
    if not groups:
        return traced
    definition = tf.compat.v1.GraphDef()
    definition.versions.CopyFrom(traced.graph_def().versions)
    definition.library.CopyFrom(traced.graph_def().library)
    for node in traced.graph_def().node:
        definition.node.extend(_apart(node, groups[node.name]) if node.name in groups else [node])
    return rebuilt(traced, definition, [tensor.name for tensor in traced.outputs])


def _groups(op: Any) -> int:
    if op.type != "Conv2D":
        return 1
    values, filters = (static_shape(tensor) for tensor in op.inputs)
    if values is None or filters is None:
        return 1
    channels, seen = values[_axis(op.node_def)], filters[2]
    return 1 if channels is None or not seen else channels // seen


def _axis(node: Any) -> int:
    """The axis of the channels."""
    return 1 if node.attr["data_format"].s == b"NCHW" else 3


def _apart(node: Any, groups: int) -> list[Any]:
    """Nodes that split the channels, convolve each group and concatenate under the convolution's name."""
    dtype = node.attr["T"]
    axis, out = _constant(f"{node.name}/axis", _axis(node)), _constant(f"{node.name}/filters_axis", 3)
    made = [axis, out]
    for name, along, operand in (("values", axis, node.input[0]), ("filters", out, node.input[1])):
        split = tf.compat.v1.NodeDef(name=f"{node.name}/{name}", op="Split", input=[along.name, operand])
        split.attr["T"].CopyFrom(dtype)
        split.attr["num_split"].i = groups
        made.append(split)
    parts = []
    for number in range(groups):
        part = tf.compat.v1.NodeDef()
        part.CopyFrom(node)
        part.attr.pop("_output_shapes", None)
        part.name = f"{node.name}/group_{number}"
        part.input[:2] = [f"{node.name}/{name}:{number}" for name in ("values", "filters")]
        parts.append(part)
    whole = tf.compat.v1.NodeDef(name=node.name, op="ConcatV2", input=[*(p.name for p in parts), axis.name])
    whole.attr["T"].CopyFrom(dtype)
    whole.attr["Tidx"].type = types_pb2.DT_INT32
    whole.attr["N"].i = groups
    return [*made, *parts, whole]


def _constant(name: str, value: int) -> Any:
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = types_pb2.DT_INT32
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.int32))
    return node
