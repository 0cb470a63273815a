"""The checks of the contract: one function for each promise of a method, run on one small model."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from transforms.errors import UserError
from transforms.methods.base import Attribution, AttributionMethod, Needs, totals, working_bytes
from transforms.methods.contract.small_models import Place, World
from transforms.methods.contract.subject import (
    CLOSE,
    Broken,
    Subject,
    require,
    require_arrays,
    require_close,
    require_equal,
)

#: Largest error of a sampled value, in standard errors.
_ERRORS = 4
#: Largest error of a sum without a stated error, relative to the score's spread.
_SUM = 0.15
#: Largest error of a sum beyond its standard errors, relative to the score's spread; as in
#: `limits.convergence`.
_SAMPLED_SUM = 0.05
#: Bytes of a device call of these small models, Python's own included.
_CALL_BYTES = 1 << 20
#: If the largest value is below this, the check would be trivial.
_TRIVIAL = 1e-3
#: Rows per call and evaluations per device call: less than one row's work; padded; all at once.
_BATCHES = ((1, 1024), (2, 50), (3, 4096))


def declared(subject: Subject) -> None:
    """The class has the required members, is a frozen dataclass with defaults, and can be pickled."""
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
    """The method accepts the few players of a small model and states their cost."""
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
    """Values have a row's shape, and every promised field is there."""
    method, world, whole = subject.method, subject.world, subject.whole
    rows, targets = world.count, world.targets
    wanted = {name: (rows, targets, *value.shape[1:]) for name, value in world.rows.items()}
    require_arrays("values", whole.values, wanted)
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
    require_arrays("standard_error", whole.standard_error, {k: v.shape for k, v in whole.values.items()})
    least = min(float(value.min()) for value in whole.standard_error.values())
    require(least >= 0, f"a standard error is {least:.3g}")


def predictions(subject: Subject) -> None:
    """Prediction and output are the model's, and the base value is the mean score over the background.

    Trees may have their own base value. (A row's mask can also move it, but these models have no masks.)
    """
    world, whole = subject.world, subject.whole
    scores, outputs = world.model.evaluate(world.rows)
    require_equal("prediction", whole.prediction, scores)
    require_equal("output", whole.output, outputs)
    if not subject.method.needs.trees:
        base = np.broadcast_to(world.reference.base_values, scores.shape)
        require_equal("base_value", whole.base_value, base)


def sums(subject: Subject) -> None:
    """Σφ = prediction − base_value if that is promised, and `convergence_delta` is the difference."""
    method, whole = subject.method, subject.whole
    if whole.convergence_delta is None:
        return
    delta = totals(whole.values) - (whole.prediction.astype(np.float64) - whole.base_value)
    require_equal("convergence_delta", whole.convergence_delta, delta)
    spread = subject.world.reference.spread
    off = float(np.abs(delta).max())
    if whole.standard_error is not None:
        # Σφ holds in expectation: its error is at most the sum of the standard errors, and a margin.
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
        require_close(f"values of {name!r}, {where}", part.values[name], value[rows], value)
    require_equal(f"prediction, {where}, ", part.prediction, whole.prediction[rows])
    require_equal(f"output, {where}, ", part.output, whole.output[rows])
    require(part.base_value == whole.base_value[rows], f"base_value, {where}: differs")
    require(part.limited == whole.limited[rows], f"limited, {where}: differs")
    if whole.standard_error is not None and part.standard_error is not None:
        # A standard error is a difference of nearly equal numbers: compare it at the scale of the values.
        for name, error in whole.standard_error.items():
            noun = f"standard_error of {name!r}, {where}"
            require_close(noun, part.standard_error[name], error[rows], whole.values[name], 1e-3)


def retries(subject: Subject) -> None:
    """A second call with the same seeds gives the same bits."""
    again = subject.explain(np.arange(subject.world.count))
    for name, value in subject.whole.values.items():
        apart = float(np.abs(again.values[name] - value).max())
        require(
            again.values[name] == value, f"values of {name!r} differ from the first call's by {apart:.3g}"
        )


