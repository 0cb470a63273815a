"""A model as one flat TensorFlow graph, and the replay of any part of it inside another graph.

Everything gradient-shaped in attribeam rests on this: a traced graph can be entered and left at any tensor,
so gradients may begin behind an embedding, end before a softmax, and skip a prefix that is affine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from transforms.models.base import DEFAULT, CompileOptions

#: Ops whose value depends on the shape of their input alone.
SHAPE_ONLY = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})
#: Ops that are the identity but for training, and are replayed as that.
STOPS = frozenset({"StopGradient", "PreventGradient"})
#: Ops with graphs of their own inside.
LOOPS = frozenset({"While", "StatelessWhile"})
BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
#: What is repeated in a graph has no more operations than this.
_MOST_REPEATED = 100
#: Attribute of ops that are not to be compiled.
APART = "_attribeam_apart"


@dataclass(frozen=True)
class TracedModel:
    """A model's graph with its variables still outside, shared by every function cut from it.

    Args:
      graph: The inlined graph; the batch is every input's leading, unknown dimension.
      inputs: Placeholder by model input name, `[rows, *shape]`.
      outputs: One tensor a head, `[rows, ...]`, in the model's order.
      captures: What the graph takes from outside (variables, tables), by the name of its placeholder.
      opaque: Inputs through which no gradient is to be taken, whatever the graph shows.
      compile_options: How functions that are cut from it are compiled.
      apart: Names of ops that XLA is to leave alone.
      scans: Loops that are one call, by its name: how the call is walked back.
      source: What it was made of, which owns the bodies of loops: TensorFlow forgets them with their owner.
      backwards: Gradients that its layers brought along, which live as long as it does.
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
        """Takes a ConcreteFunction whose placeholders and results are given by the caller."""
        captures = {inner.name: outer for outer, inner in function.graph.captures}
        return cls(function.graph, dict(inputs), list(outputs), captures, opaque)

    def graph_def(self) -> Any:
        """The graph's definition, made once: it is walked for every function that is cut."""
        if not self._graph_def:
            self._graph_def.append(self.graph.as_graph_def(add_shapes=False))
        return self._graph_def[0]

    def ancestors(self, fetches: Sequence[Any], stop: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Ops that the fetches need, by name, not going past a tensor named in `stop`."""
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
        """Whether what the fetches need behind `stop` (by default the inputs) may stand in a graph twice."""
        if stop is None:
            stop = frozenset(tensor.name for tensor in self.inputs.values())
        ops = self.ancestors(fetches, stop).values()
        # TensorFlow mixes up the accumulators of two copies of a loop.
        return len(ops) <= _MOST_REPEATED and not any(op.type in LOOPS | BRANCHES for op in ops)

    def replay(
        self, feeds: Mapping[str, Any], fetches: Sequence[Any], rename: Callable[[Any], None] | None = None
    ) -> list[Any]:
        """Builds the part of the graph between `feeds` and `fetches` in the current graph.

        Args:
          feeds: Tensors of the current graph by the name of the traced tensor that they stand for.
          fetches: Traced tensors.
          rename: Gives the functions of the definition names of their own.
        Returns:
          One tensor of the current graph for each fetch.
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
            # Control edges order side effects, of which inference has none; colocation names absent nodes.
            del copy.input[:]
            copy.input.extend(name for name in node.input if not name.startswith("^"))
            copy.attr.pop("_class", None)
            # An attribution is about the true derivative of what the model computes, whatever training
            # makes of it.
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
                # What Keras set by hand while tracing is not in the graph's definition.
                value.set_shape(tensor.shape)
                results.append(value)
        return results


def _captured(outer: Any) -> Any:
    return tf.compat.v1.get_default_graph().capture(outer)


def graph_name(name: str, number: int) -> str:
    """A name of its own that a graph accepts for an input, whose name may hold anything."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return f"in_{safe}" if safe == name else f"in{number}_{safe}"


def static_shape(tensor: Any) -> tuple[int | None, ...] | None:
    """The shape that tracing knows, None where it does not even know the rank."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def row_elements(tensor: Any) -> int:
    """Values a row of `[rows, ...]` holds, taking what is unknown as one."""
    shape = static_shape(tensor) or ()
    size = 1
    for extent in shape[1:]:
        size *= extent or 1
    return size
