"""What every method must keep, one function a promise; each looks at one method in one world."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from transforms.errors import UserError
from transforms.methods.base import Attribution, AttributionMethod, Needs, take, totals
from transforms.methods.contract.worlds import Place, World
from transforms.numerics.random import row_keys

#: Relative to the largest value of an input: what two orders of summing float32 may differ by.
_CLOSE = 1e-5
#: Standard errors that a value may be off by.
_ERRORS = 4
#: Of the score's spread: what a sum without a stated error may be off by.
_SUM = 0.15
#: Of the score's spread: what a sum may be off beyond its standard errors, as `limits.convergence` allows.
_SAMPLED_SUM = 0.05
#: A largest value below this says nothing.
_TRIVIAL = 1e-3
#: Rows in a call, and evaluations in a device call: less than a row's work, padded threes, everything.
_BATCHES = ((1, 1024), (2, 50), (3, 4096))


class MethodContractError(AssertionError):
    """A method breaks its contract.

    Args:
      method: Its name.
      check: The name of the check, a key of `CHECKS`.
      world: The name of the model.
      what: The promise and the figures that break it.
    """

    def __init__(self, method: str, check: str, world: str, what: str) -> None:
        super().__init__(f"{method} breaks the check {check!r} on the model {world!r}: {what}")
        self.method, self.check, self.world, self.what = method, check, world, what

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        return (type(self), (self.method, self.check, self.world, self.what))


class Broken(Exception):
    """A check's own finding, in words; `check_method_contract` adds which check and which model."""


@dataclass(frozen=True)
class Subject:
    """A method in a world, with what it says of all rows and all targets in one call.

    Args:
      method: With its keys.
      world: The model, its rows and its background.
      seed: Of the run.
    """

    method: AttributionMethod
    world: World
    seed: int = 0

    @cached_property
    def whole(self) -> Attribution:
        """The attribution of all rows with all targets."""
        return self.explain(np.arange(self.world.count))

    def explain(
        self, rows: np.ndarray, device_batch_size: int = 1024, targets: np.ndarray | None = None
    ) -> Attribution:
        """Attributes some rows, each with the seed that it has in the whole; by default all targets."""
        if targets is None:
            targets = np.broadcast_to(np.arange(self.world.targets), (len(rows), self.world.targets))
        seeds = row_keys(self.seed, np.arange(self.world.count))[rows]
        return self.method.attribute(
            self.world.model,
            take(self.world.rows, rows),
            self.world.reference,
            targets,
            seeds,
            device_batch_size,
        )


def require(kept: Any, what: str) -> None:
    """Raises `Broken` where a promise is not kept.

    Raises:
      Broken: `kept` is false, or false anywhere.
    """
    if not np.all(kept):
        raise Broken(what)


def declared(subject: Subject) -> None:
    """The class says what it is, is a frozen dataclass with defaults, and survives the way to a worker."""
    method = subject.method
    require(isinstance(method, AttributionMethod), "its class is not derived from AttributionMethod")
    for name, kind in (("name", str), ("summary", str), ("when", str), ("needs", Needs), ("additive", bool)):
        value = getattr(type(method), name, None)
        require(isinstance(value, kind), f"{name} is {value!r}, and must be a {kind.__name__} of the class")
    frozen = is_dataclass(method) and type(method).__dataclass_params__.frozen
    require(frozen, "its class is not a frozen dataclass: its fields are its keys in the config")
    try:
        type(method)()
    except TypeError as error:
        raise Broken(f"a key has no default: {error}") from error
    names = {field.name for field in fields(method)}  # type: ignore[arg-type]
    if "tolerance" in names:
        require(method.cap in names, f"it has a tolerance, and cap is {method.cap!r}, none of its keys")
    again = pickle.loads(pickle.dumps(method))
    require(again == method, "pickled and read again it is another method: workers would use that one")


