"""Converts a traced graph's loops to a form that DeepLIFT's rules can walk.

Recurrent layers run `While` loops over lists of tensors. A loop that does no more than count and read and
write lists becomes a single call (see `loops.py`). Any other loop is unrolled: its body is copied once per
step, and each item of a list becomes a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from transforms.errors import UserError
from transforms.models.graphs.constant_integers import apply
from transforms.models.graphs.deeplift.loops import Scan
from transforms.models.graphs.deeplift.ops import ORDERS
from transforms.models.graphs.deeplift.scanned_loops import Loop, StepList, scanned
from transforms.models.graphs.trace import BRANCHES, LOOPS, TracedModel, graph_name

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
#: Most steps of a loop: unrolling more would take minutes.
_MOST_STEPS = 2048

Unhandled = Callable[[Any, str], UserError]


class _List:
    """A TensorList: its items (None for those not yet written), or all of them in one tensor."""

    def __init__(self, items: Sequence[Any] | None = None, whole: Any = None) -> None:
        self.whole = whole
        self._items = None if items is None else list(items)

    def __len__(self) -> int:
        return int(self.whole.shape[0]) if self._items is None else len(self._items)

    @property
    def items(self) -> list[Any]:
        """The items, one by one."""
        if self._items is None:
            self._items = list(tf.unstack(self.whole, num=len(self), axis=0))
        return self._items

    @property
    def stacked(self) -> Any:
        """The items in one tensor, once all have been written."""
        return tf.stack(self.items, axis=0) if self.whole is None else self.whole

    @property
    def empty(self) -> bool:
        """True if no item has been written yet."""
        return self._items is not None and all(item is None for item in self._items)

    @property
    def full(self) -> bool:
        """True if all items have been written."""
        return self._items is None or all(item is not None for item in self._items)


def unrolled(
    traced: TracedModel, fetches: Sequence[Any], refuse: Unhandled
) -> tuple[TracedModel, tuple[Any, ...]]:
    """Converts a model's loops to single calls, or else unrolls them.

    Args:
      traced: A model with inlined function calls.
      fetches: The tensors of the model that are needed.
      refuse: Makes the error about an op, from the op and the reason.
    Returns:
      The model, and the fetches in its graph; both are unchanged if the model has no loop and no TopK.
    Raises:
      UserError: A branch, or a loop's number of steps, depends on the rows.
    """
    needed = traced.ancestors(fetches)
    # TopK takes the number of values to return as an operand, which copying turns into a constant.
    if not any(op.type in LOOPS | ORDERS for op in needed.values()):
        return traced, tuple(fetches)
    specs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=graph_name(name, number))
        for number, (name, tensor) in enumerate(traced.inputs.items())
    }
    placeholders: dict[str, Any] = {}
    results: list[Any] = []
    scans: dict[str, Scan] = {}

    @tf.function(input_signature=[specs], autograph=False)
    def call(inputs: Mapping[str, Any]) -> Any:
        placeholders.update(inputs)
        graph = tf.compat.v1.get_default_graph()
        values = {traced.inputs[name].name: value for name, value in inputs.items()}
        values.update((name, graph.capture(outer)) for name, outer in traced.captures.items())
        # XLA compiles unrolled loops, but not lists within loops.
        writer = _Writer(traced, graph, refuse, scanning=not traced.compile_options.jit)
        writer.run([op for op in traced.graph.get_operations() if op.name in needed], values)
        scans.update(writer.scans)
        results.extend(tf.identity(values[tensor.name]) for tensor in fetches)
        for result, tensor in zip(results, fetches, strict=True):
            result.set_shape(tensor.shape)
        return list(results)

    function = call.get_concrete_function()
    flat = TracedModel.of(function, placeholders, results, opaque=traced.opaque)
    return replace(flat, compile_options=traced.compile_options, source=traced, scans=scans), tuple(results)


class _Writer:
    """Copies ops into a graph one by one, while tracking the items of lists and the values of integers."""

    def __init__(self, traced: TracedModel, graph: Any, refuse: Unhandled, *, scanning: bool) -> None:
        self._traced = traced
        self._outer = traced.graph
        self._scanning = scanning
        #: The `Scan` of each loop that was converted to a single call, by the name of the call's op.
        self.scans: dict[str, Scan] = {}
        self._library = {f.signature.name: f for f in traced.graph_def().library.function}
        self._graph = graph
        self._refuse = refuse
        self._known: dict[str, Any] = {}
        self._bodies: dict[str, Any] = {}

    def run(self, ops: Sequence[Any], values: dict[str, Any]) -> None:
        """Copies ops in order, and adds their outputs to `values` under the original names."""
        for op in ops:
            if op.type == "Placeholder" and op.outputs[0].name in values:
                continue
            given = [values[tensor.name] for tensor in op.inputs]
            written: Sequence[Any]
            if op.type in LOOPS:
                written = self._loop(op, given)
            elif op.type in _CALLS:
                written = self._call(op.get_attr("f").name, given)
            elif op.type in BRANCHES:
                written = self._branch(op, given)
            elif op.type.startswith("TensorList"):
                written = [self._list_op(op, given)]
            else:
                written = self._copy(op, given)
            values.update((output.name, value) for output, value in zip(op.outputs, written, strict=True))

    def _copy(self, op: Any, given: Sequence[Any]) -> Sequence[Any]:
        if any(isinstance(value, _List | StepList) for value in given):
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
            shapes = [None if isinstance(v, _List | StepList) else v.shape for v in given]
            with self._outer.as_default():  # the body may call functions that this graph holds
                self._bodies[name] = function_def_to_graph(self._library[name], input_shapes=shapes)
        return self._bodies[name]

    def _call(self, name: str, given: Sequence[Any]) -> list[Any]:
        body = self._body(name, given)
        values = {inner.name: value for inner, value in zip(body.inputs, given, strict=True)}
        self.run(body.get_operations(), values)
        return [values[output.name] for output in body.outputs]

    def _loop(self, op: Any, given: Sequence[Any]) -> list[Any]:
        scan = self._scan(op, given) if self._scanning and op.graph is self._outer else None
        if scan is not None:
            return self._scanned(op, scan, given)
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

    def _scan(self, op: Any, given: Sequence[Any]) -> Scan | None:
        """The loop as one step of the walk; None if the loop has to be unrolled."""
        dense = {place: value for place, value in enumerate(given) if not isinstance(value, _List)}
        lists = {place: value for place, value in enumerate(given) if isinstance(value, _List)}
        if not all(value.empty or value.whole is not None for value in lists.values()):
            return None
        counters = {
            place: self.known(value)
            for place, value in dense.items()
            if value.dtype in (tf.int32, tf.int64) and value.shape.rank == 0
        }
        shapes = {place: value.shape for place, value in dense.items()}
        shapes.update((k, v.whole.shape[1:]) for k, v in lists.items() if v.whole is not None)
        loop = Loop(
            op,
            self._body(op.get_attr("body").name, given),
            self._body(op.get_attr("cond").name, given),
            {place: value for place, value in counters.items() if value is not None},
            {place: -len(value) if value.empty else len(value) for place, value in lists.items()},
            shapes,
        )

        def write(body: Any, values: dict[str, Any]) -> list[Any]:
            inner = _Writer(self._traced, tf.compat.v1.get_default_graph(), self._refuse, scanning=False)
            inner.run(body.get_operations(), values)
            return [values[output.name] for output in body.outputs]

        return scanned(self._traced, loop, write, _MOST_STEPS)

    def _scanned(self, op: Any, scan: Scan, given: Sequence[Any]) -> list[Any]:
        """Values of a loop's variables after its last step, computed by a single call."""
        arguments = [given[v.number].whole if v.listed else given[v.number] for v in scan.given]
        results = scan.call(*arguments)
        call = results[0].op
        self.scans[call.name] = scan
        after = list(given)
        for place, value in scan.numbers.items():
            after[place] = self._constant(value, given[place].dtype)
        for variable, value in zip(scan.results, results, strict=False):
            if variable.listed:
                after[variable.number] = _List(whole=value)
            else:
                value.set_shape(given[variable.number].shape)
                after[variable.number] = value
        return after

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
            if given[0].shape[0] is None:
                raise self._refuse(op, "walks along an axis of unknown length")
            return _List(whole=given[0])
        if kind == "Reserve":
            return _List([None] * int(self._number(op, given[1])))
        known = given[0]
        if isinstance(known, StepList):
            return known.item if kind == "GetItem" else StepList(given[2])
        if kind == "GetItem":
            return known.items[self._number(op, given[1])]
        if kind == "SetItem":
            items = list(known.items)
            items[self._number(op, given[1])] = given[2]
            return _List(items)
        if kind == "Stack" and known.full:
            return known.stacked
        raise self._refuse(op, "handles a list of tensors in a way that is not known")

    def _number(self, op: Any, tensor: Any) -> int:
        value = self.known(tensor)
        if value is None:
            raise self._refuse(op, "selects a list's item by a number that depends on the rows")
        return int(value)

    # -- whole numbers that do not depend on the rows --------------------------------------------------------

    def known(self, tensor: Any) -> Any:
        """The value of an integer tensor; None if it depends on the rows or is unknown."""
        if tensor.name not in self._known:
            value = tf.get_static_value(tensor)
            number = apply(tensor.op, self.known) if value is None else np.asarray(value)
            self._known[tensor.name] = number
        return self._known[tensor.name]
