"""Recognises padding masks among a model's questions: its boolean ops on the ids of a list.

A model may ask several questions about an embedded list. "Is this value padding?" decides, value by value,
which of the list's own values count. "Does this word make a price count?" and "how many are there?" have
effects of their own: their answers are not padding masks, even if they look like masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from transforms.models.graphs.trace import SHAPE_ONLY, TracedModel, row_elements

#: Ops that reduce many positions to one value.
_REDUCING = frozenset({"All", "Any", "Max", "Mean", "Min", "Prod", "Sum"})


@dataclass(frozen=True)
class Questions:
    """The questions that a model asks about one input, up to the ops where answers meet values.

    Args:
      asked: The questions behind each tensor that is computed from answers alone, by the tensor's name.
      padding: Questions with answers that switch the input's own values on and off, position by position.
    """

    asked: dict[str, frozenset[str]]
    padding: frozenset[str]

    def is_padding(self, tensor: Any) -> bool:
        """True if a tensor of answers comes only from questions about padding."""
        return self.asked.get(tensor.name, frozenset()) <= self.padding


def questions_of(
    traced: TracedModel, ops: Sequence[Any], name: str, own: frozenset[str], values: frozenset[str]
) -> Questions:
    """Follows a model's questions about an input up to the ops where answers meet values.

    Args:
      traced: The model.
      ops: The ops that the scores need, in the graph's order.
      name: The input.
      own: Names of the tensors that depend on the input's values; answers do not count as values.
      values: Names of the tensors that depend on the values of any input.
    Cost: one walk over the ops.
    """
    source = {traced.inputs[name].name}  # tensors that are computed from the input and are not answers
    # For each tensor of answers: its questions, and whether it holds one answer for the whole list.
    answers: dict[str, tuple[frozenset[str], bool]] = {}
    padding: set[str] = set()
    for op in ops:
        if op.type in SHAPE_ONLY:
            continue
        met = [answers[operand.name] for operand in op.inputs if operand.name in answers]
        if met:
            asked = frozenset[str]().union(*(questions for questions, _ in met))
            whole = all(one for _, one in met)
            if any(operand.name in own for operand in op.inputs):
                padding.update(asked if not whole else ())
            if any(operand.name in values for operand in op.inputs):
                continue
            # Comparing a length with positions makes a mask again, with one answer per position.
            placed = whole and op.outputs and op.outputs[0].dtype == tf.bool and _is_wider(op)
            whole = not placed and (whole or op.type in _REDUCING)
            answers.update((tensor.name, (asked, whole)) for tensor in op.outputs)
        elif any(operand.name in source for operand in op.inputs):
            if any(tensor.dtype == tf.bool for tensor in op.outputs):
                question = frozenset([_signature(op)])
                answers.update((tensor.name, (question, False)) for tensor in op.outputs)
            elif not any(tensor.name in values for tensor in op.outputs):
                source.update(tensor.name for tensor in op.outputs)
    return Questions({tensor: asked for tensor, (asked, _) in answers.items()}, frozenset(padding))


def _is_wider(op: Any) -> bool:
    return row_elements(op.outputs[0]) > min(row_elements(operand) for operand in op.inputs)


def _signature(op: Any) -> str:
    """Describes an op by a text that is equal for equal questions."""
    operands = []
    for tensor in op.inputs:
        value = tf.get_static_value(tensor)
        if value is not None:
            operands.append(repr(value.tolist()))
        elif tensor.op.inputs and tensor.op.type in ("Cast", "ExpandDims", "Identity", "Reshape"):
            operands.append(
                _signature(tensor.op.inputs[0].op)
                if tensor.op.inputs[0].op.inputs
                else tensor.op.inputs[0].name
            )
        else:
            operands.append(tensor.name)
    return f"{op.type}({', '.join(operands)})"
