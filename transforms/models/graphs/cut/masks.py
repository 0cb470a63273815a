"""Recognises padding masks that are numbers: float tensors that only say which values of a list count.

A layer that averages over a list's words takes its mask as zeros and ones: it multiplies by the mask and
divides by the mask's sum. Such a mask is not a value of the list, unlike an indicator with learned weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.graphs.cut.entries import Entry
from transforms.models.graphs.cut.mask_questions import Questions, questions_of
from transforms.models.graphs.trace import SHAPE_ONLY, TracedModel, row_elements

#: Smallest magnitude of a constant that hides logits when it is added to them.
_FAR = 1e3
#: Ops that turn a mask into a mask, if their other operands are constants.
_KEEPING = frozenset(
    {
        "Add", "AddV2", "BroadcastTo", "Cast", "ClipByValue", "Div", "DivNoNan", "EnsureShape", "Exp",
        "ExpandDims", "Expm1", "Identity", "Log", "Log1p", "Max", "Maximum", "Mean", "Minimum", "Mul",
        "Neg", "Pow", "RealDiv", "Reciprocal", "Reshape", "Rsqrt", "Select", "SelectV2", "Snapshot", "Sqrt",
        "Square", "Squeeze", "StridedSlice", "Sub", "Sum", "Tile", "Transpose",
    }
)  # fmt: skip
_PRODUCTS = frozenset(
    {"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "MatMul", "Mul", "MulNoNan"}
)
#: Ops that may give each position a weight of its own.
_WEIGHING = frozenset({"Div", "DivNoNan", "Mul", "RealDiv"})
_QUOTIENTS = frozenset({"Div", "DivNoNan", "RealDiv"})
_SUMS = frozenset({"Add", "AddV2", "Maximum", "Minimum", "Sub"})


def held_masks(
    traced: TracedModel, scores: Sequence[Any], needed: Mapping[str, Any], entries: Sequence[Entry]
) -> frozenset[str]:
    """Names of the entries that are masks of lists, made of zeros and ones: they keep the row's values.

    A mask's gradient does not belong to single positions: the gradient at a padded word would be the score's
    gain if that word counted, and it would be the same for every padded word.

    Args:
      traced: The model.
      scores: The tensors to explain.
      needed: The ops that the scores need, by name.
      entries: The entries, where gradients begin.
    """
    answers = _answers(traced, entries)
    names = _names(e.tensor for e in answers)  # tensors are compared by name: == would add an op
    apart = {e.input for e in answers} - {e.input for e in entries if e.tensor.name not in names}
    plain = [e for e in entries if _is_plain(traced, e)]
    if not (answers or plain):
        return frozenset()
    ops = [op for op in traced.graph.get_operations() if op.name in needed]
    if not any(_scales_far(op, op.inputs) for op in ops):
        plain = []  # no op puts values out of reach, so hundreds of lists need not be followed one by one
    about = {name: questions(traced, ops, entries, answers, name) for name in {e.input for e in answers}}
    padding = [e for e in answers if about[e.input].is_padding(e.tensor)]
    # A list of integers may be the weights of a mean: it is a mask only if it puts values out of reach.
    hidden = {
        e.input for e in plain if _ways_of(traced, ops, scores, entries, [*padding, e])[e.tensor.name] > 1
    }
    asked = [*padding, *(e for e in plain if e.input in hidden)]
    masks = _ways_of(traced, ops, scores, entries, asked)
    held: set[str] = set()
    for name in {e.input for e in asked}:
        own = [e.tensor.name for e in entries if e.input == name]
        # An input that is only a mask is held as a whole or not at all.
        whole = all(masks.get(n, -1) >= 0 for n in own) and any(masks[n] for n in own)
        if whole or name not in apart | hidden:
            held.update(n for n in own if masks.get(n, -1) >= 0)
    return frozenset(held)


def switches_others(
    traced: TracedModel, needed: Mapping[str, Any], entries: Sequence[Entry], tensor: Any, name: str
) -> bool:
    """True if answers that mix the positions of an input switch values other than the input's own.

    Args:
      traced: The model.
      needed: The ops that the scores need, by name.
      entries: The entries, where gradients begin; `tensor` is not among them.
      tensor: The answers, zeros and ones.
      name: The input from which the tensor comes.
    """
    ops = [op for op in traced.graph.get_operations() if op.name in needed]
    return not questions(traced, ops, entries, _answers(traced, entries), name).is_padding(tensor)


def questions(
    traced: TracedModel, ops: Sequence[Any], entries: Sequence[Entry], asked: Sequence[Entry], name: str
) -> Questions:
    """Finds the questions about an input; if the input has no embedding, answers may switch any values.

    Args:
      traced: The model.
      ops: The ops that the scores need, in the graph's order.
      entries: The entries, where gradients begin.
      asked: The entries that are answers.
      name: The input.
    """
    answers = _names(e.tensor for e in asked)
    moved = [e for e in entries if e.tensor.name not in answers]
    values = _depending(ops, _names(e.tensor for e in moved))
    embedded = _names(e.tensor for e in moved if e.input == name)
    return questions_of(traced, ops, name, _depending(ops, embedded) if embedded else values, values)


def row_masks(traced: TracedModel, scores: Sequence[Any], entries: Sequence[Entry]) -> frozenset[str]:
    """Names of the inputs in `Cut.row_masks`; the arguments are those of `held_masks`."""
    pending = list(scores)
    seen = set(_names(entry.tensor for entry in entries))
    needed: set[str] = set()
    while pending:
        tensor = pending.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        needed.add(tensor.name)
        pending.extend(tensor.op.inputs if tensor.op.type not in SHAPE_ONLY else ())
    own = {traced.inputs[entry.input].name: entry.input for entry in entries}
    return frozenset(name for tensor, name in own.items() if tensor in needed and several(traced, name))


def hides(op: Any) -> bool:
    """True if an op replaces some values by zeros."""
    if op.type not in ("Select", "SelectV2"):
        return False
    others = [tf.get_static_value(tensor) for tensor in op.inputs[1:]]
    zeros = any(other is not None and not np.any(other) for other in others)
    return zeros or any(tensor.op.type == "ZerosLike" for tensor in op.inputs[1:])


def is_pooled(traced: TracedModel, entry: Entry, needed: Mapping[str, Any]) -> bool:
    """True if an entry is only summed over its positions, so that a zero counts as an absent value.

    Args:
      traced: The model.
      entry: The entry.
      needed: The ops that the scores need, by name.
    """
    if not several(traced, entry.input):
        return False
    for op in entry.tensor.consumers():
        if op.name not in needed or op.type in SHAPE_ONLY:
            continue
        axes = tf.get_static_value(op.inputs[1]) if op.type in ("Mean", "Sum") else None
        if axes is None:
            return False
        along = [axis % entry.positions.ndim for axis in np.atleast_1d(axes)]
        if not any((np.diff(entry.positions, axis=axis) != 0).any() for axis in along):
            return False
    return True


def puts_far(op: Any) -> bool:
    """True if an op moves values so far that a softmax gives them weight 0."""
    return op.type in ("Add", "AddV2", "Sub") and any(_far(operand) for operand in op.inputs)


def several(traced: TracedModel, name: str) -> bool:
    """True if an input has ids or strings at several positions, some of which may be padding."""
    tensor = traced.inputs[name]
    return not tensor.dtype.is_floating and row_elements(tensor) > 1


def _answers(traced: TracedModel, entries: Sequence[Entry]) -> list[Entry]:
    return [e for e in entries if several(traced, e.input) and _from_a_question(traced, e.tensor, e.input)]


def _from_a_question(traced: TracedModel, tensor: Any, name: str) -> bool:
    """True if a tensor is a cast of the answer to a question about an input, such as "is this padding?".

    Args:
      traced: The model.
      tensor: A tensor of numbers.
      name: The input from which it comes.
    """
    if tensor.op.type != "Cast":
        return False
    behind = traced.ancestors([tensor], frozenset([traced.inputs[name].name]))
    return any(output.dtype == tf.bool for op in behind.values() for output in op.outputs)


def _is_plain(traced: TracedModel, entry: Entry) -> bool:
    """True if an entry is an input's list of integers itself, cast to floats."""
    tensor = entry.tensor
    return (
        tensor.op.type == "Cast"
        and tensor.op.inputs[0].name == traced.inputs[entry.input].name
        and several(traced, entry.input)
    )


