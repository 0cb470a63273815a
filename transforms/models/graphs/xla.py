"""XLA's share of a model, and what is left to TensorFlow: strings, tables, and what picks by ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_ops

from transforms.errors import UserError
from transforms.models.graphs.affine import CONTRACTIONS
from transforms.models.graphs.trace import APART, SHAPE_ONLY, TracedModel
from transforms.models.tensorflow_errors import first_line

#: Ops that pick by the index in their second operand.
_PICKS = frozenset({"Gather", "GatherV2", "GatherNd", "ResourceGather", "ResourceGatherNd"})
_UNCOMPILABLE = frozenset({"Bincount", "DenseBincount", "Unique", "UniqueV2", "Where"})


def for_xla(traced: TracedModel) -> TracedModel:
    """The model with what XLA is to leave alone marked.

    Raises:
      UserError: That lies behind matrix products, of which next to nothing would be left to compile.
    """
    apart = left_out(traced)
    for op in traced.ancestors(traced.outputs).values():
        late = op.name in apart and any(o.type in CONTRACTIONS for o in traced.ancestors(op.outputs).values())
        if late:
            raise UserError(
                f"XLA cannot compile {op.type} ({op.name}), which lies behind the model's matrix products",
                "compute.jit",
                "set it to false",
            )
    return replace(traced, apart=apart)


def left_out(traced: TracedModel) -> frozenset[str]:
    """Names of ops that XLA cannot compile, or would compile to something else.

    An id outside an embedding is an error to TensorFlow, and the row is rejected; XLA takes the nearest id
    that there is. So what picks by an index that comes from an input is left to TensorFlow, like strings and
    tables.
    """
    varying = {tensor.op.name for tensor in traced.inputs.values()}
    names = set()
    for op in traced.graph.get_operations():  # in creation order: inputs come before what uses them
        operands = [tensor.op.name in varying for tensor in op.inputs]
        if any(operands) and op.type not in SHAPE_ONLY:
            varying.add(op.name)
        picks = op.type in _PICKS and operands[1]
        if picks or _is_uncompilable(op):
            names.add(op.name)
    return frozenset(names)


def _is_uncompilable(op: Any) -> bool:
    """Whether an op works on strings or tables, or gives as many values as its operands' values decide."""
    strings = any(tensor.dtype == tf.string for tensor in (*op.inputs, *op.outputs))
    return strings or op.type in _UNCOMPILABLE or op.type.startswith("LookupTable")


class Fused:
    """A trace in two parts: what XLA compiles, and before it what it cannot.

    Strings, tables and what picks by ids come first, with what they need, and give numbers; all the rest is
    one XLA program for each shape of the arguments, of which there are few.
    """

    def __init__(self, concrete: Any) -> None:
        graph, captured = concrete.graph, {id(inner) for _, inner in concrete.graph.captures}
        inputs = {str(i): t for i, t in enumerate(graph.inputs) if id(t) not in captured}
        traced = TracedModel.of(concrete, inputs, list(concrete.outputs))
        self._structure = concrete.structured_outputs
        needed = traced.ancestors(traced.outputs)
        apart = [op for op in needed.values() if _is_uncompilable(op) or _is_apart(op)]
        placeholders = {t.op.name for t in graph.inputs}
        # What is open to both may be computed twice, as it is small: shapes and constants.
        first = {name for op in apart for name in traced.ancestors(op.outputs)} - placeholders
        rest = [op for name, op in needed.items() if name not in first and name not in placeholders]
        boundary = {t.name: t for op in rest for t in op.inputs} | {t.name: t for t in traced.outputs}
        given = {t.name: str(i) for i, t in inputs.items()}
        self._direct = {name: int(given[name]) for name in boundary if name in given}
        self._found = [t for name, t in boundary.items() if t.op.name in first]
        fed = [*(inputs[str(i)] for i in self._direct.values()), *self._found]
        self.operations = (len(rest), len(first))
        self._first: Any = None
        if self._found:
            specs = [tf.TensorSpec(t.shape, t.dtype) for t in inputs.values()]
            names = [t.name for t in inputs.values()]
            self._first = tf.function(
                lambda *values: traced.replay(dict(zip(names, values, strict=True)), self._found),
                input_signature=specs,
                autograph=False,
            ).get_concrete_function()
        self._rest = tf.function(
            lambda *values: traced.replay(
                dict(zip((t.name for t in fed), values, strict=True)), traced.outputs
            ),
            input_signature=[tf.TensorSpec(t.shape, t.dtype) for t in fed],
            autograph=False,
            jit_compile=True,
        ).get_concrete_function()

    def __call__(self, *arguments: Any) -> Any:
        """Runs both parts.

        Raises:
          UserError: XLA cannot compile its part.
        """
        flat = tf.nest.flatten(arguments)
        first = self._first(*flat) if self._first is not None else []
        try:
            results = self._rest(*(flat[i] for i in self._direct.values()), *first)
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:  # what rows may be refused for has been done before
            raise UserError(
                f"XLA cannot compile the model: {first_line(error)}", "compute.jit", "set it to false"
            ) from error
        return tf.nest.pack_sequence_as(self._structure, results)


def traced_for_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function traced as XLA needs it: loops know how often they turn at most."""

    def traced(*arguments: Any) -> Any:
        context = control_flow_ops.XLAControlFlowContext()
        context.Enter()
        try:
            return function(*arguments)
        finally:
            context.Exit()

    return traced


def _is_apart(op: Any) -> bool:
    try:
        return bool(op.get_attr(APART))
    except ValueError:
        return False
