"""Function calls of a traced graph, written out: what a cut must see may lie inside of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import cpp_shape_inference_pb2
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def
from tensorflow.python.ops import handle_data_util

from transforms.models.trace import TracedModel, graph_name

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_LOOKUPS = frozenset({"LookupTableFind", "LookupTableFindV2"})


def inlined(traced: TracedModel) -> TracedModel:
    """The same model with the bodies of called functions in the place of the calls, at any depth.

    Loops and branches keep their bodies as functions: they are differentiated as a whole. Variables and
    tables stay outside, so that the weights exist once however many functions are cut from the graph.

    Args:
      traced: A model; it is returned as it is where it calls nothing.
    """
    definition = traced.graph_def()
    library = {function.signature.name: function for function in definition.library.function}
    if not any(_called(node, library) for node in definition.node):
        return traced
    with traced.graph.as_default():  # the bodies name functions that this graph knows
        flat = _Flat(library)
        flat.add(definition.node, "")
    fetches = [flat.resolve(_full(tensor.name)) for tensor in traced.outputs]
    fed = {tensor.name for tensor in traced.inputs.values()} | set(traced.captures)
    copy, used = flat.definition(fetches, fed)
    copy.versions.CopyFrom(definition.versions)
    copy.library.function.extend(_reachable(copy.node, library))
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
            if node.op in _LOOKUPS and node.input[0] in mapping:
                _tell_lookup(mapping[node.input[0]], node)
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

    return TracedModel.of(call.get_concrete_function(), placeholders, results, opaque=traced.opaque)


class _Flat:
    """Nodes of all scopes under full names, and what the calls' inputs and outputs really are."""

    def __init__(self, library: Mapping[str, Any]) -> None:
        self._library = library
        self._nodes: dict[str, Any] = {}
        self._alias: dict[str, str] = {}

    def add(self, nodes: Iterable[Any], prefix: str) -> None:
        for node in nodes:
            # Control edges order side effects, of which inference has none.
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
        """The tensor that a name stands for, through any number of calls."""
        while name in self._alias:
            name = self._alias[name]
        return name

    def definition(self, fetches: Iterable[str], fed: set[str]) -> tuple[Any, set[str]]:
        """The nodes that the fetches need, and which of the fed tensors they use."""
        needed: set[str] = set()
        used: set[str] = set()
        pending = [name for name in fetches if name not in fed]
        while pending:
            node = self._nodes[pending.pop().rpartition(":")[0]]
            if node.name in needed:
                continue
            needed.add(node.name)
            inputs = [self.resolve(name) for name in node.input]
            del node.input[:]
            node.input.extend(inputs)
            used.update(name for name in inputs if name in fed)
            pending.extend(name for name in inputs if name not in fed)
        definition = tf.compat.v1.GraphDef()
        definition.node.extend(node for name, node in self._nodes.items() if name in needed)
        return definition, used


def _tell_lookup(table: Any, node: Any) -> None:
    """Lets shape inference know that a table maps single keys to single values.

    Python told it so when the model was built; a graph read back has forgotten, and with it the shape of
    everything behind the lookup. The tables of Keras's and TensorFlow's vocabularies are all of this kind.
    """
    known = cpp_shape_inference_pb2.CppShapeInferenceResult.HandleData(is_set=True)
    for key in ("Tin", "Tout"):
        known.shape_and_type.add(dtype=node.attr[key].type, shape=tf.TensorShape([]).as_proto())
    handle_data_util.set_handle_data(table, known)


def _called(node: Any, library: Mapping[str, Any]) -> Any:
    """The function that a node calls, or None. TensorFlow 1 functions are called by an op of their name."""
    return library.get(node.attr["f"].func.name) if node.op in _CALLS else library.get(node.op)


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _reachable(nodes: Iterable[Any], library: Mapping[str, Any]) -> list[Any]:
    """Functions that loops and branches still name, and those that these name."""
    found: dict[str, Any] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        names = [node.op]
        for value in node.attr.values():
            names.extend([value.func.name, *(function.name for function in value.list.func)])
        for name in names:
            if name in library and name not in found:
                found[name] = library[name]
                pending.extend(library[name].node_def)
    return list(found.values())
