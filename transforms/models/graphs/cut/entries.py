"""A traced model divided: the tensors at which gradients begin, and those up to which it is affine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
      row_masks: Inputs of ids or strings that have entries, and are also needed behind these as they are:
        what the model makes of them there, a mask of their padding, stays the row's.
    """

    scores: tuple[Any, ...]
    entries: tuple[Entry, ...]
    frontier: tuple[Any, ...]
    shapes: tuple[Any, ...]
    side_inputs: tuple[str, ...]
    row_masks: tuple[str, ...] = ()

    @property
    def fed(self) -> frozenset[str]:
        """Names of the tensors at which the rest of the model begins."""
        return frozenset(tensor.name for tensor in (*self.frontier, *self.shapes))

    @property
    def has_prefix(self) -> bool:
        """Whether the frontier lies behind the entries."""
        return [tensor.name for tensor in self.frontier] != [entry.tensor.name for entry in self.entries]
