"""Finds the layers that draw random numbers or mix the rows of a batch, so that an error can name them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.graphs.compiled import Compiled
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.graphs.trace import TracedModel

#: Ops that draw random numbers.
_DRAWS = re.compile(
    r"(Stateless|Stateful)?(Random|TruncatedNormal|ParameterizedTruncated|StandardNormal|Uniform|Multinomial|"
    r"SampleDistorted|Shuffle|ParameterizedTruncatedNormal)\w*|RandomShuffle|\w*CandidateSampler"
)
#: Ops with similar names that draw no random numbers: they only make keys and states.
_KEYS = re.compile(r"\w*(GetKey|GetAlg|Counter|Iterator|Dataset)\w*")
#: Scopes in an op's name that are not layers; and the number at the end of a layer's name.
_CALLS = re.compile(r"(Stateful|Stateless)?PartitionedCall(_\d+)?|cut|Identity")
_NUMBERED = re.compile(r"_\d+$")


def random_places(model: ScoredGraph) -> list[str]:
    """The layers (or ops outside layers) that draw random numbers for the scores, in the graph's order."""
    places = [
        _place(name, kind, model.adapter.layers)
        for name, kind in _nodes(model.traced, model.scores)
        if _DRAWS.fullmatch(kind) and not _KEYS.fullmatch(kind)
    ]
    return list(dict.fromkeys(places))


def mixing_places(
    model: ScoredGraph, first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], same: np.ndarray
) -> list[str]:
    """The layers (or ops outside layers) where a row's values first depend on other rows of its batch.

    Args:
      model: The model with its score.
      first: Inputs, `[B, *shape]`.
      second: The same inputs with other values in some rows.
      same: True for the rows that are equal in `first` and `second`, `[B]` bool.
    Cost: Two evaluations per row that keep every tensor in memory; only run if the model will be refused.
    """
    traced = model.traced
    needed = _in_order(traced.ancestors(model.scores), model.scores)
    tensors = [
        op.outputs[0]
        for op in needed
        if op.type not in ("Placeholder", "ReadVariableOp")
        and op.outputs
        and op.outputs[0].dtype.is_floating
        and op.outputs[0].shape.rank
        and op.outputs[0].shape[0] is None
    ]
    specs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in traced.inputs.items()}

    def values(inputs: Mapping[str, Any]) -> list[Any]:
        return traced.replay({traced.inputs[name].name: value for name, value in inputs.items()}, tensors)

    run = Compiled(values, [specs])
    moved = {
        tensor.op.name: _differs(one.numpy(), other.numpy(), same)
        for tensor, one, other in zip(tensors, run(dict(first)), run(dict(second)), strict=True)
    }
    behind: dict[str, bool] = {}
    places = []
    for op in needed:
        before = any(behind.get(tensor.op.name, False) for tensor in op.inputs)
        own = moved.get(op.name, False)
        behind[op.name] = before or own
        if own and not before:
            places.append(_place(op.name, op.type, model.adapter.layers))
    return list(dict.fromkeys(places))


def _differs(one: np.ndarray, other: np.ndarray, same: np.ndarray) -> bool:
    rows = len(same)
    if one.shape != other.shape or one.ndim == 0 or not len(one) or len(one) % rows:
        return False
    a, b = (value.reshape(rows, -1)[same].astype(np.float64) for value in (one, other))
    with np.errstate(invalid="ignore"):
        near = (np.abs(a - b) <= 1e-6 * np.maximum(np.abs(a), np.abs(b))) | (np.isnan(a) & np.isnan(b))
    return not bool((near | (a == b)).all())


def _in_order(needed: Mapping[str, Any], fetches: Sequence[Any]) -> list[Any]:
    """The ops in topological order: each op comes after the ops that it needs."""
    ordered: list[Any] = []
    seen: set[str] = set()
    pending = [(tensor.op, False) for tensor in fetches]
    while pending:
        op, done = pending.pop()
        if done:
            ordered.append(op)
        elif op.name not in seen and op.name in needed:
            seen.add(op.name)
            pending.append((op, True))
            pending.extend((tensor.op, False) for tensor in op.inputs)
    return ordered


def _nodes(traced: TracedModel, fetches: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yields the name and type of every op that the fetches need, also within loops and branches."""
    library = {function.signature.name: function for function in traced.graph_def().library.function}
    seen: set[str] = set()

    def bodies(node: Any) -> Iterator[tuple[str, str]]:
        for value in node.attr.values():
            for name in [value.func.name, *(function.name for function in value.list.func)]:
                if name in library and name not in seen:
                    seen.add(name)
                    for inner in library[name].node_def:
                        yield f"{node.name}/{inner.name}", inner.op
                        yield from bodies(inner)

    for op in _in_order(traced.ancestors(fetches), fetches):
        yield op.name, op.type
        yield from bodies(op.node_def)


def _place(name: str, kind: str, layers: Mapping[str, str]) -> str:
    """The class of the innermost layer in an op's name, or the op itself if no layer is found."""
    parts = [part for part in name.split("/")[:-1] if not _CALLS.fullmatch(part)]
    for part in reversed(parts):
        for own in (part, _NUMBERED.sub("", part)):
            if own in layers:
                return layers[own] if _camel(own) == layers[own] else f"{layers[own]} {own}"
    for part in reversed(parts):
        if hasattr(tf.keras.layers, _camel(part)):
            return _camel(part)
    return f"{kind} in {'/'.join(parts[-2:])}" if parts else kind


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in _NUMBERED.sub("", name).split("_"))
