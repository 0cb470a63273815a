"""Where gradients begin: the cut of a traced model behind its integer, string and hashed inputs.

Pure graph walking; nothing is run here. See `differentiable.py` for the functions built from a cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow.python.framework import ops as tf_ops

from transforms.errors import UserError
from transforms.models.affine import is_affine, multiplications
from transforms.models.trace import SHAPE_ONLY, TracedModel, row_elements, static_shape

#: Ops with a registered gradient that is none or zero: what is behind them moves the score in steps.
_STEPS = frozenset({"Floor", "Ceil", "Round", "Rint", "Sign", "StopGradient", "PreventGradient"})
#: Function calls, differentiated by TensorFlow through their bodies.
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_HEADS = frozenset({"Softmax", "Sigmoid"})
#: Between a softmax and the output these only rename or reshape; outputs are flattened anyway.
_PASSING = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "Cast"})
#: The straight line costs a value of the frontier about this many multiplications' time.
_MULTIPLICATIONS_PER_FRONTIER_VALUE = 8


@dataclass(frozen=True)
class Entry:
    """A float tensor at which gradients begin, and the one model input that it comes from."""

    tensor: Any
    input: str


@dataclass(frozen=True)
class Cut:
    """A traced model divided in three: inputs → entries → frontier → scores.

    Args:
      scores: One tensor a head: what is explained.
      entries: The first float tensors that the scores depend on smoothly.
      frontier: Affine in the entries and all that the rest of the model needs of them; the entries themselves
        where an affine prefix would save nothing.
      shapes: Shape-only tensors of what lies before the frontier, which the rest needs.
      side_inputs: Model inputs that the rest also needs as they are (masks, lengths).
    """

    scores: tuple[Any, ...]
    entries: tuple[Entry, ...]
    frontier: tuple[Any, ...]
    shapes: tuple[Any, ...]
    side_inputs: tuple[str, ...]


def head_scores(outputs: Sequence[Any], score: str) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Finds the tensor to explain of each head.

    Args:
      outputs: The model's outputs.
      score: auto | output | logit | probability.
    Returns:
      The tensors and, a head, what each is in words: "output", "logit" or "probability".
    Raises:
      UserError: `logit` or `probability` is asked of a head that has no last softmax or sigmoid.
    """
    tensors, kinds = [], []
    for output in outputs:
        tensor = output
        while tensor.op.type in _PASSING and tensor.op.inputs[0].dtype.is_floating:
            tensor = tensor.op.inputs[0]
        has_head = tensor.op.type in _HEADS
        if score in ("logit", "probability") and not has_head:
            raise UserError(
                f"{score} is not to be had: output {output.name.split(':')[0]!r} ends in "
                f"{tensor.op.type}, not in a softmax or sigmoid",
                "model.score",
                "use auto or output",
            )
        if has_head and score in ("auto", "logit"):
            tensors.append(tensor.op.inputs[0])
            kinds.append("logit")
        else:
            tensors.append(output)
            kinds.append("probability" if has_head else "output")
    return tuple(tensors), tuple(kinds)


def find_cut(traced: TracedModel, scores: Sequence[Any], *, affine_prefix: bool = True) -> Cut:
    """Cuts a traced model where gradients can begin and, past that, where it stops being affine.

    Args:
      traced: The model.
      scores: The tensors to explain.
      affine_prefix: False keeps the frontier at the entries (to measure what the prefix gains).
    Raises:
      UserError: No smooth path leads from some input to the score, or several inputs meet before the first
        float tensor, so that gradients cannot tell them apart.
    """
    needed = traced.ancestors(scores)
    sources = _sources(traced, needed)
    entries = _entries(traced, scores, sources)
    reached = {entry.input for entry in entries}
    used = {name for name, tensor in traced.inputs.items() if tensor.op.name in needed}
    for name in sorted(used - reached):
        raise UserError(
            f"no gradient path leads from input {name!r} ({traced.inputs[name].dtype.name}) to the score", "model"
        )
    stop = frozenset(entry.tensor.name for entry in entries)
    frontier = tuple(entry.tensor for entry in entries)
    if affine_prefix:
        frontier = _frontier(traced, scores, frontier)
    shapes = _shapes_before(traced, scores, frontier, stop)
    fed = frozenset(tensor.name for tensor in (*frontier, *shapes))
    rest = traced.ancestors(scores, fed)
    side = tuple(
        name for name, tensor in traced.inputs.items() if tensor.op.name in rest and tensor.name not in fed
    )
    return Cut(tuple(scores), entries, frontier, shapes, side)


