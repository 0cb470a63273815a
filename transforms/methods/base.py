"""What a method of attribution is, what it is given, and how its rows are cut into device calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from transforms.methods.calls import run_calls

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Needs:
    """What a method asks of a model and of the baseline.

    Args:
      gradients: Gradients of the score; otherwise evaluations are enough, and any model will do.
      background: Many reference rows rather than one.
      rescale: A rule of DeepLIFT's for every op between the inputs and the score.
    """

    gradients: bool
    background: bool
    rescale: bool = False


@dataclass
class Reference:
    """The baseline or background, with what is computed of it once for the whole run.

    Args:
      inputs: Model inputs of the R background rows, `[R, *shape]`.
      scores: Their scores, `[R, T]` over all targets.
      spread: Population standard deviation of the score, `[T]`: over the background, or, with one baseline
        row, over the run's first rows.
      noise: Standard deviation of each entry of the model over the same rows, `[per_row, *shape]` where a row
        holds `per_row` of the entry's leading rows; smoothgrad's unit.
    """

    inputs: Arrays
    scores: np.ndarray
    spread: np.ndarray
    noise: tuple[np.ndarray, ...] = ()
    _ends: list[Any] = field(default_factory=list, repr=False)
    _parts: dict[int, Any] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        """Background rows R."""
        return len(self.scores)

    @property
    def base_values(self) -> np.ndarray:
        """Mean score over the background, `[T]` float32."""
        mean: np.ndarray = self.scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def ends(self, model: ScoredModel) -> tuple[Any, Any]:
        """Entries and affine frontier of the background rows, computed once a process."""
        if not self._ends:
            self._ends.append(model.differentiable(self.inputs).ends(dict(self.inputs)))
        return self._ends[0]

    def parts(self, model: ScoredModel, rows: int) -> Any:
        """The background in parts of `rows` rows as DeepLIFT's rules need it, computed once a process."""
        if rows not in self._parts:
            self._parts[rows] = model.rescaled(self.inputs).background(self.inputs, rows)
        return self._parts[rows]


@dataclass(frozen=True)
class Attribution:
    """φ of a batch of rows, with what is needed to judge it.

    Args:
      values: φ by model input, `[B, T, *shape]` float32, in units of the score.
      prediction: The score, `[B, T]`.
      output: What the model itself returns for the target, `[B, T]`.
      base_value: Mean score over the background, `[B, T]`.
      convergence_delta: Σφ − (prediction − base_value), `[B, T]`; None where no sum is promised.
      standard_error: Like `values`, from methods that sample.
      limited: Rows that a limit (max_steps, a sampling cap) kept above the tolerance, `[B]` bool.
    """

    values: Arrays
    prediction: np.ndarray
    output: np.ndarray
    base_value: np.ndarray
    convergence_delta: np.ndarray | None
    standard_error: Arrays | None
    limited: np.ndarray


class AttributionMethod(Protocol):
    """A frozen dataclass whose fields are the method's keys in the config."""

    name: ClassVar[str]
    summary: ClassVar[str]
    when: ClassVar[str]
    needs: ClassVar[Needs]
    additive: ClassVar[bool]

    def evaluations_per_row(self, background_rows: int) -> int:
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
