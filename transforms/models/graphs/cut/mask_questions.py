"""Questions that a model asks of a list about its padding: those whose answers switch its own values.

An embedded list may be asked several things. Whether a value is padding decides, value by value, which of the
list's own values count. Whether a word makes a price count, or how many there are, is worth something of its
own: no mask, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from transforms.models.graphs.trace import SHAPE_ONLY, TracedModel, row_elements

#: Ops that make one value of many positions.
_REDUCING = frozenset({"All", "Any", "Max", "Mean", "Min", "Prod", "Sum"})


@dataclass(frozen=True)
class Questions:
    """Questions that a model asks of one input, before any of its values meets the answers.

    Args:
      asked: By tensor that is made of answers alone: the questions.
      padding: Those of which some answers switch the input's own values, each at its own position.
    """

    asked: dict[str, frozenset[str]]
    padding: frozenset[str]

    def is_padding(self, tensor: Any) -> bool:
        """Whether a tensor of answers is about padding and nothing else."""
        return self.asked.get(tensor.name, frozenset()) <= self.padding


def questions_of(
    traced: TracedModel, ops: Sequence[Any], name: str, own: frozenset[str], values: frozenset[str]
) -> Questions:
    """Follows what a model asks of an input to where values are met.

    Args:
      traced: The model.
      ops: That the scores need, in the graph's order.
      name: The input.
      own: Names of the tensors that depend on its values, which the answers do not.
      values: Questions of all inputs.
    Cost: one walk over the ops.
    """
    source = {traced.inputs[name].name}  # what is made of the input and is no answer yet
    answers: dict[str, tuple[frozenset[str], bool]] = {}  # questions; whether one for the whole list
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
            # Of a length a mask is made by holding it against places.
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
    """An op in words that are the same for the same question asked twice."""
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
