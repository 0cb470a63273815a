"""The contract of methods of attribution, and what they share: evaluations, sums, and taking rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import new_class
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from transforms.methods.calls import run_calls
from transforms.models.base import TARGETS_AT_ONCE
from transforms.models.players import Players
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class Needs:
    """Requirements of a method on the model and on the baseline.

    Args:
      gradients: Gradients of the score; otherwise evaluations are enough, and any model will do.
      background: Many reference rows instead of one baseline.
      trees: The trees of a tree model.
      rescale: A DeepLIFT rule for every op between the inputs and the score.
      entry_spread: The standard deviation of each value where gradients begin, in `Reference.noise`.
    """

    gradients: bool
    background: bool
    trees: bool = False
    rescale: bool = False
    entry_spread: bool = False


@dataclass(frozen=True)
class Attribution:
    """φ of a batch of rows, with what is needed to judge it.

    Args:
      values: φ by model input, `[B, T, *shape]` float32, in units of the score.
      prediction: The score, `[B, T]`.
      output: What the model itself returns for the target, `[B, T]`.
      base_value: Mean score over the background, `[B, T]`; if the model masks the row, under the row's mask.
      convergence_delta: Σφ − (prediction − base_value), `[B, T]`; None where no sum is promised.
      standard_error: Like `values`, from methods that sample.
      limited: Marks rows that stayed above the tolerance because of max_steps or a sampling cap, `[B]` bool.
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

    def take(self, rows: np.ndarray) -> Attribution:
        """Selects rows by number."""
        return self._map(lambda array: array[rows])

    @classmethod
    def joined(cls, parts: Sequence[Attribution]) -> Attribution:
        """Joins the rows of parts that have the same fields, at least one, in order."""
        first, *others = parts
        return first._map(lambda *arrays: np.concatenate(arrays), *others)

    def _map(self, function: Callable[..., np.ndarray], *others: Attribution) -> Attribution:
        """Applies a function to each array and its counterparts in the others; None stays None."""
        mapped: dict[str, Any] = {}
        for field in fields(self):
            own, *rest = (getattr(one, field.name) for one in (self, *others))
            if isinstance(own, Mapping):
                mapped[field.name] = {name: function(own[name], *(one[name] for one in rest)) for name in own}
            else:
                mapped[field.name] = None if own is None else function(own, *rest)
        return Attribution(**mapped)


class AttributionMethod(ABC):
    """A method of attribution: a frozen dataclass, derived from this class, whose fields are its config keys.

    The first five attributes and the two abstract methods are required; all other members have defaults here.
    A class with these members that is not derived from this one gets the defaults when it enters METHODS.
    `transforms.methods.check_method_contract` checks that a method keeps this contract.

    Attributes:
      name: The name in the config and in the tables.
      summary: What it computes, in a line.
      when: When to choose it, in a line.
      needs: Its requirements on the model and on the baseline.
      additive: Whether Σφ = prediction − base_value is promised.
      cap: The config key that limits the work of a method with a tolerance.
      local_fit: Whether it fits a local surrogate and reports the quality in `Attribution.fit`.
      standard_error: Whether it computes a standard error for every value; a config key if the user decides.
      tolerance: Largest error, relative to the score's spread; a config key if the method samples until then.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    when: ClassVar[str]
    needs: ClassVar[Needs]
    additive: ClassVar[bool]
    cap: ClassVar[str] = ""
    local_fit: ClassVar[bool] = False

    standard_error: bool = False
    tolerance: float | None = None

    @abstractmethod
    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """Model evaluations per row: the cost model of planning and batching."""

    @abstractmethod
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
          seeds: The key of each row's random numbers, `[B]` uint64.
          device_batch_size: Most model evaluations in one device call.
        """

    def check(self, players: Players) -> None:
        """Checks that the method, with its keys, can handle these players; by default it can.

        Raises:
          UserError: The method cannot handle the players; the error names the key to change.
        """
        return

    def held_bytes(self, players: int) -> int:
        """An upper bound of the bytes that the method holds for any number of rows, by number of players."""
        return 0

    @property
    def holds_squares(self) -> bool:
        """Whether the method also holds means and squares of its samples, in double precision."""
        return self.standard_error or self.tolerance is not None

    @property
    def signed(self) -> bool:
        """Whether values change sign when the score does."""
        return True


