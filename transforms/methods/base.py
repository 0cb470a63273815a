"""What a method of attribution is, what it is given, and how its rows are cut into device calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from transforms.methods.calls import run_calls
from transforms.models.base import TARGETS_AT_ONCE
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class Needs:
    """What a method asks of a model and of the baseline.

    Args:
      gradients: Gradients of the score; otherwise evaluations are enough, and any model will do.
      background: Many reference rows rather than one.
      trees: The trees of a tree model.
      rescale: A rule of DeepLIFT's for every op between the inputs and the score.
    """

    gradients: bool
    background: bool
    trees: bool = False
    rescale: bool = False


@dataclass(frozen=True)
class Attribution:
    """φ of a batch of rows, with what is needed to judge it.

    Args:
      values: φ by model input, `[B, T, *shape]` float32, in units of the score.
      prediction: The score, `[B, T]`.
      output: What the model itself returns for the target, `[B, T]`.
      base_value: Mean score over the background, `[B, T]`; under the row's own mask where a path has that.
      convergence_delta: Σφ − (prediction − base_value), `[B, T]`; None where no sum is promised.
      standard_error: Like `values`, from methods that sample.
      limited: Rows that a limit (max_steps, a sampling cap) kept above the tolerance, `[B]` bool.
      fit: Share of the expected score that a local surrogate explains, `[B, T]`; from LIME.
    """

    values: Arrays
    prediction: np.ndarray
    output: np.ndarray
    base_value: np.ndarray
    convergence_delta: np.ndarray | None
    standard_error: Arrays | None
    limited: np.ndarray
    fit: np.ndarray | None = None


class AttributionMethod(Protocol):
    """A frozen dataclass whose fields are the method's keys in the config.

    Attributes:
      cap: The key that says how far a method with a tolerance goes.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    when: ClassVar[str]
    needs: ClassVar[Needs]
    additive: ClassVar[bool]

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """Model evaluations a row costs: the planner's and the batcher's cost model."""

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Attributes the score of each row to the model's inputs.

        Args:
          model: The model with its score.
          inputs: Model inputs, `[B, *shape]`.
          reference: Baseline or background.
          targets: Output index, `[B, T]`.
          seeds: A key for the row's random numbers, `[B]` uint64.
          device_batch_size: Most model evaluations in one device call.
        """


#: What the blocks of a masking method's scores take, with what is made of them.
_BLOCKS_BYTES = 128 << 20


def working_bytes(
    method: AttributionMethod, rows: int, targets: int, values: int, players: int, evaluations: int
) -> int:
    """Memory of this process that a method works with on a batch, at most; device calls are beside it.

    Args:
      method: With its keys; its own `held_bytes` of so many players is what it keeps whatever the rows.
      rows: Of the batch.
      targets: Of a row.
      values: Of a row, that are attributed to.
      players: That a masking method keeps or replaces.
      evaluations: Of the model, for a row.
    """
    held = getattr(method, "held_bytes", None)
    fixed = 0 if held is None else int(held(players))
    if method.needs.trees:
        return fixed + rows * targets * values * 40
    if not method.needs.gradients:
        # In double precision, with squares, and what it becomes by model input.
        blocks = min(_BLOCKS_BYTES, 4 * 8 * rows * targets * evaluations)
        return fixed + rows * targets * (players * 32 + values * 12) + blocks
    # Calls' results, and all of them joined; of what samples and looks at the squares, means and squares in
    # double precision.
    squares = hasattr(method, "noise") or getattr(method, "standard_error", False)
    squares = squares or getattr(method, "tolerance", None) is not None
    turns = 8 if targets > TARGETS_AT_ONCE else 0
    return fixed + rows * targets * values * (56 if squares else 16 + turns)


def take(arrays: Arrays, index: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each array; a whole, ordered range is not copied."""
    first = int(index[0])
    if np.array_equal(index, np.arange(first, first + len(index))):
        return {name: value[first : first + len(index)] for name, value in arrays.items()}
    return {name: value[index] for name, value in arrays.items()}


def predict(
    model: ScoredModel, inputs: Arrays, targets: np.ndarray, device_batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and outputs of the rows' targets, each `[B, T]`. Cost: one evaluation a row."""
    scores, outputs = evaluate(model, inputs, device_batch_size)
    return np.take_along_axis(scores, targets, axis=1), np.take_along_axis(outputs, targets, axis=1)


def evaluate(model: ScoredModel, inputs: Arrays, device_batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and outputs of all targets, each `[B, T]`, in padded device calls."""

    def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
        score, output = model.evaluate(take(inputs, index))
        return ({"score": score, "output": output},)

    (found,) = run_calls(len(next(iter(inputs.values()))), device_batch_size, call)
    return found["score"], found["output"]


def totals(values: Arrays) -> np.ndarray:
    """Σφ over all features, `[B, T]`, summed in float64."""
    total = None
    for value in values.values():
        part = value.reshape(*value.shape[:2], -1).sum(axis=2, dtype=np.float64)
        total = part if total is None else total + part
    assert total is not None, "a model has at least one input"
    return total


def convergence_delta(values: Arrays, prediction: np.ndarray, base_value: np.ndarray) -> np.ndarray:
    """Σφ − (prediction − base_value), `[B, T]` float32."""
    delta: np.ndarray = (totals(values) - (prediction.astype(np.float64) - base_value)).astype(np.float32)
    return delta


def limits(spread: np.ndarray, tolerance: float) -> np.ndarray:
    """The error that a tolerance allows, like `spread`; none is asked of a score that does not vary."""
    limit: np.ndarray = np.where(spread > 0, tolerance * spread, np.inf)
    return limit


def column(per_row: np.ndarray, like: np.ndarray) -> np.ndarray:
    """One number a row, `[B]`, in the type of `like` and shaped to be multiplied with it, `[B, 1, …]`."""
    return per_row.astype(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def concatenate(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins dictionaries of arrays along the first axis."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
