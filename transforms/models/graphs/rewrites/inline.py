"""Inlining of a traced graph's function calls, so that a cut can lie within them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import cpp_shape_inference_pb2
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def
from tensorflow.python.ops import handle_data_util

from transforms.models.graphs.rewrites.custom_gradients import rename, with_custom_gradients
from transforms.models.graphs.trace import TracedModel, graph_name

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
#: Ops that look up keys in a table.
_LOOKUPS = frozenset({"LookupTableFind", "LookupTableFindV2"})


def inlined(traced: TracedModel) -> TracedModel:
    """Replaces function calls by the functions' bodies, at any depth.

    Loops and branches keep their bodies as functions, since TensorFlow differentiates them as a whole. Layers
    keep their custom gradients. Variables and tables stay outside, so that weights exist only once, for any
    number of functions that are cut from the graph.

    Args:
      traced: A model; returned unchanged if it has no function calls and no custom gradients.
    """
    brought = with_custom_gradients(traced)
    definition = brought.definition
    library = {function.signature.name: function for function in definition.library.function}
    if not brought.backwards and not any(_called(node, library) for node in definition.node):
        return traced
    with traced.graph.as_default():  # the bodies may call functions that this graph holds
        flat = _Flat(library)
        flat.add(definition.node, "")
    copy = tf.compat.v1.GraphDef()
    copy.versions.CopyFrom(definition.versions)
    copy.node.extend(flat.resolved())
    copy.library.function.extend(_reachable(copy.node, library))
    rename(copy, brought.changed)
    copied = rebuilt(traced, copy, [flat.resolve(_full(tensor.name)) for tensor in traced.outputs])
    return replace(copied, backwards=brought.backwards)


def rebuilt(traced: TracedModel, definition: Any, fetches: Sequence[str]) -> TracedModel:
    """Builds a traced model with the same inputs and outputs, but another graph between them.

    Args:
      traced: The model; the new nodes may refer to its inputs and captures by name.
      definition: The new nodes and the functions that they call; nodes that no output needs are left out.
      fetches: Names of the outputs in the new graph, in their order.
    """
    fed = {tensor.name for tensor in traced.inputs.values()} | set(traced.captures)
    copy = _pruned(definition, fetches, fed)
    used = {_full(name) for node in copy.node for name in node.input} & fed
    specs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=graph_name(name, number))
        for number, (name, tensor) in enumerate(traced.inputs.items())
    }
    placeholders: dict[str, Any] = {}
    results: list[Any] = []

    @tf.function(input_signature=[specs], autograph=False)
    def call(inputs: Mapping[str, Any]) -> Any:
        placeholders.update(inputs)
        mapping = {traced.inputs[name].name: value for name, value in inputs.items()}
        for name, outer in traced.captures.items():
            if name in used:
                mapping[name] = tf.compat.v1.get_default_graph().capture(outer)
        for node in copy.node:
            if node.op in _LOOKUPS and _full(node.input[0]) in mapping:
                _tag_table(mapping[_full(node.input[0])], node)
        wanted = [name for name in fetches if name not in fed]
        built = iter(
            tf.graph_util.import_graph_def(
                copy,
                input_map={name: value for name, value in mapping.items() if name in used},
                return_elements=wanted,
                name="",
            )
            if wanted
            else []
        )
        for name, tensor in zip(fetches, traced.outputs, strict=True):
            value = tf.identity(mapping[name]) if name in fed else next(built)
            value.set_shape(tensor.shape)
            results.append(value)
        return list(results)

    made = TracedModel.of(call.get_concrete_function(), placeholders, results, opaque=traced.opaque)
    return replace(made, source=traced, backwards=traced.backwards)


def _pruned(definition: Any, fetches: Iterable[str], fed: set[str]) -> Any:
    """The nodes and functions that the fetches need, without control edges: inference has no side effects."""
    nodes = {node.name: node for node in definition.node}
    needed: set[str] = set()
    pending = [name for name in fetches if name not in fed]
    while pending:
        name = pending.pop().partition(":")[0]
        if name not in needed:
            needed.add(name)
            pending.extend(g for g in nodes[name].input if not g.startswith("^") and _full(g) not in fed)
    copy = tf.compat.v1.GraphDef()
    copy.versions.CopyFrom(definition.versions)
    for node in definition.node:
        if node.name in needed:
            added = copy.node.add()
            added.CopyFrom(node)
            added.input[:] = [name for name in node.input if not name.startswith("^")]
            for attribute in ("_class", "_output_shapes"):
                added.attr.pop(attribute, None)
    library = {function.signature.name: function for function in definition.library.function}
    copy.library.function.extend(_reachable(copy.node, library))
    return copy


class _Flat:
    """The nodes of all scopes under their full names, and an alias for each input and output of a call."""

    def __init__(self, library: Mapping[str, Any]) -> None:
        self._library = library
        self._nodes: dict[str, Any] = {}
        self._alias: dict[str, str] = {}

    def add(self, nodes: Iterable[Any], prefix: str) -> None:
        for node in nodes:
            # Control edges only order side effects, and inference has none.
            inputs = [_full(f"{prefix}{name}") for name in node.input if not name.startswith("^")]
            name = f"{prefix}{node.name}"
            called = _called(node, self._library)
            if called is None:
                copy = tf.compat.v1.NodeDef()
                copy.CopyFrom(node)
                copy.name = name
                del copy.input[:]
                copy.input.extend(inputs)
                for attribute in ("_class", "_output_shapes"):
                    copy.attr.pop(attribute, None)
                self._nodes[name] = copy
                continue
            body, flat_names = function_def_to_graph_def(called)
            arguments = [argument.name for argument in called.signature.input_arg]
            for argument, given in zip(arguments, inputs, strict=True):
                self._alias[f"{name}/{argument}:0"] = given
            for index, result in enumerate(called.signature.output_arg):
                inner = flat_names[called.ret[result.name]]
                self._alias[f"{name}:{index}"] = _full(f"{name}/{inner}")
            known = set(arguments)
            self.add((inner for inner in body.node if inner.name not in known), f"{name}/")

    def resolve(self, name: str) -> str:
        """Replaces an alias by the name of its tensor, through any number of calls."""
        while name in self._alias:
            name = self._alias[name]
        return name

    def resolved(self) -> list[Any]:
        """All nodes, with their inputs resolved."""
        for node in self._nodes.values():
            node.input[:] = [self.resolve(name) for name in node.input]
        return list(self._nodes.values())


def _tag_table(table: Any, node: Any) -> None:
    """Tags a table's handle, for shape inference, as mapping single keys to single values.

    Python sets this tag when the model is built. A graph that is read back lacks the tag, and without it the
    shapes of all tensors after the lookup are unknown. The vocabularies of Keras and TensorFlow all have
    tables of this kind.
    """
    known = cpp_shape_inference_pb2.CppShapeInferenceResult.HandleData(is_set=True)
    for key in ("Tin", "Tout"):
        known.shape_and_type.add(dtype=node.attr[key].type, shape=tf.TensorShape([]).as_proto())
    handle_data_util.set_handle_data(table, known)


def _called(node: Any, library: Mapping[str, Any]) -> Any:
    """The function that a node calls, or None; a TensorFlow 1 node has the function's name as its op."""
    return library.get(node.attr["f"].func.name) if node.op in _CALLS else library.get(node.op)


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _reachable(nodes: Iterable[Any], library: Mapping[str, Any]) -> list[Any]:
    """The functions that nodes, such as loops and branches, call directly or through other functions."""
    reached: dict[str, Any] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        names = [node.op]
        for value in node.attr.values():
            names.extend([value.func.name, *(function.name for function in value.list.func)])
        for name in names:
            if name in library and name not in reached:
                reached[name] = library[name]
                pending.extend(library[name].node_def)
    return list(reached.values())
