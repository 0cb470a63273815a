"""Errors that say why gradients cannot be taken; callers add the methods that could be used instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import tensorflow as tf

from transforms.models.base import MaskInputs, NoGradients
from transforms.models.graphs.cut.masks import puts_far
from transforms.models.graphs.trace import BRANCHES, LOOPS, SHAPE_ONLY, TracedModel


def refuse_unreached(
    traced: TracedModel,
    names: Sequence[str],
    needed: Mapping[str, Any],
    sources: Mapping[str, frozenset[str]],
    masks: frozenset[str],
) -> NoReturn:
    """Refuses a model in which no gradient path leads from some inputs.

    Args:
      traced: The model.
      names: Names of the inputs.
      needed: The ops that the scores need, by name.
      sources: The inputs on which each op depends, by op name.
      masks: Names of tensors of zeros and ones that only switch values on and off, and count those left on.
    Raises:
      MaskInputs: The inputs only switch values on and off.
      NoGradients: The inputs have other effects.
    """
    what = f"no gradient path leads from the {kind_of(traced, names[0])} input {names[0]!r} to the score"
    if all(_only_masks(traced, name, needed, sources, masks) for name in names):
        fixed = ", ".join(f"{{name: {name}, fixed: true}}" for name in names)
        remedy = f"if it is a mask, hold it at the row's value, with {fixed} in input.features"
        raise MaskInputs(what, "model", remedy, tuple(names))
    raise refused(what)


def _only_masks(
    traced: TracedModel,
    name: str,
    needed: Mapping[str, Any],
    sources: Mapping[str, frozenset[str]],
    masks: frozenset[str],
) -> bool:
    """True if an input only decides which values count.

    The values that it rejects are replaced by constants, or moved so far that a softmax gives them weight 0.
    """
    reached = {traced.inputs[name].name}
    for op in traced.graph.get_operations():
        operands = [tensor for tensor in op.inputs if tensor.name in reached]
        if op.name not in needed or op.type in SHAPE_ONLY or not operands:
            continue
        if op.type in LOOPS | BRANCHES or any(tensor.name in masks for tensor in op.outputs):
            continue
        if not any(is_smooth(tensor) for tensor in op.outputs):
            reached.update(tensor.name for tensor in op.outputs)
            continue
        off = [not sources.get(tensor.op.name) or puts_far(tensor.op) for tensor in op.inputs[1:]]
        if op.type not in ("Select", "SelectV2") or not any(off) or operands != [op.inputs[0]]:
            return False
    return True


def refused(what: str, remedy: str | None = None) -> NoGradients:
    """Makes the error about a model that has no gradients."""
    return NoGradients(what, "model", remedy)


def mixing(name: str, op: Any) -> NoGradients:
    """Makes the error about an op that mixes the values of an input before any gradient begins."""
    if op.type == "XlaCallModule":
        return refused(
            "the SavedModel was stored without the gradients of its JAX function",
            "store it with jax2tf.convert(…, with_gradient=True) and tf.saved_model.SaveOptions("
            "experimental_custom_gradients=True)",
        )
    return refused(
        f"{where(op)} mixes the values of input {name!r} before any gradient begins, so that "
        "gradients cannot tell them apart",
    )


def kind_of(traced: TracedModel, name: str) -> str:
    """The numpy name of an input's type."""
    return str(traced.inputs[name].dtype.name)


def where(op: Any) -> str:
    """An op's type and name, for an error."""
    return f"{op.type} ({op.name})"


def is_smooth(tensor: Any) -> bool:
    """True if gradients can pass through a tensor of this type."""
    # Variants are lists of tensors, as in recurrent layers; complex numbers occur between a signal and its
    # power spectrum.
    return bool(tensor.dtype.is_floating or tensor.dtype.is_complex or tensor.dtype == tf.variant)
