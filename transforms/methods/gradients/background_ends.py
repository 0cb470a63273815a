"""The background's inputs and outputs of the affine prefix: cached for the run, or computed per call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.models.base import KEPT_BYTES
from transforms.models.capabilities import Gradients
from transforms.models.reference import Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class Ends:
    """The background rows' entries (inputs of the affine prefix) and frontier (its outputs).

    After a convolution of a picture a row's frontier takes megabytes. For large backgrounds it is not kept:
    each call evaluates the affine prefix for the rows that it needs.

    Args:
      differentiable: The model, cut.
      inputs: Model inputs of the R background rows, `[R, *shape]`.
      kept: Entries and frontier of all rows; None if they would take too much memory.
    """

    differentiable: Gradients
    inputs: Mapping[str, np.ndarray]
    kept: tuple[list[Any], list[Any]] | None

    @classmethod
    def made(
        cls, differentiable: Gradients, inputs: Mapping[str, np.ndarray], device_batch_size: int
    ) -> Ends:
        """Computes the ends in calls of `device_batch_size` rows at most; keeps them if memory allows."""
        from transforms.models.graphs.tensors import in_calls

        rows = len(next(iter(inputs.values())))
        if rows * differentiable.end_bytes > KEPT_BYTES:
            return cls(differentiable, inputs, None)
        entries, frontier = in_calls(differentiable.ends, inputs, device_batch_size)
        return cls(differentiable, inputs, (entries, frontier))

    def of(self, base: np.ndarray) -> tuple[tuple[Any, Any], np.ndarray]:
        """Entries and frontier for a call, and the positions of the background rows `base` in them."""
        if self.kept is not None:
            return self.kept, base
        rows, places = np.unique(base, return_inverse=True)
        # Padded to a power of two: XLA compiles anew for each shape.
        padded = rows[np.minimum(np.arange(1 << (len(rows) - 1).bit_length()), len(rows) - 1)]
        entries, frontier = self.differentiable.ends({name: v[padded] for name, v in self.inputs.items()})
        return (entries, frontier), places.reshape(base.shape).astype(np.int32)


def background_ends(model: ScoredModel, reference: Reference, device_batch_size: int) -> Ends:
    """Returns the background's entries and frontier, cached per process.

    Args:
      model: The model with its score.
      reference: The background.
      device_batch_size: Most background rows in one device call.
    """
    ends: Ends = reference.once(
        "ends", lambda: Ends.made(model.differentiable(reference.inputs), reference.inputs, device_batch_size)
    )
    return ends
