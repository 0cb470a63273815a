"""Loops of a traced graph written out, step by step: DeepLIFT's rules walk along single operations.

Recurrent layers run `While` loops over lists of tensors. Where the number of steps does not depend on the
rows, the loop is what its body is, so many times, and a list is its items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from transforms.errors import UserError
from transforms.models.rescale_ops import ORDERS
from transforms.models.trace import BRANCHES, LOOPS, TracedModel, graph_name

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
#: A loop of more steps than this would take minutes to write out.
_MOST_STEPS = 2048

Unhandled = Callable[[Any, str], UserError]


class _List(list[Any]):
    """The items of a TensorList; None where nothing has been written yet."""


def unrolled(
    traced: TracedModel, fetches: Sequence[Any], refuse: Unhandled
) -> tuple[TracedModel, tuple[Any, ...]]:
    """The same model with its loops written out.

    Args:
      traced: A model whose function calls are written out.
      fetches: Tensors of it that are wanted.
      refuse: Makes the error about an op, from the op and the reason.
    Returns:
      The model, and the fetches in its graph; both as they are where there is no loop and nothing is sorted.
    Raises:
      UserError: A loop whose number of steps depends on the rows, or a branch that does.
    """
    needed = traced.ancestors(fetches)
    # Sorting counts along an axis: written out, the counts are constants.
    if not any(op.type in LOOPS | ORDERS for op in needed.values()):
        return traced, tuple(fetches)
    specs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=graph_name(name, number))
        for number, (name, tensor) in enumerate(traced.inputs.items())
    }
    placeholders: dict[str, Any] = {}
    results: list[Any] = []

    @tf.function(input_signature=[specs], autograph=False)
    def call(inputs: Mapping[str, Any]) -> Any:
        placeholders.update(inputs)
        graph = tf.compat.v1.get_default_graph()
        values = {traced.inputs[name].name: value for name, value in inputs.items()}
        values.update((name, graph.capture(outer)) for name, outer in traced.captures.items())
        writer = _Writer(traced, graph, refuse)
        writer.run([op for op in traced.graph.get_operations() if op.name in needed], values)
        results.extend(tf.identity(values[tensor.name]) for tensor in fetches)
        for result, tensor in zip(results, fetches, strict=True):
            result.set_shape(tensor.shape)
        return list(results)

    function = call.get_concrete_function()
    flat = TracedModel.of(function, placeholders, results, opaque=traced.opaque)
    return replace(flat, build=traced.build, source=traced), tuple(results)


class _Writer:
    """Copies ops into a graph one by one; knows the items of lists and the values of whole numbers."""

    def __init__(self, traced: TracedModel, graph: Any, refuse: Unhandled) -> None:
        self._outer = traced.graph
        self._library = {f.signature.name: f for f in traced.graph_def().library.function}
        self._graph = graph
        self._refuse = refuse
        self._known: dict[str, Any] = {}
        self._bodies: dict[str, Any] = {}

    def run(self, ops: Sequence[Any], values: dict[str, Any]) -> None:
        """Copies ops in their order; `values` grows by what the names of their outputs stand for."""
        for op in ops:
            if op.type == "Placeholder" and op.outputs[0].name in values:
                continue
            given = [values[tensor.name] for tensor in op.inputs]
            found: Sequence[Any]
            if op.type in LOOPS:
                found = self._loop(op, given)
            elif op.type in _CALLS:
                found = self._call(op.get_attr("f").name, given)
            elif op.type in BRANCHES:
                found = self._branch(op, given)
            elif op.type.startswith("TensorList"):
                found = [self._list_op(op, given)]
            else:
                found = self._copy(op, given)
            values.update((output.name, value) for output, value in zip(op.outputs, found, strict=True))

    def _copy(self, op: Any, given: Sequence[Any]) -> Sequence[Any]:
        if any(isinstance(value, _List) for value in given):
            if op.type in ("Identity", "StopGradient"):
                return given
            raise self._refuse(op, "handles a list of tensors in a way that is not known")
        attributes = {
            key: value for key, value in op.node_def.attr.items() if key not in ("_class", "_output_shapes")
        }
        made = self._graph.create_op(
            op.type,
            list(given),
            [output.dtype.base_dtype for output in op.outputs],
            name=op.name.rpartition("/")[2] or op.name,
            attrs=attributes,
            op_def=op.op_def,
        )
        outputs = list(made.outputs)
        for new, old in zip(outputs, op.outputs, strict=True):
            if new.dtype not in (tf.resource, tf.variant):
                new.set_shape(old.shape if op.graph is self._outer else new.shape)
        if len(outputs) == 1 and outputs[0].dtype in (tf.int32, tf.int64, tf.bool):
            value = self.known(outputs[0])
            if value is not None and value.ndim == 0:
                return [self._constant(value, outputs[0].dtype)]
        return outputs

    def _constant(self, value: np.ndarray, dtype: Any) -> Any:
        made = tf.constant(value, dtype)
        self._known[made.name] = value
        return made

    def _body(self, name: str, given: Sequence[Any]) -> Any:
        if name not in self._bodies:
            shapes = [None if isinstance(v, _List) else v.shape for v in given]
            with self._outer.as_default():  # the body may name functions that this graph knows
                self._bodies[name] = function_def_to_graph(self._library[name], input_shapes=shapes)
        return self._bodies[name]

    def _call(self, name: str, given: Sequence[Any]) -> list[Any]:
        body = self._body(name, given)
        values = {inner.name: value for inner, value in zip(body.inputs, given, strict=True)}
        self.run(body.get_operations(), values)
        return [values[output.name] for output in body.outputs]

    def _loop(self, op: Any, given: Sequence[Any]) -> list[Any]:
        state = list(given)
        for _ in range(_MOST_STEPS):
            (going,) = self._call(op.get_attr("cond").name, state)
            known = self.known(going)
            if known is None:
                raise self._refuse(op, "is a loop whose number of steps depends on the rows")
            if not known:
                return state
            state = self._call(op.get_attr("body").name, state)
        raise self._refuse(op, f"is a loop of more than {_MOST_STEPS} steps")

    def _branch(self, op: Any, given: Sequence[Any]) -> list[Any]:
        chosen = self.known(given[0])
        if chosen is None:
            raise self._refuse(op, "is a branch that depends on the rows")
        if op.type in ("If", "StatelessIf"):
            return self._call(op.get_attr("then_branch" if chosen else "else_branch").name, given[1:])
        branches = op.get_attr("branches")
        return self._call(branches[min(int(chosen), len(branches) - 1)].name, given[1:])

    def _list_op(self, op: Any, given: Sequence[Any]) -> Any:
        kind = op.type.removeprefix("TensorList")
        if kind == "FromTensor":
            length = given[0].shape[0]
            if length is None:
                raise self._refuse(op, "walks along an axis of unknown length")
            return _List(tf.unstack(given[0], num=length, axis=0))
        if kind == "Reserve":
            return _List([None] * int(self._number(op, given[1])))
        items = given[0]
        if kind == "GetItem":
            return items[self._number(op, given[1])]
        if kind == "SetItem":
            changed = _List(items)
            changed[self._number(op, given[1])] = given[2]
            return changed
        if kind == "Stack" and all(item is not None for item in items):
            return tf.stack(list(items), axis=0)
        raise self._refuse(op, "handles a list of tensors in a way that is not known")

    def _number(self, op: Any, tensor: Any) -> int:
        value = self.known(tensor)
        if value is None:
            raise self._refuse(op, "picks an item by a number that depends on the rows")
        return int(value)

    # -- whole numbers that do not depend on the rows --------------------------------------------------------

    def known(self, tensor: Any) -> Any:
        """The value of a whole-number tensor, or None where it depends on the rows or cannot be told."""
        if tensor.name not in self._known:
            self._known[tensor.name] = self._work_out(tensor)
        return self._known[tensor.name]

    def _work_out(self, tensor: Any) -> Any:
        value = tf.get_static_value(tensor)
        if value is not None:
            return np.asarray(value)
        op = tensor.op
        if op.type == "StridedSlice" and op.inputs[0].op.type == "Shape":
            return self._extent(op)
        rule = _WHOLE.get(op.type)
        if rule is None:
            return None
        given = [self.known(operand) for operand in op.inputs]
        if any(value is None for value in given):
            return None
        return np.asarray(rule(*given))

    def _extent(self, op: Any) -> Any:
        """One static extent of a shape: how long a sequence is."""
        begin = self.known(op.inputs[1])
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
