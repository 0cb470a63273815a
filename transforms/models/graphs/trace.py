"""A model as one flat TensorFlow graph, and the replay of any part of it inside another graph.

All gradient methods rest on this: a traced graph can be entered and left at any tensor, so that gradients may
begin after an embedding, end before a softmax, and skip an affine prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from transforms.models.base import DEFAULT, CompileOptions

#: Ops whose output depends only on the shape of their input.
SHAPE_ONLY = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})
#: Ops that act as the identity except in training, and are replayed as the identity.
STOPS = frozenset({"StopGradient", "PreventGradient"})
#: Control-flow ops, with functions as their bodies: loops and branches.
LOOPS = frozenset({"While", "StatelessWhile"})
BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
#: A part of a graph with more ops than this is not copied repeatedly.
_MOST_REPEATED = 100
#: Node attribute that marks ops which XLA must not compile.
APART = "_attribeam_apart"


@dataclass(frozen=True)
class TracedModel:
    """A model's graph, shared by every function that is cut from it; variables stay outside as captures.

    Args:
      graph: The inlined graph; the batch is every input's leading, unknown dimension.
      inputs: Placeholder by model input name, `[rows, *shape]`.
      outputs: One tensor for each head, `[rows, ...]`, in the model's order.
      captures: Variables and tables that the graph takes from outside, by the name of their placeholder.
      opaque: Names of inputs through which no gradient may be taken, even if the graph would allow it.
      compile_options: Compile options for functions that are cut from the model.
      apart: Names of ops that XLA must not compile.
      scans: The `Scan` of each loop that was converted to a single call, by the name of the call's op.
      source: The model from which this one was made. It is kept alive because it owns the bodies of loops,
        and TensorFlow deletes a body with its owner.
      backwards: Custom gradients of the model's layers. They are kept alive here, because the registry refers
        to them weakly.
    """

    graph: Any
    inputs: Mapping[str, Any]
    outputs: Sequence[Any]
    captures: Mapping[str, Any]
    opaque: frozenset[str] = frozenset()
    compile_options: CompileOptions = DEFAULT
    apart: frozenset[str] = frozenset()
    scans: Mapping[str, Any] = field(default_factory=dict)
    source: TracedModel | None = None
    backwards: tuple[Any, ...] = ()
    _graph_def: list[Any] = field(default_factory=list, compare=False)

    @classmethod
    def of(
        cls,
        function: Any,
        inputs: Mapping[str, Any],
        outputs: Sequence[Any],
        opaque: frozenset[str] = frozenset(),
    ) -> TracedModel:
        """Wraps a ConcreteFunction; `inputs` are its placeholders by input name, `outputs` its results."""
        captures = {inner.name: outer for outer, inner in function.graph.captures}
        return cls(function.graph, dict(inputs), list(outputs), captures, opaque)

    def graph_def(self) -> Any:
        """The graph's definition, cached because it is read for every function that is cut."""
        if not self._graph_def:
            self._graph_def.append(self.graph.as_graph_def(add_shapes=False))
        return self._graph_def[0]

    def ancestors(self, fetches: Sequence[Any], stop: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The ops on which the fetches depend, by name; the search stops at tensors named in `stop`."""
        needed: dict[str, Any] = {}
        pending = [tensor for tensor in fetches if tensor.name not in stop]
        while pending:
            op = pending.pop().op
            if op.name in needed:
                continue
            needed[op.name] = op
            pending.extend(tensor for tensor in op.inputs if tensor.name not in stop)
        return needed

    def repeatable(self, fetches: Sequence[Any], stop: frozenset[str] | None = None) -> bool:
        """True if the ops between `stop` (by default the inputs) and the fetches may be copied repeatedly."""
        if stop is None:
            stop = frozenset(tensor.name for tensor in self.inputs.values())
        ops = self.ancestors(fetches, stop).values()
        # TensorFlow confuses the accumulators of two copies of a loop.
        return len(ops) <= _MOST_REPEATED and not any(op.type in LOOPS | BRANCHES for op in ops)

    def replay(
        self, feeds: Mapping[str, Any], fetches: Sequence[Any], rename: Callable[[Any], None] | None = None
    ) -> list[Any]:
        """Builds the part of the graph between `feeds` and `fetches` in the current graph.

        Args:
          feeds: Tensors of the current graph, by the names of the traced tensors that they replace.
          fetches: Traced tensors to compute.
          rename: Called with the GraphDef before it is imported, to give its functions unique names.
        Returns:
          One tensor of the current graph per fetch.
        Raises:
          KeyError: A fetch depends on a model input that is not fed.
        """
        stop = frozenset(feeds)
        needed = self.ancestors(fetches, stop)
        mapping: dict[str, Any] = {}
        definition = tf.compat.v1.GraphDef()
        definition.versions.CopyFrom(self.graph_def().versions)
        definition.library.CopyFrom(self.graph_def().library)
        inputs = {tensor.name for tensor in self.inputs.values()}
        apart = self.apart
        for node in self.graph_def().node:
            op = needed.get(node.name)
            if op is None:
                continue
            for tensor in op.inputs:
                if tensor.name in stop:
                    mapping[tensor.name] = feeds[tensor.name]
                elif tensor.name in self.captures and tensor.name not in mapping:
                    mapping[tensor.name] = _captured(self.captures[tensor.name])
                elif tensor.name in inputs:
                    raise KeyError(f"{tensor.name} is needed and not fed")
            if op.type == "Placeholder":
                continue
            copy = definition.node.add()
            copy.CopyFrom(node)
            # Control edges only order side effects, and inference has none. `_class` may colocate the node
            # with nodes that are absent here.
            del copy.input[:]
            copy.input.extend(name for name in node.input if not name.startswith("^"))
            copy.attr.pop("_class", None)
            # Attributions need the derivative of the function that the model computes, not of its training.
            if op.type in STOPS:
                copy.op = "Identity"
                copy.attr.pop("message", None)
            if node.name in apart:
                copy.attr[APART].b = True
        if rename is not None:
            rename(definition)
        given = stop | set(self.captures)
        wanted = [tensor for tensor in fetches if tensor.name not in given]
        built = iter(
            tf.graph_util.import_graph_def(
                definition, input_map=mapping, return_elements=[tensor.name for tensor in wanted], name="cut"
            )
            if wanted
            else []
        )
        results = []
        for tensor in fetches:
            if tensor.name in stop:
                results.append(feeds[tensor.name])
            elif tensor.name in self.captures:
                results.append(_captured(self.captures[tensor.name]))
            else:
                value = next(built)
                # The graph's definition lacks shapes that Keras set by hand while tracing.
                value.set_shape(tensor.shape)
                results.append(value)
        return results


def _captured(outer: Any) -> Any:
    return tf.compat.v1.get_default_graph().capture(outer)


def graph_name(name: str, number: int) -> str:
    """A unique placeholder name for an input; the input's own name may hold characters that graphs forbid."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return f"in_{safe}" if safe == name else f"in{number}_{safe}"


def static_shape(tensor: Any) -> tuple[int | None, ...] | None:
    """The shape known from tracing; None if not even the rank is known."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def row_elements(tensor: Any) -> int:
    """Number of values per row of a tensor `[rows, ...]`, with unknown extents counted as one."""
    shape = static_shape(tensor) or ()
    size = 1
    for extent in shape[1:]:
        size *= extent or 1
    return size