def _ways_of(
    traced: TracedModel,
    ops: Sequence[Any],
    scores: Sequence[Any],
    entries: Sequence[Entry],
    asked: Sequence[Entry],
) -> dict[str, int]:
    """Finds how entries mask values, if they only switch values on and off and count those left on.

    Args:
      traced: The model.
      ops: The ops that the scores need, in the graph's order.
      scores: The tensors to explain.
      entries: The entries, where gradients begin.
      asked: The entries that may be masks.
    Returns:
      For each entry, by its tensor's name: 0 if it only multiplies values; 1 if it also divides them by a
      count; 2 if it puts values out of a softmax's reach; -1 if it has any other effect. An entry that only
      multiplies values may be an interaction of two inputs rather than a mask.
    """
    tensors = [e.tensor for e in asked]
    moved = _names(e.tensor for e in entries) - _names(tensors)
    values = _depending(ops, moved)
    every = _depending((op for op in ops if not any(t.name in values for t in op.outputs)), _names(tensors))
    return {tensor.name: _way(ops, tensor, every, values, _names(scores)) for tensor in tensors}


def _way(
    ops: Sequence[Any], tensor: Any, every: frozenset[str], values: frozenset[str], scores: frozenset[str]
) -> int:
    """Finds how a tensor masks, as in `_ways_of`; `every` names the tensors computed from masks alone."""
    far = {tensor.name: False}  # for each tensor computed from the mask: whether it is beyond all logits
    way = -1
    for op in ops:
        own = [operand for operand in op.inputs if operand.name in far]
        if not own or op.type in SHAPE_ONLY or not op.outputs[0].dtype.is_floating:
            continue  # a condition or an index, through which no gradient passes
        beside = [operand for operand in op.inputs if operand.name not in every]
        beyond = any(far[operand.name] for operand in own)
        if any(operand.name in values for operand in beside):
            quotient = op.type in _QUOTIENTS and op.inputs[1].name in every
            sums = beyond and op.type in _SUMS
            if not (quotient or sums or op.type in _PRODUCTS):
                return -1
            way = max(way, 2 if sums else 1 if quotient else 0)
            continue
        keeps = op.type in _KEEPING or (op.type in _PRODUCTS and not beside)
        out = op.outputs[0].name
        # A mask times one weight per position is still a mask; with any other learned operand it is not.
        if not keeps or (op.type not in _WEIGHING and _learned(beside)) or out in scores:
            return -1
        far[out] = beyond or _scales_far(op, beside)
    return way


