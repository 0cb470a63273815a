"""A model's cut: the tensors at which gradients begin, and the tensors up to which the model is affine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Entry:
    """A float tensor at which gradients begin.

    Args:
      tensor: A tensor of the traced model.
      input: The only model input from which it comes.
      positions: Position in the flattened input from which each value comes, or NOWHERE or EVERYWHERE (see
        `provenance.py`): `[lead, *shape]`, with `lead` rows of the tensor per row of the input.
    """

    tensor: Any
    input: str
    positions: np.ndarray = field(compare=False)


@dataclass(frozen=True)
class Cut:
    """A traced model divided in three: inputs → entries → frontier → scores; the last part is "the rest".

    Args:
      scores: The tensors to explain, one for each head.
      entries: The first float tensors on which the scores depend smoothly.
      frontier: Tensors that are affine in the entries, and through which alone the rest depends on the
        entries. They are the entries themselves if an affine prefix would save nothing.
      shapes: Shapes of tensors before the frontier that the rest needs.
      side_inputs: Names of model inputs that the rest also needs unchanged (masks, lengths).
      row_masks: Names of inputs of ids or strings that have entries and that the model also needs unchanged
        after the entries. What the model computes from such an input after the entries, a mask of the input's
        padding, keeps the row's values.
    """

    scores: tuple[Any, ...]
    entries: tuple[Entry, ...]
    frontier: tuple[Any, ...]
    shapes: tuple[Any, ...]
    side_inputs: tuple[str, ...]
    row_masks: tuple[str, ...] = ()

    @property
    def fed(self) -> frozenset[str]:
        """Names of the tensors at which the rest begins."""
        return frozenset(tensor.name for tensor in (*self.frontier, *self.shapes))

    @property
    def has_prefix(self) -> bool:
        """True if the frontier lies after the entries."""
        return [tensor.name for tensor in self.frontier] != [entry.tensor.name for entry in self.entries]
