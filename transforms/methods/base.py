"""What a method of attribution is, what it is given, and how its rows are cut into device calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from transforms.methods.calls import run_calls
from transforms.methods.gradients.background_ends import Ends
from transforms.models.players import Players

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel

Arrays = Mapping[str, np.ndarray]


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
      players: What masking methods keep and replace; every value of the inputs unless told otherwise.
      seed: Of the run: what all rows have in common, such as coalitions, is drawn with it.
      yardstick: What a convergence delta is measured by, `[T]`; the spread unless told otherwise.
    """

    inputs: Arrays
    scores: np.ndarray
    spread: np.ndarray
    noise: tuple[np.ndarray, ...] = ()
    players: Players = None  # type: ignore[assignment] # filled in below where it is left out
    seed: int = 0
    yardstick: np.ndarray = None  # type: ignore[assignment] # filled in below where it is left out
    # Not taken over by dataclasses.replace: another background has other things to keep.
    _kept: dict[str, Any] = field(default_factory=dict, repr=False, init=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False, init=False)

    def __post_init__(self) -> None:
        if self.players is None:
            self.players = Players.each({name: value.shape[1:] for name, value in self.inputs.items()})
        if self.yardstick is None:
            self.yardstick = self.spread

    @property
    def rows(self) -> int:
        """Background rows R."""
        return len(self.scores)

    @property
    def base_values(self) -> np.ndarray:
        """Mean score over the background, `[T]` float32."""
        mean: np.ndarray = self.scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What a method computes of the background once a process, whichever thread asks first."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]

    def latest(self, name: str, size: int, make: Callable[[], Any]) -> Any:
        """The same of what is cut by a size: only that of the last one asked for is kept.

        A size changes when the memory has run out: what is of no more use must not stay there.
        """
        with self._lock:
            known, found = self._kept.get(name, (None, None))
            if known != size:
                del found
                self._kept.pop(name, None)
                found = make()
                self._kept[name] = (size, found)
            return found

    def ends(self, model: ScoredModel, device_batch_size: int) -> Ends:
        """Entries and affine frontier of the background rows; what is kept of them, computed once a process.

        Args:
          model: The model.
          device_batch_size: Most background rows in one device call.
        """
        found: Ends = self.once(
            "ends", lambda: Ends.made(model.differentiable(self.inputs), self.inputs, device_batch_size)
        )
        return found


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


#: Gradients of this many targets share one forward pass; more targets are taken in turns.
TARGETS_AT_ONCE = 8
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
