"""Derivatives of the curves of a DeepLIFT walk with respect to their starts; called while tracing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

from transforms.models.graphs.deeplift.ops import IDENTITIES, is_float
from transforms.models.graphs.deeplift.plan import Step


def slope(step: Step, known: Mapping[str, Any]) -> Any:
    """The derivative of a curve's end with respect to its start; 0 where it does not exist.

    Args:
      step: A step of the rule `curves`.
      known: Values of the model's tensors, by name.
    """
    (start,), end = step.operands.values(), step.outputs[0]
    own = tf.identity(known[start.name])
    zeros = tf.zeros_like(own, tf.float32)
    if not (is_float(start.dtype) and is_float(end.dtype)):
        return zeros
    if len(step.inner) == 1 and step.op.type in _DERIVATIVES:
        return _DERIVATIVES[step.op.type](tf.cast(known[end.name], tf.float32))
    values = {start.name: own}
    for op in step.inner:
        given = [values.get(tensor.name, known.get(tensor.name)) for tensor in op.inputs]
        if op.type == "IdentityN":
            outputs = given
        else:
            attributes = {key: value for key, value in op.node_def.attr.items() if not key.startswith("_")}
            kind = "Identity" if op.type in IDENTITIES else op.type
            if kind != op.type:
                attributes = {"T": AttrValue(type=op.outputs[0].dtype.as_datatype_enum)}
            dtypes = [output.dtype for output in op.outputs]
            made = tf.compat.v1.get_default_graph().create_op(kind, given, dtypes, attrs=attributes)
            outputs = made.outputs
        values.update(
            (t.name, value) for t, value in zip(op.outputs, outputs, strict=True) if value is not None
        )
    try:
        gradient = tf.gradients(values[end.name], own, unconnected_gradients="zero")[0]
    except LookupError:  # TensorFlow has no gradient, so the rule uses the difference quotient
        return zeros
    gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
    return tf.where(tf.math.is_finite(gradient), gradient, zeros)


#: Derivatives of the commonest curves, as functions of the curve's value.
_DERIVATIVES: dict[str, Callable[[Any], Any]] = {
    "Relu": lambda y: tf.cast(y > 0, tf.float32),
    "Sigmoid": lambda y: y * (1.0 - y),
    "Tanh": lambda y: 1.0 - y * y,
}
