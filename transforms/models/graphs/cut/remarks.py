"""Remarks on a model's gradients for the plan and the manifest: on rounding layers, masks and split texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transforms.errors import UserError
from transforms.models.graphs.cut.cut import STEPS, equalities, find_cut, input_sources
from transforms.models.graphs.cut.entries import Cut
from transforms.models.graphs.cut.masks import several
from transforms.models.graphs.rewrites.custom_gradients import backward_of
from transforms.models.graphs.trace import TracedModel
from transforms.wording import names_in_words

#: Prefixes of the types of ops that round and have a straight-through gradient.
_FAKE = ("FakeQuantWithMinMax", "QuantizeAndDequantize")
_SPLITS = ("StringSplit", "UnicodeDecode", "StringNGrams")
#: Largest number of layers that a remark names.
_MOST = 3


def split_texts(traced: TracedModel) -> tuple[str, ...]:
    """Names of string inputs that the model itself splits."""
    needed = traced.ancestors(traced.outputs)
    sources = input_sources(traced, needed)
    names: set[str] = set()
    for op in needed.values():
        if op.type.startswith(_SPLITS):
            names |= sources.get(op.name, frozenset())
    return tuple(name for name in traced.inputs if name in names)


def masked_lists(
    traced: TracedModel, scores: Sequence[Any], held: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Names of inputs that are lists of ids or strings whose padding the model masks.

    Args:
      traced: The model.
      scores: The tensors to explain, one for each head.
      held: Inputs that keep the row's values.
    """
    if not any(several(traced, name) for name in traced.inputs):
        return ()
    try:
        return find_cut(traced, scores, affine_prefix=False, held=held).row_masks
    except UserError:  # no gradient reaches some input, so that its masks cannot be found
        return ()


def remarks_on_gradients(traced: TracedModel, cut: Cut, *, additive: bool, instead: str) -> list[str]:
    """Lines about the gradients of a model that has been cut, for the plan and the manifest.

    Args:
      traced: The model.
      cut: The model's cut.
      additive: Whether the method promises that attributions add up to the change of the score.
      instead: Names of methods that only evaluate the model, joined as words.
    """
    rest = traced.ancestors(cut.scores, frozenset(entry.tensor.name for entry in cut.entries))
    lines = []
    rounded = _rounded(traced, cut, rest.values())
    if rounded:
        shown = names_in_words(rounded, _MOST)
        lines.append(
            f"the model rounds in {shown} (quantised): gradients pass straight through, as those layers "
            f"define them, and need not add up to the change of the score; {instead} explain what it computes"
        )
    if not additive:
        return lines
    listed = names_in_words(cut.row_masks)
    if listed:
        lines.append(
            f"the mask that the model makes of {listed} stays the row's along the whole path and in the base "
            "value: padding gets exactly 0 and sums hold, but they leave out the effect of the mask itself "
            f"(how much of a list is padding); {instead} replace the values themselves, mask and all"
        )
    moved = {entry.input for entry in cut.entries}.difference(cut.row_masks)
    masks = [n for n in cut.side_inputs if n in moved and not traced.inputs[n].dtype.is_floating]
    if masks:
        lines.append(
            f"the mask that the model makes of {', '.join(masks)} stays the row's along the whole path, "
            "while the base value uses the baseline's mask: sums miss the effect of the mask; "
            f"{instead} replace the values themselves, mask and all"
        )
    jumping = list(dict.fromkeys(_layer(tensor.op) for tensor in equalities(traced, cut)))
    if jumping:
        lines.append(
            f"the model compares values with a constant ({', '.join(jumping[:_MOST])}: padding that is "
            "masked): the mask jumps along the path, and sums miss the effect of the jump; "
            f"{instead} are exact there"
        )
    return lines


def _rounded(traced: TracedModel, cut: Cut, ops: Iterable[Any]) -> list[str]:
    """Layers that round values computed from the entries, and yet define a gradient."""
    entries = frozenset(entry.tensor.name for entry in cut.entries)
    layers: dict[str, None] = {}
    for op in ops:
        backward = backward_of(op)
        if op.type.startswith(_FAKE):
            layers[_layer(op)] = None
        elif backward is not None:
            given = frozenset(op.inputs[place].name for place in backward.results)
            results = [t for t in op.inputs[: backward.operands] if t.name not in given]
            if any(_rounds(inner) for inner in traced.ancestors(results, given | entries).values()):
                layers[_layer(op)] = None
    return list(layers)


def _rounds(op: Any) -> bool:
    if op.type != "Cast":
        return op.type in STEPS
    source, result = op.inputs[0].dtype, op.outputs[0].dtype
    return bool(source.is_floating and (result.is_integer or result.size < 2))


def _layer(op: Any) -> str:
    """The innermost scope in an op's name, which is the name of its layer; the op's name without scopes."""
    scopes = op.name.split("/")[:-1]
    return scopes[-1] if scopes else str(op.name)