def _names(tensors: Iterable[Any]) -> frozenset[str]:
    """The names of tensors."""
    return frozenset(tensor.name for tensor in tensors)


def _depending(ops: Iterable[Any], starts: Iterable[str]) -> frozenset[str]:
    """Names of the tensors that depend on given tensors, including the given tensors.

    Args:
      ops: Ops of a graph, in its order.
      starts: Names of the given tensors.
    """
    names = set(starts)
    for op in ops:
        if op.type not in SHAPE_ONLY and any(tensor.name in names for tensor in op.inputs):
            names.update(tensor.name for tensor in op.outputs)
    return frozenset(names)


def _learned(beside: Iterable[Any]) -> bool:
    """True if an operand next to a mask is anything but a constant that is equal for all positions."""
    for operand in beside:
        if not operand.dtype.is_floating:
            continue  # axes, shapes, conditions
        value = tf.get_static_value(operand)
        if value is None or not np.size(value) or (np.asarray(value) != np.asarray(value).flat[0]).any():
            return True
    return False


def _scales_far(op: Any, beside: Iterable[Any]) -> bool:
    return op.type in ("Mul", "Select", "SelectV2") and any(map(_far, beside))


def _far(tensor: Any) -> bool:
    value = tf.get_static_value(tensor) if tensor.dtype.is_floating else None
    return value is not None and bool(np.abs(value).min(initial=np.inf) >= _FAR) and np.size(value) > 0
