"""Scores at the start of straight paths: those of the baseline, under the row's mask if it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from transforms.methods.base import take
from transforms.methods.calls import run_calls
from transforms.methods.gradients.background_ends import background_ends
from transforms.methods.masking.game import base_values
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


def start_values(
    model: ScoredModel, inputs: Arrays, reference: Reference, targets: np.ndarray, device_batch_size: int
) -> np.ndarray:
    """Scores at the start of the rows' paths, `[B, T]`, averaged over the R background rows.

    If the model computes a mask from a list, such as which words are padding, the row's mask is kept along
    the whole path. The path then starts at the background's words under the row's mask, and Σφ is relative
    to the score there. If no row has a mask, the result is that of `base_values`.

    Args: as for `base_values`.
    Cost: nothing, or R evaluations per row if rows have masks, or inputs fixed at the row's own values.
    """
    differentiable = model.differentiable(reference.inputs)
    if not differentiable.cut.row_masks:
        return base_values(model, inputs, reference, targets, device_batch_size)
    background = background_ends(model, reference, device_batch_size)
    every = np.arange(reference.rows, dtype=np.int32)
    paths = min(reference.rows, device_batch_size)

    def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
        chosen, total = take(inputs, index), np.zeros((len(index), targets.shape[1]))
        for first in range(0, reference.rows, paths):
            ends, base = background.of(every[first : first + paths, None])
            at = np.zeros((len(base), 1, 1), np.float32)
            scores = differentiable.path_scores(chosen, ends, base, at, targets[index])
            total += scores[:, 0].sum(axis=0, dtype=np.float64)
        return ({"score": (total / reference.rows).astype(np.float32)},)

    return run_calls(len(targets), max(1, device_batch_size // paths), call)[0]["score"]
