"""Where gradients begin: the cut of a traced model behind its integer, string and hashed inputs.

Pure graph walking; nothing is run here. See `differentiable.py` for the functions built from a cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops as tf_ops

from transforms.errors import UserError
from transforms.models.affine import is_affine, multiplications
from transforms.models.custom import backward_of
from transforms.models.positions import Mixed, entry_positions, position_map
from transforms.models.trace import SHAPE_ONLY, STOPS, TracedModel, row_elements

#: Ops with a registered gradient that is none or zero: what is behind them moves the score in steps.
_STEPS = frozenset({"Floor", "Ceil", "Round", "Rint", "Sign", "FloorDiv", "TruncateDiv"})
#: Differentiated by TensorFlow through their bodies, or replayed as the identity.
_THROUGH = frozenset({"PartitionedCall", "StatefulPartitionedCall", "IdentityN"}) | STOPS
_HEADS = frozenset({"Softmax", "Sigmoid"})
#: Between a softmax and the output these only rename or reshape; outputs are flattened anyway.
_PASSING = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "Cast"})
#: The straight line costs a value of the frontier about this many multiplications' time.
_MULTIPLICATIONS_PER_FRONTIER_VALUE = 8


@dataclass(frozen=True)
class Entry:
    """A float tensor at which gradients begin.

    Args:
      tensor: Of the traced model.
      input: The one model input that it comes from.
      positions: Position of the flattened input that each value comes from, NOWHERE or EVERYWHERE:
        `[lead, *shape]`, with `lead` rows of the tensor for a row of the input.
    """

    tensor: Any
    input: str
    positions: np.ndarray = field(compare=False)


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

    @property
    def fed(self) -> frozenset[str]:
        """Names of the tensors at which the rest of the model begins."""
        return frozenset(tensor.name for tensor in (*self.frontier, *self.shapes))

    @property
    def has_prefix(self) -> bool:
        """Whether the frontier lies behind the entries."""
        return [tensor.name for tensor in self.frontier] != [entry.tensor.name for entry in self.entries]


def head_scores(
    outputs: Sequence[Any], names: Sequence[str], score: str
) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Finds the tensor to explain of each head.

    Args:
      outputs: The model's outputs.
      names: Of the heads.
      score: auto | output | logit | probability.
    Returns:
      The tensors and, a head, what each is in words: "output", "logit" or "probability".
    Raises:
      UserError: `logit` or `probability` is asked of a head that has no last softmax or sigmoid.
    """
    tensors, kinds = [], []
    for name, output in zip(names, outputs, strict=True):
        tensor = output
        while tensor.op.type in _PASSING and tensor.op.inputs[0].dtype.is_floating:
            tensor = tensor.op.inputs[0]
        has_head = tensor.op.type in _HEADS
        if score in ("logit", "probability") and not has_head:
            raise UserError(
                f"{score} is not to be had: output {name!r} ends in {tensor.op.type}, not in a softmax or "
                "sigmoid",
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
    sources = input_sources(traced, needed)
    used = {name for name, tensor in traced.inputs.items() if tensor.op.name in needed}
    for name in sorted(used & traced.opaque):
        raise _refused(
            f"no gradients can be taken through the {_kind(traced, name)} input {name!r} of a SavedModel",
            "a .keras file of the same model would do",
        )
    entries = _with_positions(traced, _entries(traced, scores, sources))
    reached = {entry.input for entry in entries}
    for name in sorted(used - reached):
        raise _refused(f"no gradient path leads from the {_kind(traced, name)} input {name!r} to the score")
    stop = frozenset(entry.tensor.name for entry in entries)
    frontier = tuple(entry.tensor for entry in entries)
    if affine_prefix:
        frontier = _frontier(traced, scores, frontier, sources)
    shapes = _shapes_before(traced, scores, frontier, stop)
    fed = frozenset(tensor.name for tensor in (*frontier, *shapes))
    rest = traced.ancestors(scores, fed)
    side = tuple(
        name for name, tensor in traced.inputs.items() if tensor.op.name in rest and tensor.name not in fed
    )
    return Cut(tuple(scores), entries, frontier, shapes, side)


def _refused(what: str, otherwise: str | None = None) -> UserError:
    """The error, with the methods that would do; `otherwise` where there are none."""
    from transforms.methods import METHODS

    others = [name for name, method in METHODS.items() if not method.needs.gradients]
    return UserError(
        what, "model", f"methods that need only evaluations: {', '.join(others)}" if others else otherwise
    )


def _kind(traced: TracedModel, name: str) -> str:
    return str(traced.inputs[name].dtype.name)


def input_sources(traced: TracedModel, needed: Mapping[str, Any]) -> dict[str, frozenset[str]]:
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
) -> list[tuple[Any, str]]:
    """The first float tensors that the scores depend on smoothly, with their inputs, in the graph's order."""
    found: dict[str, tuple[Any, str]] = {}
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
            if _smooth(operand) and sources.get(operand.op.name)
        ]
        origin = sources.get(tensor.op.name, frozenset())
        if _switched_by_ids(traced, tensor, origin, sources):
            upstream = []
        pending.extend(upstream)
        if upstream or not origin or not tensor.dtype.is_floating:
            continue
        if len(origin) > 1:
            raise _refused(
                f"inputs {', '.join(map(repr, sorted(origin)))} meet in {_where(tensor.op)} before any "
                "gradient begins, so that gradients cannot tell them apart"
            )
        found[tensor.name] = (tensor, next(iter(origin)))
    order = {op.name: position for position, op in enumerate(traced.graph.get_operations())}
    return sorted(found.values(), key=lambda entry: order[entry[0].op.name])