def targets(subject: Subject) -> None:
    """A target's values are the same by itself, with all others, and if each row has its own target.

    A tolerance is taken out: a row is sampled until all its targets meet it, so that targets interact.
    """
    if subject.method.tolerance is not None:
        return
    world, whole = subject.world, subject.whole
    rows = np.arange(world.count)
    for target in range(world.targets):
        alone = subject.explain(rows, targets=np.full((world.count, 1), target))
        for name, value in whole.values.items():
            expected = value[:, target : target + 1]
            require_close(f"values of {name!r}, target {target} alone", alone.values[name], expected, value)
        require_equal("base_value", alone.base_value[:, 0], whole.base_value[:, target])
    chosen = rows % world.targets
    mixed = subject.explain(rows, targets=chosen[:, None])
    for name, value in whole.values.items():
        expected = value[rows, chosen][:, None]
        require_close(f"values of {name!r}, a target a row", mixed.values[name], expected, value)
    require_equal("prediction", mixed.prediction[:, 0], whole.prediction[rows, chosen])


def ignored(subject: Subject) -> None:
    """A feature that the score does not depend on gets 0: exactly, or within its standard error."""
    whole = subject.whole
    # A score that is evaluated twice, in different batches, may differ in its last bit.
    rounding = 0.0 if subject.method.needs.gradients else 1e-6 * float(np.abs(whole.prediction).max())
    for place in subject.world.ignored:
        sizes = np.abs(_at(whole.values, place))
        errors = 0.0 if whole.standard_error is None else _at(whole.standard_error, place)
        require(
            sizes <= rounding + _ERRORS * errors,
            f"{_named(place)}, which the score ignores, gets up to {float(sizes.max()):.3g}",
        )


def twins(subject: Subject) -> None:
    """Two features that enter the score alike and hold equal values get equal φ, within standard errors."""
    whole = subject.whole
    for one, other in subject.world.twins:
        first, second = _at(whole.values, one), _at(whole.values, other)
        require(
            np.abs(first).max() > _TRIVIAL,
            f"{_named(one)}, on which the score depends, gets no more than {float(np.abs(first).max()):.3g}",
        )
        allowed: Any = CLOSE * np.abs(first).max()
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
    """The method makes no more evaluations than stated, besides one per row for the prediction.

    A tolerance is taken out, because rows above it cost more.
    """
    method, world = subject.method, subject.world
    if method.tolerance is not None:
        method = replace(method, tolerance=None)  # type: ignore[type-var]
    rows, seen = np.arange(world.count), Subject(method, world, subject.seed)
    room = 1 << 20
    seen.explain(rows, room)  # computes the background's part, which is no row's cost
    before = _evaluations(world, method)
    seen.explain(rows, room)
    asked = (_evaluations(world, method) - before) / world.count
    stated = method.evaluations_per_row(world.reference.rows, world.reference.players.count)
    require(
        asked <= stated + 1,
        f"a row takes {asked:,.4g} evaluations, and evaluations_per_row says {stated:,}",
    )


def memory(subject: Subject) -> None:
    """Peak memory of this process, without the device call itself, stays within what the method states.

    The bound is `working_bytes`, from the rows, the values, the evaluations and the method's `held_bytes`.
    """
    method, world = subject.method, subject.world
    rows, count = np.arange(world.count), world.reference.players.count
    subject.explain(rows)  # computes and compiles what later batches reuse
    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        # The least of three, because a library may load or compile something during one of them.
        peak = min(_peak_bytes(subject, rows) for _ in range(3))
    finally:
        if not traced:
            tracemalloc.stop()
    values = sum(value[0].size for value in world.rows.values())
    evaluations = method.evaluations_per_row(world.reference.rows, count)
    stated = working_bytes(method, world.count, world.targets, values, count, evaluations)
    require(
        peak <= stated + _CALL_BYTES,
        f"a batch takes {peak:,} bytes, and {stated:,} are planned for: held_bytes states too little",
    )


def _peak_bytes(subject: Subject, rows: np.ndarray) -> int:
    """Peak bytes, by tracemalloc, while the rows are explained."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    subject.explain(rows)
    return tracemalloc.get_traced_memory()[1] - before


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

#: The checks in the order in which they run: each may rely on the promises checked before it.
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        declared, players, shapes, standard_errors, predictions, sums, retries, batches, order, targets,
        ignored, twins, costs, memory,
    )
}  # fmt: skip
