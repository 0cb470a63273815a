"""Cuts a traced model at the tensors where gradients begin: after the lookups of ids and strings.

Finding a cut only reads the graph and runs nothing. `graphs/gradients.py` builds functions from a cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops as tf_ops

from transforms.errors import UserError
from transforms.models.graphs.cut.entries import Cut, Entry
from transforms.models.graphs.cut.frontier import affine_frontier
from transforms.models.graphs.cut.masks import held_masks, hides, is_pooled, row_masks, switches_others
from transforms.models.graphs.cut.provenance import Mixed, entry_positions, position_map
from transforms.models.graphs.cut.refusals import (
    is_smooth,
    kind_of,
    mixing,
    refuse_unreached,
    refused,
    where,
)
from transforms.models.graphs.rewrites.custom_gradients import backward_of
from transforms.models.graphs.trace import BRANCHES, LOOPS, SHAPE_ONLY, STOPS, TracedModel, static_shape

#: Ops whose registered gradient is None or zero: the score is a step function of their operands.
STEPS = frozenset({"Floor", "Ceil", "Round", "Rint", "Sign", "FloorDiv", "TruncateDiv"})
#: Ops that TensorFlow differentiates through their bodies, or that are replayed as the identity.
_THROUGH = frozenset({"PartitionedCall", "StatefulPartitionedCall", "IdentityN"}) | STOPS
#: Prefixes of op types; the number of values that such an op returns depends on its operands' values.
_OF_ANY_LENGTH = ("NonMaxSuppression", "Ragged", "StringNGrams", "StringSplit", "Unicode", "Unique", "Where")
_HEADS = frozenset({"Softmax", "Sigmoid"})
#: Ops that may follow the last softmax: they only rename or reshape, and outputs are flattened anyway.
_PASSING = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "Cast"})


def head_scores(
    outputs: Sequence[Any], names: Sequence[str], score: str
) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Finds the tensor to explain for each head.

    Args:
      outputs: The model's outputs.
      names: Names of the heads.
      score: auto | output | logit | probability.
    Returns:
      The tensor of each head, and its kind: "output", "logit" or "probability".
    Raises:
      UserError: The score is `logit` or `probability`, and a head does not end in a softmax or sigmoid.
    """
    tensors, kinds = [], []
    for name, output in zip(names, outputs, strict=True):
        tensor = output
        while tensor.op.type in _PASSING and tensor.op.inputs[0].dtype.is_floating:
            tensor = tensor.op.inputs[0]
        has_head = tensor.op.type in _HEADS
        if score in ("logit", "probability") and not has_head:
            raise UserError(
                f"{score} is not available: output {name!r} ends in {tensor.op.type}, not softmax or sigmoid",
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


def find_cut(
    traced: TracedModel,
    scores: Sequence[Any],
    *,
    affine_prefix: bool = True,
    held: frozenset[str] = frozenset(),
    hold_masks: bool = True,
) -> Cut:
    """Cuts a traced model where gradients can begin and, further on, where it stops being affine.

    Args:
      traced: The model.
      scores: The tensors to explain.
      affine_prefix: False keeps the frontier at the entries (to measure the gain of the prefix).
      held: Names of inputs that keep the row's values, and through which no gradient is wanted.
      hold_masks: Whether masks of zeros and ones keep the row's values, as boolean masks always do; if False,
        such masks are entries like any other tensor.
    Raises:
      MaskInputs: Some inputs only switch values on and off.
      UserError: No smooth path leads from some input to the score, or several inputs meet before the first
        float tensor, so that gradients cannot tell them apart.
    """
    needed = traced.ancestors(scores)
    whole = input_sources(traced, needed)
    sources = {name: unswitched - held for name, unswitched in whole.items()} if held else whole
    used = {n for n, tensor in traced.inputs.items() if tensor.op.name in needed and n not in held}
    for name in sorted(used & traced.opaque):
        raise refused(
            f"no gradients can be taken through the {kind_of(traced, name)} input {name!r} of a SavedModel",
            "give a .keras file of the same model",
        )
    entries, mixed = _with_positions(traced, _entries(traced, scores, sources))
    masked: frozenset[str] = frozenset()
    held_names: frozenset[str] = frozenset()
    if hold_masks:
        for tensor, name, op in mixed:
            if switches_others(traced, needed, entries, tensor, name):
                raise mixing(name, op)
        held_names = held_masks(traced, scores, needed, entries)
        entries = tuple(entry for entry in entries if entry.tensor.name not in held_names)
        masked = row_masks(traced, scores, entries)
        switched = frozenset(
            entry.input
            for entry in entries
            if hides(entry.tensor.op) and (entry.input in masked or is_pooled(traced, entry, needed))
        )
        if switched:
            # The masks of these lists may be held, so gradients begin before the op that applies the mask.
            unswitched = [
                e for e in _entries(traced, scores, sources, switched) if e[0].name not in held_names
            ]
            entries, _ = _with_positions(traced, unswitched)
            masked = row_masks(traced, scores, entries)
    for entry in entries:
        for name in sorted(whole.get(entry.tensor.op.name, frozenset()) & held):
            raise refused(
                f"inputs {entry.input!r} and {name!r}, which is held, meet in {where(entry.tensor.op)} "
                "before any gradient begins",
            )
    reached = {entry.input for entry in entries}
    unreached = sorted(used - reached)
    if unreached:
        refuse_unreached(traced, unreached, needed, sources, held_names)
    stop = frozenset(entry.tensor.name for entry in entries)
    frontier = tuple(entry.tensor for entry in entries)
    if affine_prefix:
        # Values that stay the same along a whole path count as constants.
        moving = {name: origin - masked for name, origin in whole.items()} if masked else whole
        frontier = affine_frontier(traced, scores, frontier, moving)
    shapes = _shapes_before(traced, scores, frontier, stop)
    fed = frozenset(tensor.name for tensor in (*frontier, *shapes))
    rest = traced.ancestors(scores, fed)
    side = tuple(
        name for name, tensor in traced.inputs.items() if tensor.op.name in rest and tensor.name not in fed
    )
    return Cut(tuple(scores), entries, frontier, shapes, side, tuple(n for n in traced.inputs if n in masked))


def input_sources(traced: TracedModel, needed: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The model inputs on which each op's values depend, by op name; shape-only ops depend on none."""
    sources: dict[str, frozenset[str]] = {
        tensor.op.name: frozenset([name]) for name, tensor in traced.inputs.items()
    }
    for op in traced.graph.get_operations():  # in creation order: inputs come before what uses them
        if op.name in sources or op.name not in needed:
            continue
        origin: frozenset[str] = frozenset()
        if op.type not in SHAPE_ONLY:
            for tensor in op.inputs:
                origin |= sources.get(tensor.op.name, frozenset())
        sources[op.name] = origin
    return sources


def _entries(
    traced: TracedModel,
    scores: Sequence[Any],
    sources: Mapping[str, frozenset[str]],
    masked: frozenset[str] = frozenset(),
) -> list[tuple[Any, str]]:
    """The first float tensors on which the scores depend smoothly, with their inputs, in the graph's order.

    Args:
      traced: The model.
      scores: The tensors to explain.
      sources: The inputs on which each op depends, by op name.
      masked: Inputs with held masks: gradients begin before the op that applies the mask.
    """
    tensors: dict[str, tuple[Any, str]] = {}
    seen: set[str] = set()
    pending = list(scores)
    while pending:
        tensor = pending.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        upstream = [
            operand
            for operand in _differentiated(tensor.op)
            if is_smooth(operand) and sources.get(operand.op.name)
        ]
        origin = sources.get(tensor.op.name, frozenset())
        if _switched_by_ids(traced, tensor, origin, sources) and not (origin <= masked and hides(tensor.op)):
            upstream = []
        pending.extend(upstream)
        if upstream or not origin or not tensor.dtype.is_floating:
            continue
        if len(origin) > 1:
            raise refused(
                f"inputs {', '.join(map(repr, sorted(origin)))} meet in {where(tensor.op)} before any "
                "gradient begins, so that gradients cannot tell them apart",
            )
        tensors[tensor.name] = (tensor, next(iter(origin)))
    order = {op.name: position for position, op in enumerate(traced.graph.get_operations())}
    return sorted(tensors.values(), key=lambda entry: order[entry[0].op.name])


def _switched_by_ids(
    traced: TracedModel, tensor: Any, origin: frozenset[str], sources: Mapping[str, frozenset[str]]
) -> bool:
    """True if ids switch the values of a tensor that comes from these ids, as in a masked embedding.

    Gradients begin after such a switch. If they began before it, the path would keep the row's mask, and the
    sum would lack the mask's own effect.
    """
    if tensor.op.type not in ("Select", "SelectV2") or len(origin) != 1:
        return False
    name = next(iter(origin))
    if traced.inputs[name].dtype.is_floating or not sources.get(tensor.op.inputs[0].op.name):
        return False
    try:
        position_map(traced, tensor, name)
    except Mixed:
        return False
    return True


def _with_positions(
    traced: TracedModel, found: Sequence[tuple[Any, str]]
) -> tuple[tuple[Entry, ...], list[tuple[Any, str, Any]]]:
    """Builds entries with their positions; also returns masks that mix positions.

    A mask that mixes positions says, for example, which token may attend to which. It is not an entry if its
    input has other entries: it keeps the row's values, and is returned as (tensor, input, op that mixes).

    Raises:
      UserError: A layer mixes the positions of its input before any gradient begins.
    """
    entries: list[Entry] = []
    mixed: list[tuple[Any, str, Any]] = []
    for tensor, name in found:
        try:
            entries.append(Entry(tensor, name, entry_positions(traced, tensor, name)))
        except Mixed as error:
            mixed.append((tensor, name, error.op))
    reached = {entry.input for entry in entries}
    for tensor, name, op in mixed:
        mask = tensor.op.type == "Cast" and tensor.op.inputs[0].dtype == tf.bool
        if not (mask and name in reached):
            raise mixing(name, op)
    return tuple(entries), mixed


def _differentiated(op: Any) -> list[Any]:
    """The operands with respect to which TensorFlow can differentiate an op."""
    backward = backward_of(op)
    if backward is not None:
        return [op.inputs[place] for place in backward.results]
    return list(op.inputs) if _has_gradient(op) else []


def _has_gradient(op: Any) -> bool:
    if op.type in STEPS:
        return False
    if op.type in _THROUGH:
        return True
    try:
        return tf_ops.get_gradient_function(op) is not None
    except LookupError:
        return False


def equalities(traced: TracedModel, cut: Cut) -> list[Any]:
    """Outputs of equality tests on values that move along a path, such as a test for a padding constant."""
    moved = {entry.tensor.name for entry in cut.entries}
    rest = traced.ancestors(cut.scores, frozenset(moved))
    comparisons = []
    for op in traced.graph.get_operations():
        if op.name not in rest or not any(tensor.name in moved for tensor in op.inputs):
            continue
        if op.type in ("Equal", "NotEqual"):
            comparisons.append(op.outputs[0])
        if op.type not in LOOPS | BRANCHES:  # their bodies are not followed
            moved.update(tensor.name for tensor in op.outputs if tensor.dtype.is_floating)
    return comparisons


def _shapes_before(
    traced: TracedModel, scores: Sequence[Any], frontier: Sequence[Any], entries: frozenset[str]
) -> tuple[Any, ...]:
    """Shapes of tensors before the frontier: if they are fed, the rest need not compute those tensors."""
    fed = frozenset(tensor.name for tensor in frontier) | entries
    before = traced.ancestors(frontier)
    rest = traced.ancestors(scores, fed)
    return tuple(
        output
        for op in rest.values()
        if op.type in ("Shape", "Size", "Rank")
        for output in op.outputs
        if op.inputs[0].op.name in before and op.inputs[0].name not in fed and not _depends_on_content(op)
    )


def _depends_on_content(op: Any) -> bool:
    """True if a shape may depend on the values of rows, rather than only on their number."""
    seen: set[str] = set()
    pending = [op.inputs[0].op]
    while pending:
        behind = pending.pop()
        if behind.name in seen or behind.type in SHAPE_ONLY:
            continue
        seen.add(behind.name)
        tails = (static_shape(behind.outputs[0]) or (None, None))[1:] if behind.outputs else ()
        if behind.type == "RaggedTensorToTensor" and None not in tails:
            continue  # rows have equal lengths again
        if behind.type.startswith(_OF_ANY_LENGTH):
            return True
        pending.extend(tensor.op for tensor in behind.inputs)
    return False
