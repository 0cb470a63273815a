"""How a cut's tensors grow with the number of rows, measured on a few rows, and how much memory they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from transforms.errors import UserError
from transforms.models.graphs.cut.entries import Cut
from transforms.models.graphs.tensors import row_bytes
from transforms.models.graphs.trace import LOOPS, TracedModel, static_shape


@dataclass(frozen=True)
class CutGrowth:
    """Growth of a cut's tensors with the number of rows, measured with two and three rows.

    Args:
      lead: Leading extent of an entry or frontier tensor per row of the inputs, by the tensor's name.
      shape_lines: Base and slope of each shape-only tensor of the cut: its value is base + slope · rows.
    """

    lead: Mapping[str, int]
    shape_lines: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, traced: TracedModel, cut: Cut, example: Mapping[str, np.ndarray]) -> CutGrowth:
        """Measures the growth with copies of one row of each model input, `[1, *shape]`.

        Raises:
          UserError: The batch is not the leading axis of a tensor.
        """
        watched = [entry.tensor for entry in cut.entries] + list(cut.frontier)

        @tf.function(autograph=False)
        def shapes(inputs: Any) -> Any:
            feeds = {traced.inputs[name].name: value for name, value in inputs.items()}
            built = traced.replay(feeds, [*watched, *cut.shapes])
            return [tf.shape(value) for value in built[: len(watched)]], built[len(watched) :]

        def run(rows: int) -> Any:
            copies = {name: np.repeat(value[:1], rows, axis=0) for name, value in example.items()}
            return shapes({k: tf.constant(v, traced.inputs[k].dtype) for k, v in copies.items()})

        (leads2, values2), (leads3, values3) = run(2), run(3)
        lines = []
        for two, three in zip(values2, values3, strict=True):
            slope = three.numpy() - two.numpy()
            lines.append((two.numpy() - 2 * slope, slope))
        lead: dict[str, int] = {}
        for tensor, two, three in zip(watched, leads2, leads3, strict=True):
            per_row = int(three[0]) - int(two[0]) if two.shape[0] else 0
            if per_row < 1 or int(two[0]) != 2 * per_row:
                raise _mixes_rows(tensor)
            lead[tensor.name] = per_row
        for entry in cut.entries:
            if entry.positions.shape[0] != lead[entry.tensor.name]:
                raise _mixes_rows(entry.tensor)
        return cls(lead, tuple(lines))

    def shape_values(self, cut: Cut, rows: Any) -> list[Any]:
        """Values of the cut's shape-only tensors for a given number of rows; called while tracing."""
        return [
            tf.constant(base, tensor.dtype) + tf.constant(slope, tensor.dtype) * tf.cast(rows, tensor.dtype)
            for tensor, (base, slope) in zip(cut.shapes, self.shape_lines, strict=True)
        ]


def activation_bytes(traced: TracedModel, cut: Cut) -> int:
    """Memory in bytes of one evaluation after the frontier, with its gradient, from static shapes."""
    fed = cut.fed
    ops = traced.ancestors(cut.scores, fed).values()
    total = sum(row_bytes(tensor) for tensor in cut.frontier) + _float_bytes(ops)
    total += sum(_loop_bytes(traced, op) for op in ops if op.type in LOOPS)
    return max(1, 2 * total)  # the backward pass holds about as much as the forward pass


def forward_bytes(traced: TracedModel, scores: Sequence[Any]) -> int:
    """Peak memory of one evaluation in bytes, inputs included, from static shapes."""
    ops = traced.ancestors(scores).values()
    inside = {tensor.op.name for tensor in traced.inputs.values()}
    total = sum(row_bytes(tensor) for tensor in traced.inputs.values())
    total += _float_bytes(op for op in ops if op.name not in inside)
    total += sum(_loop_bytes(traced, op) for op in ops if op.type in LOOPS)
    return max(1, total)


def _float_bytes(ops: Iterable[Any]) -> int:
    total = 0
    for op in ops:
        for tensor in op.outputs:
            shape = static_shape(tensor)
            if tensor.dtype.is_floating and shape and shape[0] is None:
                total += row_bytes(tensor)
    return total


def _loop_bytes(traced: TracedModel, loop: Any) -> int:
    """Bytes that all steps of a loop keep for the backward pass; the length of its lists gives the steps."""
    steps = 1
    for operand in loop.inputs:
        if operand.op.type == "TensorListFromTensor":
            steps = max(steps, (static_shape(operand.op.inputs[0]) or (None,))[0] or 1)
        elif operand.op.type == "TensorListReserve":
            steps = max(steps, int(tf.get_static_value(operand.op.inputs[1]) or 1))
    library = {function.signature.name: function for function in traced.graph_def().library.function}
    with traced.graph.as_default():  # the body may call functions that this graph holds
        body = function_def_to_graph(
            library[loop.get_attr("body").name], input_shapes=[tensor.shape for tensor in loop.inputs]
        )
    return steps * _float_bytes(body.get_operations())


def _mixes_rows(tensor: Any) -> UserError:
    return UserError(
        f"tensor {tensor.name} of shape {tensor.shape} does not keep the rows of a batch one after another",
        "model",
    )
