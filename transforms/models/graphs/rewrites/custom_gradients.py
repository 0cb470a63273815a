"""Custom gradients of a model's layers (`tf.custom_gradient`), made part of its graph.

TensorFlow keeps such a gradient as a Python closure over tensors of the trace in which the layer was called.
The closure is useless in a graph that is cut from that trace, so this module traces the closure once. The
forward tensors that the gradient needs (its residuals) become further operands of the IdentityN that holds
the layer's result. The gradient of any copy of that IdentityN, in a graph, a function or a loop's body, can
then be built from the copy's own operands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import ops as tf_ops

from transforms.models.graphs.trace import TracedModel

#: Attribute that names an op's `Backward`; and the attribute by which TensorFlow looks up gradients.
BACKWARD = "_attribeam_backward"
GRADIENT = "_gradient_op_type"
#: Name under which `_gradient` is registered; all custom gradients share it.
_REGISTERED = "AttribeamBackward"
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_numbers = count()


@dataclass(frozen=True, eq=False)
class Backward:
    """The gradient of one IdentityN.

    Args:
      name: Value of the attribute BACKWARD.
      definition: Graph that computes the gradient.
      upstream: Names, in that graph, of the fed gradients at the op's outputs, by output place.
      residuals: Names, in that graph, of the fed forward tensors, in the order of the op's operands from
        place `operands` on.
      results: Names, in that graph, of the gradients at the op's operands, by operand place; operands without
        a gradient are left out.
      operands: Number of operands that the op had originally.
    """

    name: str
    definition: Any
    upstream: Mapping[int, str]
    residuals: tuple[str, ...]
    results: Mapping[int, str]
    operands: int

    def gradients(self, op: Any, given: Iterable[Any]) -> list[Any]:
        """Builds the gradients of the op's operands in the current graph; None for operands without one."""
        graph = tf.compat.v1.get_default_graph()
        seeds = list(given)
        values: dict[str, Any] = {}
        for place, name in self.upstream.items():
            seed = seeds[place]
            values[name] = tf.zeros_like(op.outputs[place]) if seed is None else seed
        for place, name in enumerate(self.residuals):
            values[name] = op.inputs[self.operands + place]
        # The gradient of a loop's body has its own graph, which captures the body's tensors.
        inside = {
            name: value if value.graph is graph else graph.capture(value) for name, value in values.items()
        }
        imported = tf.graph_util.import_graph_def(
            self.definition, input_map=inside, return_elements=list(self.results.values()), name="backward"
        )
        made = dict(zip(self.results, imported, strict=True))
        return [made.get(place) for place in range(len(op.inputs))]


_known: WeakValueDictionary[str, Backward] = WeakValueDictionary()


@tf.RegisterGradient(_REGISTERED)
def _gradient(op: Any, *upstream: Any) -> list[Any]:
    return _known[_text(op.get_attr(BACKWARD))].gradients(op, upstream)


def backward_of(op: Any) -> Backward | None:
    """The custom gradient of an op, or None."""
    if op.type != "IdentityN":
        return None
    try:
        return _known[_text(op.get_attr(BACKWARD))]
    except ValueError:
        return None


@dataclass(frozen=True)
class Brought:
    """A graph's definition with the custom gradients of its layers.

    Args:
      definition: The graph and its functions, under their original names.
      backwards: The gradients. They are kept alive here, because the registry refers to them weakly.
      changed: Names of functions that TensorFlow knows with another body.
    """

    definition: Any
    backwards: tuple[Backward, ...]
    changed: frozenset[str]


def with_custom_gradients(traced: TracedModel) -> Brought:
    """Makes the definition of a model's graph with the custom gradients of its layers.

    A gradient that TensorFlow does not know, because a SavedModel was stored without it, is left out. The
    layer then has the derivative of its forward pass.

    Args:
      traced: A model as Python traced it, or as loaded from a SavedModel.
    """
    definition = tf.compat.v1.GraphDef()
    definition.CopyFrom(traced.graph_def())
    scopes = [_Scope(traced.graph, definition.node, None)]
    bodies = {body.signature.name: body for body in definition.library.function}
    for function in traced.graph._functions.values():
        name = _text(function.name)
        # Functions of TensorFlow 1 have no graph and no custom gradients.
        if name in bodies and hasattr(function, "graph"):
            scopes.append(_Scope(function.graph, bodies[name].node_def, bodies[name]))
    made: list[Backward] = []
    changed: set[str] = set()
    for scope in scopes:
        rewritten = scope.rewritten(traced)
        made += rewritten
        if rewritten and scope.body is not None:
            changed.add(scope.body.signature.name)
    return Brought(definition, tuple(made), frozenset(changed))