@cache
def derived(method: type) -> type[AttributionMethod]:
    """Derives a method's class from AttributionMethod, for its defaults; returns a derived class unchanged.

    Args:
      method: A frozen dataclass with the required members, derived from AttributionMethod or from nothing.
    """
    if issubclass(method, AttributionMethod):
        return method

    def reduce(self: Any) -> tuple[Any, ...]:
        # Workers import the user's own class, and derive it again.
        return _rebuilt, (method, {field.name: getattr(self, field.name) for field in fields(self)})

    members = {name: getattr(method, name) for name in ("__module__", "__qualname__", "__doc__")}
    return new_class(
        method.__name__,
        (method, AttributionMethod),
        exec_body=lambda body: body.update(members, __reduce__=reduce),
    )


def _rebuilt(method: type, keys: Mapping[str, Any]) -> AttributionMethod:
    return derived(method)(**keys)


def with_defaults(method: Any) -> AttributionMethod:
    """Returns the method as an instance of its derived class; unchanged if its class is derived already."""
    if isinstance(method, AttributionMethod) or not is_dataclass(method):
        return method  # not a method class: the contract's checks report it
    return _rebuilt(type(method), {field.name: getattr(method, field.name) for field in fields(method)})


class Methods(dict[str, type[AttributionMethod]]):
    """Method classes by name; `derived` is applied to every class that is added."""

    def __setitem__(self, name: str, method: type) -> None:
        super().__setitem__(name, derived(method))


#: Bytes of a masking method's blocks of scores, including the values computed from them.
_BLOCKS_BYTES = 128 << 20


def working_bytes(
    method: AttributionMethod, rows: int, targets: int, values: int, players: int, evaluations: int
) -> int:
    """An upper bound of the bytes in this process that a method works with on a batch, without device calls.

    Args:
      method: The method with its keys.
      rows: Rows of the batch.
      targets: Targets per row.
      values: Attributed values per row.
      players: Players that a masking method keeps or replaces.
      evaluations: Model evaluations per row.
    """
    fixed = method.held_bytes(players)
    if method.needs.trees:
        return fixed + rows * targets * values * 40
    if not method.needs.gradients:
        # Sums and squares in double precision, and their form by model input.
        blocks = min(_BLOCKS_BYTES, 4 * 8 * rows * targets * evaluations)
        return fixed + rows * targets * (players * 32 + values * 12) + blocks
    # The results of the calls, then joined; if squares are held, means and squares in double precision.
    turns = 8 if targets > TARGETS_AT_ONCE else 0
    return fixed + rows * targets * values * (56 if method.holds_squares else 16 + turns)


def take(arrays: Arrays, index: np.ndarray) -> dict[str, np.ndarray]:
    """Selects rows of each array; a full range in order is not copied."""
    first = int(index[0])
    if np.array_equal(index, np.arange(first, first + len(index))):
        return {name: value[first : first + len(index)] for name, value in arrays.items()}
    return {name: value[index] for name, value in arrays.items()}


def predict(
    model: ScoredModel, inputs: Arrays, targets: np.ndarray, device_batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and outputs of the rows' targets, each `[B, T]`. Cost: one evaluation per row."""
    scores, outputs = evaluate(model, inputs, device_batch_size)
    return np.take_along_axis(scores, targets, axis=1), np.take_along_axis(outputs, targets, axis=1)


def evaluate(model: ScoredModel, inputs: Arrays, device_batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and outputs of all targets, each `[B, T]`, in padded device calls."""

    def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
        score, output = model.evaluate(take(inputs, index))
        return ({"score": score, "output": output},)

    (evaluated,) = run_calls(len(next(iter(inputs.values()))), device_batch_size, call)
    return evaluated["score"], evaluated["output"]


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
    """The error that a tolerance allows, shaped like `spread`; infinite for a score that does not vary."""
    limit: np.ndarray = np.where(spread > 0, tolerance * spread, np.inf)
    return limit


def column(per_row: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Reshapes one number per row, `[B]`, to `[B, 1, …]` in the type of `like`, for products with it."""
    return per_row.astype(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def concatenate(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins dictionaries of arrays along the first axis."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
