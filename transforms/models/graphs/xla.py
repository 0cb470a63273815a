"""Splits a model between XLA and TensorFlow's own kernels, which keep strings, tables and lookups by ids."""

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

#: Ops that select by the index in their second operand.
_PICKS = frozenset({"Gather", "GatherV2", "GatherNd", "ResourceGather", "ResourceGatherNd"})
_UNCOMPILABLE = frozenset({"Bincount", "DenseBincount", "Unique", "UniqueV2", "Where"})


def for_xla(traced: TracedModel) -> TracedModel:
    """Marks the ops of a model that XLA must not compile.

    Raises:
      UserError: An op that XLA must not compile comes after matrix products, so little is left to compile.
    """
    apart = left_out(traced)
    for op in traced.ancestors(traced.outputs).values():
        late = op.name in apart and any(o.type in CONTRACTIONS for o in traced.ancestors(op.outputs).values())
        if late:
            raise UserError(
                f"XLA cannot compile {op.type} ({op.name}), which comes after the model's matrix products",
                "compute.jit",
                "set it to false",
            )
    return replace(traced, apart=apart)


def left_out(traced: TracedModel) -> frozenset[str]:
    """Names of ops that XLA cannot compile, or would compile with another meaning.

    If an id lies outside an embedding's table, TensorFlow raises an error and the row is rejected, but XLA
    silently uses the nearest valid id. Lookups by an index that depends on an input are therefore left to
    TensorFlow, as are strings and tables.
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
    """True if an op works on strings or tables, or its number of values depends on its operands' values."""
    strings = any(tensor.dtype == tf.string for tensor in (*op.inputs, *op.outputs))
    return strings or op.type in _UNCOMPILABLE or op.type.startswith("LookupTable")


class Fused:
    """A trace in two parts: first the ops that XLA cannot compile, then the ops that it compiles.

    The first part handles strings, tables and lookups by ids, with all the ops that these need, and yields
    numbers. The second part is compiled to one XLA program per shape of the arguments; few shapes occur.
    """

    def __init__(self, concrete: Any) -> None:
        graph, captured = concrete.graph, {id(inner) for _, inner in concrete.graph.captures}
        inputs = {str(i): t for i, t in enumerate(graph.inputs) if id(t) not in captured}
        traced = TracedModel.of(concrete, inputs, list(concrete.outputs))
        self._structure = concrete.structured_outputs
        needed = traced.ancestors(traced.outputs)
        apart = [op for op in needed.values() if _is_uncompilable(op) or _is_apart(op)]
        placeholders = {t.op.name for t in graph.inputs}
        # An op that both parts need is computed in the first part, which passes its outputs on.
        first = {name for op in apart for name in traced.ancestors(op.outputs)} - placeholders
        rest = [op for name, op in needed.items() if name not in first and name not in placeholders]
        boundary = {t.name: t for op in rest for t in op.inputs} | {t.name: t for t in traced.outputs}
        given = {t.name: str(i) for i, t in inputs.items()}
        self._direct = {name: int(given[name]) for name in boundary if name in given}
        self._computed = [t for name, t in boundary.items() if t.op.name in first]
        fed = [*(inputs[str(i)] for i in self._direct.values()), *self._computed]
        self.operations = (len(rest), len(first))
        self._first: Any = None
        if self._computed:
            specs = [tf.TensorSpec(t.shape, t.dtype) for t in inputs.values()]
            names = [t.name for t in inputs.values()]
            self._first = tf.function(
                lambda *values: traced.replay(dict(zip(names, values, strict=True)), self._computed),
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
          UserError: XLA cannot compile the second part.
        """
        flat = tf.nest.flatten(arguments)
        first = self._first(*flat) if self._first is not None else []
        try:
            results = self._rest(*(flat[i] for i in self._direct.values()), *first)
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:  # errors about rows' values arise in the first part
            raise UserError(
                f"XLA cannot compile the model: {first_line(error)}", "compute.jit", "set it to false"
            ) from error
        return tf.nest.pack_sequence_as(self._structure, results)


def traced_for_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that its trace suits XLA: each loop records its largest number of steps."""

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