def _sources(traced: TracedModel, needed: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The model inputs whose values an op depends on, by op name; ops of shapes alone depend on none."""
    sources: dict[str, frozenset[str]] = {
        tensor.op.name: frozenset([name]) for name, tensor in traced.inputs.items()
    }
    for op in traced.graph.get_operations():  # in creation order: inputs come before what uses them
        if op.name in sources or op.name not in needed:
            continue
        found: frozenset[str] = frozenset()
        if op.type not in SHAPE_ONLY:
            for tensor in op.inputs:
                found |= sources.get(tensor.op.name, frozenset())
        sources[op.name] = found
    return sources


def _entries(
    traced: TracedModel, scores: Sequence[Any], sources: Mapping[str, frozenset[str]]
) -> tuple[Entry, ...]:
    found: dict[str, Entry] = {}
    seen: set[str] = set()
    pending = list(scores)
    order = {op.name: position for position, op in enumerate(traced.graph.get_operations())}
    while pending:
        tensor = pending.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        upstream = [
            operand
            for operand in tensor.op.inputs
            if operand.dtype.is_floating and sources.get(operand.op.name) and _has_gradient(tensor.op)
        ]
        pending.extend(upstream)
        origin = sources.get(tensor.op.name, frozenset())
        if upstream or not origin:
            continue
        if len(origin) > 1:
            raise UserError(
                f"inputs {', '.join(map(repr, sorted(origin)))} meet in {tensor.op.type} "
                f"({tensor.op.name}) before any gradient begins, so that gradients cannot tell them apart",
                "model",
            )
        found[tensor.name] = Entry(tensor, next(iter(origin)))
    return tuple(sorted(found.values(), key=lambda entry: order[entry.tensor.op.name]))


def _has_gradient(op: Any) -> bool:
    if op.type in _STEPS:
        return False
    if op.type in _CALLS:
        return True
    try:
        return tf_ops.get_gradient_function(op) is not None
    except LookupError:
        return False


def _frontier(traced: TracedModel, scores: Sequence[Any], entries: tuple[Any, ...]) -> tuple[Any, ...]:
    """The last tensors that are affine in the entries, or the entries where that would not pay."""
    entry_names = {tensor.name for tensor in entries}
    # Not past the entries: an entry may lie behind another (a bucketed copy of a float input).
    needed = traced.ancestors(scores, frozenset(entry_names))
    varying: set[str] = set(entry_names)
    affine: dict[str, Any] = {tensor.name: tensor for tensor in entries}
    saved = 0
    ordered = [op for op in traced.graph.get_operations() if op.name in needed]
    for op in ordered:
        if op.type in SHAPE_ONLY:
            continue
        operands = [tensor for tensor in op.inputs if tensor.name in varying]
        if not operands:
            continue
        varying.update(tensor.name for tensor in op.outputs)
        if all(tensor.name in affine for tensor in operands) and is_affine(op, lambda t: t.name in varying):
            # Only an op's first output is affine (a fused batch norm's others are its statistics).
            affine[op.outputs[0].name] = op.outputs[0]
            saved += multiplications(op)
    ends: dict[str, Any] = {tensor.name: tensor for tensor in scores if tensor.name in affine}
    for op in ordered:
        if op.type in SHAPE_ONLY or any(tensor.name in affine for tensor in op.outputs):
            continue
        ends.update((tensor.name, tensor) for tensor in op.inputs if tensor.name in affine)
    frontier = tuple(ends.values())
    added = sum(map(row_elements, frontier)) - sum(map(row_elements, entries))
    pays = saved > _MULTIPLICATIONS_PER_FRONTIER_VALUE * max(added, 0) and saved > 0
    return frontier if pays else entries


def _shapes_before(
    traced: TracedModel, scores: Sequence[Any], frontier: Sequence[Any], entries: frozenset[str]
) -> tuple[Any, ...]:
    """Shape-only tensors of what lies before the frontier, so that the rest need not compute it for its shape."""
    fed = frozenset(tensor.name for tensor in frontier) | entries
    before = traced.ancestors(frontier)
    rest = traced.ancestors(scores, fed)
    return tuple(
        output
        for op in rest.values()
        if op.type in ("Shape", "Size", "Rank")
        for output in op.outputs
        if op.inputs[0].op.name in before and op.inputs[0].name not in fed
    )


def check_positions(entry: Entry, input_shape: tuple[int, ...], per_row: int) -> None:
    """Refuses an entry whose values cannot be told apart by position of its input.

    Args:
      entry: The entry.
      input_shape: Of the model input, without the batch.
      per_row: How many leading rows of the entry belong to a row of the input.
    Raises:
      UserError: The layer mixes the positions of its input (multi-hot, count) before any gradient begins.
    """
    positions = 1
    for extent in input_shape:
        positions *= extent
    shape = static_shape(entry.tensor) or ()
    keeps = per_row == 1 and shape[1 : 1 + len(input_shape)] == tuple(input_shape)
    if positions == 1 or keeps or per_row == positions:
        return
    raise UserError(
        f"{entry.tensor.op.type} ({entry.tensor.op.name}) mixes the {positions} positions of input "
        f"{entry.input!r} before any gradient begins, so that gradients cannot tell them apart",
        "model",
    )