class _Scope:
    """A graph whose nodes are rewritten: the model's own, or a function's body.

    Args:
      graph: The graph.
      nodes: Nodes of the graph's definition; nodes with a custom gradient are changed in place.
      body: Definition of the function; None for the model's own graph.
    """

    def __init__(self, graph: Any, nodes: Iterable[Any], body: Any) -> None:
        self._graph, self._nodes, self.body = graph, nodes, body

    def rewritten(self, traced: TracedModel) -> list[Backward]:
        """Adds residuals and the gradient's name to nodes with a custom gradient; returns the gradients."""
        made = []
        for node in self._nodes:
            if node.op in _CALLS or not node.attr[GRADIENT].s:
                if node.op not in _CALLS:
                    node.attr.pop(GRADIENT, None)
                continue
            op = self._graph.get_operation_by_name(node.name)
            own = _traced(op)
            if own is None:  # an unregistered gradient: the op has its own derivative
                node.attr.pop(GRADIENT, None)
                continue
            if node.op != "IdentityN":
                continue
            backward, needed = own
            names = [self._name(tensor, traced) for tensor in needed]
            # Control edges come last among the inputs of a node.
            edges = [name for name in node.input if name.startswith("^")]
            plain = [name for name in node.input if not name.startswith("^")]
            node.input[:] = [*plain, *names, *edges]
            node.attr["T"].list.type.extend(tensor.dtype.as_datatype_enum for tensor in needed)
            node.attr[GRADIENT].s = _REGISTERED.encode()
            node.attr[BACKWARD].s = backward.name.encode()
            node.attr.pop("_output_shapes", None)
            made.append(backward)
        return made

    def _name(self, tensor: Any, traced: TracedModel) -> str:
        """Finds the name by which this scope's nodes refer to a tensor that a gradient needs."""
        inner = self._inner(tensor)
        if inner is None:
            if self.body is not None:
                raise ValueError(f"the gradient of a layer takes {tensor.name} from outside its function")
            with self._graph.as_default():
                inner = self._graph.capture(tensor)
            traced.captures[inner.name] = tensor  # type: ignore[index]
        if self.body is None:
            return str(inner.name)
        for place, given in enumerate(self._graph.inputs):
            if given is inner:
                return str(self.body.signature.input_arg[place].name)
        place = inner.value_index
        for argument in inner.op.op_def.output_arg:
            size = 1
            if argument.number_attr:
                size = inner.op.get_attr(argument.number_attr)
            elif argument.type_list_attr:
                size = len(inner.op.get_attr(argument.type_list_attr))
            if place < size:
                return f"{inner.op.name}:{argument.name}:{place}"
            place -= size
        raise AssertionError(f"{inner.name} is not an output of its op")

    def _inner(self, tensor: Any) -> Any:
        """This graph's counterpart of a tensor of any graph, or of no graph; None if it is not found."""
        if getattr(tensor, "graph", None) is self._graph:
            return tensor
        captures = list(self._graph.captures)
        for outer, inner in captures:
            if outer is tensor:
                return inner
        around: Any = getattr(self._graph, "outer_graph", None)
        for outer, inner in getattr(around, "captures", ()):
            if outer is tensor:
                return next((own for other, own in captures if other is inner), None)
        return None


def _traced(op: Any) -> tuple[Backward, list[Any]] | None:
    """An op's custom gradient and the forward tensors that it needs; None if TensorFlow does not know it."""
    try:
        function = tf_ops.gradient_registry.lookup(_text(op.get_attr(GRADIENT)))
    except LookupError:
        return None
    places = [p for p, t in enumerate(op.outputs) if t.dtype.is_floating or t.dtype.is_complex]
    traced_at: list[int] = []

    def backward(*given: Any) -> list[Any]:
        upstream: list[Any] = [None] * len(op.outputs)
        for place, value in zip(places, given, strict=True):
            upstream[place] = value
        gradients = function(op, *upstream)
        listed = gradients if isinstance(gradients, (list, tuple)) else [gradients]
        kept = {p: tf.convert_to_tensor(g) for p, g in enumerate(listed) if g is not None}
        traced_at[:] = list(kept)
        return list(kept.values())

    specs = [tf.TensorSpec(op.outputs[place].shape, op.outputs[place].dtype) for place in places]
    concrete = tf.function(backward, input_signature=specs, autograph=False).get_concrete_function()
    graph = concrete.graph
    given = graph.inputs[: len(places)]
    definition = graph.as_graph_def()
    fed = {tensor.op.name for tensor in graph.inputs}
    nodes = [node for node in definition.node if node.name not in fed]
    for node in nodes:  # control edges only order side effects, and a gradient has none
        node.input[:] = [name for name in node.input if not name.startswith("^")]
    del definition.node[:]
    definition.node.extend(nodes)
    used = {name if ":" in name else f"{name}:0" for node in nodes for name in node.input}
    needed = [(outer, inner) for outer, inner in graph.captures if inner.name in used]
    made = Backward(
        f"backward_{next(_numbers)}",
        definition,
        {place: tensor.name for place, tensor in zip(places, given, strict=True) if tensor.name in used},
        tuple(inner.name for _, inner in needed),
        {place: tensor.name for place, tensor in zip(traced_at, concrete.outputs, strict=True)},
        len(op.inputs),
    )
    _known[made.name] = made
    return made, [outer for outer, _ in needed]


def rename(definition: Any, changed: frozenset[str]) -> None:
    """Renames changed functions and the functions that call them, so that TensorFlow runs the new bodies."""
    bodies = {body.signature.name: body for body in definition.library.function}
    renamed = set(changed) & set(bodies)
    pending = bool(renamed)
    while pending:
        more = {name for name, body in bodies.items() if any(_named(n) & renamed for n in body.node_def)}
        pending = not more <= renamed
        renamed |= more
    names = {name: f"{name}_backward_{next(_numbers)}" for name in renamed}
    for nodes in (definition.node, *(body.node_def for body in bodies.values())):
        for node in nodes:
            node.op = names.get(node.op, node.op)
            for value in node.attr.values():
                for function in (value.func, *value.list.func):
                    if function.name in names:
                        function.name = names[function.name]
    for name in renamed:
        bodies[name].signature.name = names[name]
        # Tracing a function registers it with TensorFlow's executor; importing a definition does not.
        context.context().add_function_def(bodies[name])


def rename_all(definition: Any) -> None:
    """Gives all functions of a definition names that are unique in this process."""
    rename(definition, frozenset(body.signature.name for body in definition.library.function))


def _named(node: Any) -> set[str]:
    """Names of the functions that a node calls or has as attributes, and the node's op."""
    names = {node.op}
    for value in node.attr.values():
        names |= {value.func.name, *(function.name for function in value.list.func)}
    return names


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