def _switched_by_ids(
    traced: TracedModel, tensor: Any, origin: frozenset[str], sources: Mapping[str, frozenset[str]]
) -> bool:
    """Whether a tensor is picked, value by value, by the ids that it comes from: an embedding under its mask.

    Gradients begin behind such a switch: in front of it the path would keep the row's mask, and the sum would
    lack what the mask is worth.
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


def _with_positions(traced: TracedModel, found: Sequence[tuple[Any, str]]) -> tuple[Entry, ...]:
    """Entries with the positions that they come from.

    A mask that mixes positions (which token may look at which) is no entry where its input has others: it is
    then held as the row has it.

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
            raise _refused(
                f"{_where(op)} mixes the values of input {name!r} before any gradient begins, so that "
                "gradients cannot tell them apart"
            )
    return tuple(entries)


def _where(op: Any) -> str:
    return f"{op.type} ({op.name})"


def _smooth(tensor: Any) -> bool:
    # Lists of tensors, which recurrent layers walk along, are variants; between a signal and its power lie
    # complex numbers.
    return bool(tensor.dtype.is_floating or tensor.dtype.is_complex or tensor.dtype == tf.variant)


def _differentiated(op: Any) -> list[Any]:
    """The operands that TensorFlow has a gradient for."""
    backward = backward_of(op)
    if backward is not None:
        return [op.inputs[place] for place in backward.results]
    return list(op.inputs) if _has_gradient(op) else []


def _has_gradient(op: Any) -> bool:
    if op.type in _STEPS:
        return False
    if op.type in _THROUGH:
        return True
    try:
        return tf_ops.get_gradient_function(op) is not None
    except LookupError:
        return False


def _frontier(
    traced: TracedModel,
    scores: Sequence[Any],
    entries: tuple[Any, ...],
    sources: Mapping[str, frozenset[str]],
) -> tuple[Any, ...]:
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
        # What else the op takes must be the same for every row, the baseline's included.
        fixed = not any(sources.get(t.op.name) for t in op.inputs if t.name not in varying)
        known = fixed and all(tensor.name in affine for tensor in operands)
        if known and is_affine(op, lambda tensor: tensor.name in varying):
            # Only an op's first output is affine (a fused batch norm's others are its statistics).
            affine[op.outputs[0].name] = op.outputs[0]
            saved += multiplications(op)
    ends: dict[str, Any] = {tensor.name: tensor for tensor in scores if tensor.name in affine}
    for op in ordered:
        if op.type in SHAPE_ONLY or any(tensor.name in affine for tensor in op.outputs):
            continue
        ends.update((tensor.name, tensor) for tensor in op.inputs if tensor.name in affine)
    frontier = _without_copies(ends, affine)
    added = sum(map(row_elements, frontier)) - sum(map(row_elements, entries))
    pays = saved > _MULTIPLICATIONS_PER_FRONTIER_VALUE * max(added, 0) and saved > 0
    return frontier if pays else entries


def _without_copies(ends: Mapping[str, Any], affine: Mapping[str, Any]) -> tuple[Any, ...]:
    """One tensor for those that differ by cheap arithmetic alone: a swish's x and βx, say."""
    chains = []
    for tensor in ends.values():
        chain = [tensor]
        while True:
            operands = [operand for operand in chain[-1].op.inputs if operand.name in affine]
            cheap = len(operands) == 1 and not multiplications(chain[-1].op)
            if not cheap or row_elements(operands[0]) > row_elements(chain[-1]):
                break
            chain.append(operands[0])
        chains.append(chain)
    shared = Counter(tensor.name for chain in chains for tensor in chain)
    kept = [max(chain, key=lambda tensor: shared[tensor.name]) for chain in chains]
    return tuple({tensor.name: tensor for tensor in kept}.values())


def _shapes_before(
    traced: TracedModel, scores: Sequence[Any], frontier: Sequence[Any], entries: frozenset[str]
) -> tuple[Any, ...]:
    """Shape-only tensors of what lies before the frontier, lest the rest compute it for its shape."""
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