def players(subject: Subject) -> None:
    """The method takes the few players of a small model, and states what they cost."""
    method, world = subject.method, subject.world
    count = world.reference.players.count
    try:
        method.check(world.reference.players)
    except UserError as error:
        raise Broken(f"it refuses {count} players: {error}") from error
    cost = method.evaluations_per_row(world.reference.rows, count)
    require(isinstance(cost, int) and cost >= 0, f"evaluations_per_row is {cost!r}, not a whole number")
    few, many = method.held_bytes(count), method.held_bytes(2 * count)
    require(
        isinstance(few, int) and 0 <= few <= many,
        f"held_bytes is {few!r} for {count} players and {many!r} for {2 * count}: it must not fall",
    )


def shapes(subject: Subject) -> None:
    """Values have a row's shape, and what a method promises is there."""
    method, world, whole = subject.method, subject.world, subject.whole
    rows, targets = world.count, world.targets
    wanted = {name: (rows, targets, *value.shape[1:]) for name, value in world.rows.items()}
    _require_arrays("values", whole.values, wanted)
    for name in ("prediction", "output", "base_value", "convergence_delta", "fit"):
        value = getattr(whole, name)
        if value is not None:
            require(
                value.shape == (rows, targets), f"{name} has the shape {value.shape}, not {(rows, targets)}"
            )
    require(whole.limited.shape == (rows,), f"limited has the shape {whole.limited.shape}, not {(rows,)}")
    for name, promised, there in (
        ("convergence_delta", method.additive, whole.convergence_delta is not None),
        ("standard_error", method.standard_error, whole.standard_error is not None),
        ("fit", method.local_fit, whole.fit is not None),
    ):
        require(
            promised == there, f"{name} is {'there' if there else 'missing'}, and the method says otherwise"
        )
    largest = max(float(np.abs(value).max()) for value in whole.values.values())
    require(largest > _TRIVIAL, f"the largest value is {largest:.3g}: the method says nothing")


def standard_errors(subject: Subject) -> None:
    """Standard errors, where they are promised, are finite, not negative, and shaped like the values."""
    whole = subject.whole
    if whole.standard_error is None:
        return
    _require_arrays("standard_error", whole.standard_error, {k: v.shape for k, v in whole.values.items()})
    least = min(float(value.min()) for value in whole.standard_error.values())
    require(least >= 0, f"a standard error is {least:.3g}")


def _require_arrays(
    noun: str, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    require(
        arrays.keys() == wanted.keys(), f"{noun} are of {sorted(arrays)}, and the inputs are {sorted(wanted)}"
    )
    for name, value in arrays.items():
        require(
            value.shape == wanted[name],
            f"{noun} of {name!r} have the shape {value.shape}, not {wanted[name]}",
        )
        require(value.dtype == np.float32, f"{noun} of {name!r} are {value.dtype}, not float32")
        require(np.isfinite(value), f"{noun} of {name!r} are not all finite")


def predictions(subject: Subject) -> None:
    """Prediction and output are the model's, and the base value is the mean score over the background.

    Trees may have a base value of their own; a row's mask may move it as well, which these models have not.
    """
    world, whole = subject.world, subject.whole
    scores, outputs = world.model.evaluate(world.rows)
    _require_equal("prediction", whole.prediction, scores)
    _require_equal("output", whole.output, outputs)
    if not subject.method.needs.trees:
        base = np.broadcast_to(world.reference.base_values, scores.shape)
        _require_equal("base_value", whole.base_value, base)


def _require_equal(noun: str, found: np.ndarray, expected: np.ndarray) -> None:
    apart = np.abs(found - expected) - 1e-5 * np.abs(expected)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(apart), apart.shape))
    require(apart <= 1e-6, f"{noun}{list(at)} is {found[at]:.6g}, and must be {expected[at]:.6g}")


