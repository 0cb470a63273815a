"""The affine frontier of a cut: the last tensors that are affine in its entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from transforms.models.graphs.affine import is_affine, multiplications
from transforms.models.graphs.trace import SHAPE_ONLY, TracedModel, row_elements

#: Rough cost of computing one frontier value at a point of the path, as a number of multiplications.
_MULTIPLICATIONS_PER_FRONTIER_VALUE = 8


def affine_frontier(
    traced: TracedModel,
    scores: Sequence[Any],
    entries: tuple[Any, ...],
    sources: Mapping[str, frozenset[str]],
) -> tuple[Any, ...]:
    """The last tensors that are affine in the entries, or the entries themselves if that saves no time."""
    entry_names = {tensor.name for tensor in entries}
    # The search stops at the entries, because one entry may depend on another: a bucketed copy of a float
    # input, for example.
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
        # The op's other operands must be the same for every row, background rows included.
        fixed = not any(sources.get(t.op.name) for t in op.inputs if t.name not in varying)
        known = fixed and all(tensor.name in affine for tensor in operands)
        if known and is_affine(op, lambda tensor: tensor.name in varying):
            # Only an op's first output is affine: the other outputs of a fused batch norm are statistics.
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
    """Keeps one tensor of several that differ only by cheap arithmetic, such as x and βx of a swish."""
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
