"""A check that a SavedModel holds no ops that read or write files or call code outside the graph."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tensorflow.python.saved_model import loader_impl

from transforms.errors import UserError

#: Ops that are refused anywhere in a graph. Lookup tables that read the model's own assets do not need them.
_REFUSED = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|(Eager)?PyFunc(Stateless)?|"
    # Readers and datasets of files; caches and snapshots in files.
    r"\w*Reader(V2)?|(TFRecord|TextLine|FixedLengthRecord|CSV|Lmdb|Experimental\w*|Cache|Snapshot|"
    r"Save|Load|DistributedSave|MatchingFiles|DataService|ListSnapshotChunks|SnapshotNested\w*)Dataset(V\d)?|"
    r"(Create)?Summary\w*|Write\w*Summary|Debug(Identity|NanCount|NumericSummary)(V\d)?|"
    r"ImmutableConst|LoadAndRemapMatrix|GenerateVocabRemapping|"
    r"FileSystemSetConfiguration|RegisterDataset(V2)?|Rpc\w*|GrpcServer\w*"
)
#: Ops that write a checkpoint. They are allowed only in the part of the graph that saves the model, which is
#: never run here.
_SAVING = re.compile(r"Save|SaveSlices|SaveV2|MergeV2Checkpoints")
_REMEDY = "set model.allow_unsafe: true if you trust whoever made it"


def check_ops(path: str) -> None:
    """Refuses a SavedModel with ops that do more than compute, before any part of the graph is run.

    Args:
      path: The local folder of the SavedModel.
    Raises:
      UserError: The graph holds an op that is refused; the message names the op.
    """
    try:
        saved = loader_impl.parse_saved_model(path)
    except OSError:
        return  # missing or damaged: the loader's own error says more
    for meta in saved.meta_graphs:
        _check(meta, path)


def _check(meta: Any, path: str) -> None:
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    everywhere = [*meta.graph_def.node, *(n for f in functions.values() for n in f.node_def)]
    for node in everywhere:
        if _REFUSED.fullmatch(node.op) or (node.op == "PrintV2" and _prints_to_file(node)):
            what = f"the graph holds the op {node.op}, which reaches beyond the model ({node.name})"
            raise UserError(what, path, _REMEDY)
    for node in _run(meta, functions):
        if _SAVING.fullmatch(node.op):
            what = f"the graph would write a file when it is run: the op {node.op} ({node.name})"
            raise UserError(what, path, _REMEDY)


def _prints_to_file(node: Any) -> bool:
    stream: bytes = node.attr["output_stream"].s
    return stream.startswith(b"file:")


def _run(meta: Any, functions: dict[str, Any]) -> Iterator[Any]:
    """The nodes that may run when the model is loaded or called: all nodes except those that save it."""
    by_name = {node.name: node for node in meta.graph_def.node}
    roots = [
        _node_of(tensor.name)
        for signature in meta.signature_def.values()
        for tensor in signature.outputs.values()
    ]
    roots.append(_node_of(meta.saver_def.restore_op_name))
    for collection in meta.collection_def.values():
        roots += [_node_of(name) for name in collection.node_list.value]
    waiting: list[Any] = [by_name[name] for name in roots if name in by_name]
    called = set(meta.object_graph_def.concrete_functions)
    waiting += [node for name in called if name in functions for node in functions[name].node_def]
    seen = {id(node) for node in waiting}
    while waiting:
        node = waiting.pop()
        yield node
        # Inputs are followed in the main graph only: the nodes of a called function are all waiting already.
        more = [
            by_name[name]
            for name in map(_node_of, node.input)
            if by_name.get(node.name) is node and name in by_name
        ]
        for name in _functions_of(node):
            if name in functions and name not in called:
                called.add(name)
                more += functions[name].node_def
        for other in more:
            if id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)


def _node_of(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _functions_of(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name
    # In TensorFlow 1 the op of a node may be the name of a function.
    yield node.op