def sums(subject: Subject) -> None:
    """Where it is promised, Σφ = prediction − base_value, and the delta says how far it is off."""
    method, whole = subject.method, subject.whole
    if whole.convergence_delta is None:
        return
    delta = totals(whole.values) - (whole.prediction.astype(np.float64) - whole.base_value)
    _require_equal("convergence_delta", whole.convergence_delta, delta)
    spread = subject.world.reference.spread
    off = float(np.abs(delta).max())
    if whole.standard_error is not None:
        # In expectation: within the standard errors, which add up at most linearly, and what they may miss.
        allowed = _ERRORS * totals(whole.standard_error) + _SAMPLED_SUM * spread + 1e-5
        require(
            np.abs(delta) <= allowed, f"a sum is off by {off:.3g}, above {_ERRORS} of its standard errors"
        )
    elif method.tolerance is not None:
        within = (np.abs(delta) <= method.tolerance * spread).all(axis=1)
        rows = np.flatnonzero(within == whole.limited).tolist()
        require(not rows, f"limited is not what the tolerance {method.tolerance:g} says of the rows {rows}")
    else:
        require(
            np.abs(delta) <= _SUM * spread + 1e-5,
            f"a sum is off by {off:.3g}, and the score's spread is {float(spread.max()):.3g}",
        )


def batches(subject: Subject) -> None:
    """A value does not depend on the other rows of its batch, on padding, or on the size of device calls."""
    count = subject.world.count
    for size, device_batch_size in _BATCHES:
        for start in range(0, count, size):
            rows = np.arange(start, min(start + size, count))
            part = subject.explain(rows, device_batch_size)
            _require_same(part, subject.whole, rows, f"{size} rows a call, {device_batch_size} evaluations")


def order(subject: Subject) -> None:
    """A value does not depend on where its row stands in the batch."""
    rows = np.random.default_rng(0).permutation(subject.world.count)
    _require_same(subject.explain(rows), subject.whole, rows, "rows in another order")


def _require_same(part: Attribution, whole: Attribution, rows: np.ndarray, where: str) -> None:
    for name, value in whole.values.items():
        _require_close(f"values of {name!r}, {where}", part.values[name], value[rows], value)
    _require_equal(f"prediction, {where}, ", part.prediction, whole.prediction[rows])
    _require_equal(f"output, {where}, ", part.output, whole.output[rows])
    require(part.base_value == whole.base_value[rows], f"base_value, {where}: differs")
    require(part.limited == whole.limited[rows], f"limited, {where}: differs")
    if whole.standard_error is not None and part.standard_error is not None:
        # A difference of nearly equal numbers: as exact as they are, in units of the values.
        for name, error in whole.standard_error.items():
            noun = f"standard_error of {name!r}, {where}"
            _require_close(noun, part.standard_error[name], error[rows], whole.values[name], 1e-3)


def _require_close(
    noun: str, found: np.ndarray, expected: np.ndarray, whole: np.ndarray, relative: float = _CLOSE
) -> None:
    require(found.shape == expected.shape, f"{noun}: the shape is {found.shape}, not {expected.shape}")
    apart = np.abs(found - expected)
    allowed = relative * np.abs(expected) + _CLOSE * np.abs(whole).max() + 1e-12
    at = tuple(int(i) for i in np.unravel_index(np.argmax(apart - allowed), apart.shape))
    require(
        apart <= allowed,
        f"{noun}: {found[at]:.6g} where the whole batch has {expected[at]:.6g}",
    )


def retries(subject: Subject) -> None:
    """A second call with the same seeds gives the same bits."""
    again = subject.explain(np.arange(subject.world.count))
    for name, value in subject.whole.values.items():
        apart = float(np.abs(again.values[name] - value).max())
        require(
            again.values[name] == value, f"values of {name!r} differ from the first call's by {apart:.3g}"
        )


def targets(subject: Subject) -> None:
    """A target's values are the same alone, beside all others, and where each row has its own.

    With a tolerance a row goes on until all of its targets are within it: targets depend on each other there.
    """
    if subject.method.tolerance is not None:
        return
    world, whole = subject.world, subject.whole
    rows = np.arange(world.count)
    for target in range(world.targets):
        alone = subject.explain(rows, targets=np.full((world.count, 1), target))
        for name, value in whole.values.items():
            expected = value[:, target : target + 1]
            _require_close(f"values of {name!r}, target {target} alone", alone.values[name], expected, value)
        _require_equal("base_value", alone.base_value[:, 0], whole.base_value[:, target])
    chosen = rows % world.targets
    mixed = subject.explain(rows, targets=chosen[:, None])
    for name, value in whole.values.items():
        expected = value[rows, chosen][:, None]
        _require_close(f"values of {name!r}, a target a row", mixed.values[name], expected, value)
    _require_equal("prediction", mixed.prediction[:, 0], whole.prediction[rows, chosen])


def ignored(subject: Subject) -> None:
    """A feature that the score does not depend on gets nothing: exactly, or within its standard error."""
    whole = subject.whole
    # A score that is evaluated twice in different company may differ in its last bit.
    rounding = 0.0 if subject.method.needs.gradients else 1e-6 * float(np.abs(whole.prediction).max())
    for place in subject.world.ignored:
        found = np.abs(_at(whole.values, place))
        errors = 0.0 if whole.standard_error is None else _at(whole.standard_error, place)
        require(
            found <= rounding + _ERRORS * errors,
            f"{_named(place)}, which the score ignores, gets up to {float(found.max()):.3g}",
        )


def twins(subject: Subject) -> None:
    """Two features that enter the score alike and hold equal values get the same, within standard errors."""
    whole = subject.whole
    for one, other in subject.world.twins:
        first, second = _at(whole.values, one), _at(whole.values, other)
        require(
            np.abs(first).max() > _TRIVIAL,
            f"{_named(one)}, on which the score depends, gets no more than {float(np.abs(first).max()):.3g}",
        )
        allowed: Any = _CLOSE * np.abs(first).max()
        if whole.standard_error is not None:
            errors = whole.standard_error
            allowed = allowed + _ERRORS * np.hypot(_at(errors, one), _at(errors, other))
        apart = np.abs(first - second)
        at = tuple(int(i) for i in np.unravel_index(np.argmax(apart - allowed), apart.shape))
        require(
            apart <= allowed,
            f"{_named(one)} and {_named(other)} are twins, and get {first[at]:.6g} and {second[at]:.6g}",
        )


def costs(subject: Subject) -> None:
    """The model is asked for no more evaluations than stated, apart from one a row for the prediction.

    Rows above a tolerance cost more: it is taken out.
    """
    method, world = subject.method, subject.world
    if method.tolerance is not None:
        method = replace(method, tolerance=None)  # type: ignore[type-var]
    rows, seen = np.arange(world.count), Subject(method, world, subject.seed)
    room = 1 << 20
    seen.explain(rows, room)  # what is computed of the background once is nobody's cost
    before = _evaluations(world, method)
    seen.explain(rows, room)
    asked = (_evaluations(world, method) - before) / world.count
    stated = method.evaluations_per_row(world.reference.rows, world.reference.players.count)
    require(
        asked <= stated + 1,
        f"a row takes {asked:,.4g} evaluations, and evaluations_per_row says {stated:,}",
    )


def _evaluations(world: World, method: AttributionMethod) -> int:
    count = world.model.evaluations
    if method.needs.rescale:
        count += world.model.rescaled(world.reference.inputs).evaluations
    elif method.needs.gradients:
        count += world.model.differentiable(world.reference.inputs).evaluations
    return count


def _at(values: Mapping[str, np.ndarray], place: Place) -> np.ndarray:
    name, position = place
    index: Any = (..., *position)
    at: np.ndarray = values[name][index]
    return at


def _named(place: Place) -> str:
    name, position = place
    return f"{name}{list(position)}" if position else name


Check = Callable[[Subject], None]

#: In the order in which they are run: a later one may rely on what an earlier one has found kept.
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        declared, players, shapes, standard_errors, predictions, sums, retries, batches, order, targets,
        ignored, twins, costs,
    )
}  # fmt: skip
