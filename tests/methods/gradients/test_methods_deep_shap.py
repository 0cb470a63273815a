"""deep_shap: a zoo of architectures on which it sums, shap's values, closed forms, and what it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models.deep_zoo import BACKGROUND, ROWS, ZOO, Made, made
from tests.support.models.models_zoo import attribute, column, linear, pick, relu_pair, scored
from transforms.errors import UserError
from transforms.methods.base import Attribution, evaluate, totals
from transforms.methods.gradients.deep_shap import DeepShap
from transforms.models.graphs.deeplift import model as rescale
from transforms.models.graphs.deeplift import rules as rescale_rules
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.reference import Reference

L, ops = keras.layers, keras.ops
Inputs = Mapping[str, np.ndarray]


def reference_of(model: ScoredGraph, background: Inputs) -> Reference:
    scores, _ = evaluate(model, background, 4096)
    return Reference(background, scores, scores.std(axis=0))


def explain(
    model: ScoredGraph, rows: Inputs, background: Inputs, device_batch_size: int = 1024
) -> tuple[Attribution, Reference]:
    """All targets of all rows."""
    reference = reference_of(model, background)
    count, width = len(next(iter(rows.values()))), reference.scores.shape[1]
    targets = np.broadcast_to(np.arange(width), (count, width))
    found = attribute(DeepShap(), model, rows, reference, targets, device_batch_size=device_batch_size)
    return found, reference


def sums(found: Attribution, reference: Reference) -> np.ndarray:
    """|Σφ − (prediction − mean prediction over the background)| over the spread, `[B, T]`."""
    base = reference.scores.mean(axis=0, dtype=np.float64)
    return np.asarray(np.abs(totals(found.values) - (found.prediction - base)) / reference.spread)


def fresh(name: str) -> Made:
    keras.utils.set_random_seed(1)
    return made(*ZOO[name](), seed=list(ZOO).index(name))


#: Traced once for all tests, but for those that change what is traced.
from_zoo = cache(fresh)


# -- the zoo ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_values_sum_to_the_score_on_every_architecture(name: str) -> None:
    found_in = from_zoo(name)
    found, reference = explain(found_in.model, found_in.rows, found_in.background)
    assert len(reference.scores) == BACKGROUND >= 4
    assert len(found.prediction) == ROWS >= 5
    # Not trivially: the score moves, and every input has a part in it.
    assert (reference.spread > 1e-3).all()
    assert (np.abs(found.prediction - found.base_value) > 0.01 * reference.spread).mean() > 0.8
    for value in found.values.values():
        assert np.isfinite(value).all()
        assert np.abs(value).max() > 1e-4
    assert sums(found, reference).max() < 1e-4
    delta = found.convergence_delta
    assert delta is not None
    assert (np.abs(delta) < 1e-4 * reference.spread).all()


def test_the_zoo_is_large_and_its_models_are_not_linear() -> None:
    assert len(ZOO) >= 55
    for name in ("dense relu", "conv2d max pooling", "lstm", "embedding lstm", "transformer"):
        name = "multi-head attention" if name == "transformer" else name
        rules = {step.rule for step in from_zoo(name).model.rescaled(from_zoo(name).background).plan.steps}
        assert rules - {"linear", "passing", "sums"}, name


def test_every_rule_is_at_work_in_the_zoo() -> None:
    at_work: set[str] = set()
    for name in ("chosen", "logic", "ratio", "extremes", "softmax gate", "dense gelu", "sparsemax", "lstm"):
        found = from_zoo(name)
        at_work |= {step.rule for step in found.model.rescaled(found.background).plan.steps}
    assert at_work == set(rescale_rules.RULES)


@pytest.mark.parametrize(
    ("rule", "architecture"),
    [
        ("curves", "residual"),
        ("products", "cross network"),
        ("quotients", "ratio"),
        ("largest", "extremes"),
        ("selects", "chosen"),
        ("comparisons", "chosen"),
        ("either", "logic"),
        ("integrals", "softmax gate"),
        ("sums", "residual"),
        ("linear", "dense relu"),
        ("loops", "lstm"),
    ],
)
def test_without_a_rule_or_with_its_sign_turned_nothing_sums(
    rule: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sums above are worth: each rule is missed where it is wrong."""
    right = rescale_rules.RULES[rule]

    def wrong(*arguments: Any) -> dict[int, Any]:
        return {place: -value for place, value in right(*arguments).items()}

    monkeypatch.setitem(rescale_rules.RULES, rule, wrong)
    found_in = fresh(architecture)
    found, reference = explain(found_in.model, found_in.rows, found_in.background)
    assert sums(found, reference).max() > 1e-2


@pytest.mark.parametrize(
    "name", ["two heads", "embedding lstm", "multi-head attention", "extremes", "causal attention"]
)
def test_parts_of_the_background_and_targets_in_turns_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Device calls of fewer pairs than the background has rows, and of one target."""
    found_in = from_zoo(name)
    whole, _ = explain(found_in.model, found_in.rows, found_in.background)
    monkeypatch.setattr(rescale, "TARGETS_AT_ONCE", 1)
    monkeypatch.setattr(rescale, "KEPT_BYTES", 0)
    parts, _ = explain(found_in.model, found_in.rows, found_in.background, device_batch_size=2)
    for key, value in whole.values.items():
        np.testing.assert_allclose(parts.values[key], value, rtol=1e-4, atol=1e-5 * np.abs(value).max())


def test_calls_hold_no_more_pairs_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = linear(), np.random.default_rng(0)
    rows, background = ({"x": rng.normal(size=(n, 3)).astype(np.float32)} for n in (50, 37))
    rescaled = model.rescaled(background)
    held: list[int] = []
    real = rescaled._plain

    def watched(ends: Any, base: Any, weights: np.ndarray, targets: np.ndarray) -> Any:
        held.append(len(weights) * targets.size)
        return real(ends, base, weights, targets)

    monkeypatch.setattr(rescaled, "_plain", watched)
    for most in (1, 10, 37, 100, 1000):
        held.clear()
        before = rescaled.evaluations
        explain(model, rows, background, device_batch_size=most)
        assert max(held) <= most
        # Padding included: never twice what it takes.
        assert 50 * 37 <= rescaled.evaluations - before == sum(held) <= 2 * 50 * 37


# -- against shap ----------------------------------------------------------------------------------------

PLAIN: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "relu": (lambda x: L.Dense(7, "relu")(L.Dense(8, "relu")(x)), (6,)),
    "tanh": (lambda x: L.Dense(7, "tanh")(L.Dense(8, "tanh")(x)), (6,)),
    "sigmoid": (lambda x: L.Dense(7, "sigmoid")(L.Dense(8, "sigmoid")(x)), (6,)),
    "convolution": (lambda x: L.Flatten()(L.Conv2D(3, 3, activation="relu")(x)), (6, 6, 2)),
    "max pooling": (
        lambda x: L.Flatten()(L.MaxPooling2D(2)(L.Conv2D(3, 3, activation="relu")(x))),
        (7, 7, 1),
    ),
    "average pooling": (
        lambda x: L.Flatten()(L.AveragePooling2D(2)(L.Conv2D(2, 2, activation="relu")(x))),
        (6, 6, 1),
    ),
    "convolution 1d": (lambda x: L.Flatten()(L.Conv1D(3, 2, activation="tanh")(x)), (5, 2)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLAIN)
def test_values_are_those_of_shap(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap

    body, shape = PLAIN[name]
    keras.utils.set_random_seed(3)
    inputs = keras.Input(shape, name="x")
    model = keras.Model(inputs, L.Dense(3)(body(inputs)))
    rng = np.random.default_rng(4)
    for variable in model.weights:
        variable.assign(np.asarray(variable) + 0.2 * rng.normal(size=variable.shape))
    rows, background = (rng.normal(size=(n, *shape)).astype(np.float32) for n in (6, 9))
    found, _ = explain(scored(model), {"x": rows}, {"x": background})
    theirs = np.asarray(shap.DeepExplainer(model, background).shap_values(rows, check_additivity=False))
    expected = np.moveaxis(theirs, -1, 1)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found.values["x"], expected, atol=1e-4 * np.abs(expected).max())


# -- closed forms ----------------------------------------------------------------------------------------


def test_a_linear_model_gives_weight_times_difference_to_the_mean() -> None:
    rng = np.random.default_rng(0)
    rows, background = (rng.normal(size=(n, 3)).astype(np.float32) for n in (7, 11))
    found, _ = explain(linear(), {"x": rows}, {"x": background})
    expected = (rows - background.mean(axis=0)) * np.array([2.0, -3.0, 0.5])
    np.testing.assert_allclose(found.values["x"][:, 0], expected, rtol=1e-5, atol=2e-6)


def test_nested_rectifiers_by_hand() -> None:
    """ReLU(ReLU(a) − 1 − ReLU(b)) at (3, 1) from (0, 0).

    The outer ReLU goes from −1 to 1 and its output from 0 to 1: its multiplier is 1/2. Both inner ones have
    1. So φ = (3/2, −1/2), which is what integrated gradients finds as well (Sundararajan et al. 2017, figure
    3); from (2, 0) the outer ReLU goes from 1 to 1, its multiplier is its slope, 1, and φ = (1, −1).
    """
    row = {"x": np.array([[3.0, 1.0]], np.float32)}
    for base, expected in (((0.0, 0.0), (1.5, -0.5)), ((2.0, 0.0), (1.0, -1.0))):
        found, _ = explain(relu_pair(), row, {"x": np.array([base], np.float32)})
        np.testing.assert_allclose(found.values["x"][0, 0], expected, rtol=1e-6)
    both = {"x": np.array([[0.0, 0.0], [2.0, 0.0]], np.float32)}
    found, _ = explain(relu_pair(), row, both)
    np.testing.assert_allclose(found.values["x"][0, 0], (1.25, -0.75), rtol=1e-6)


def test_a_maximum_goes_by_way_of_the_larger_of_its_values() -> None:
    """Of max(a, b) from (1, 2) to (4, 3): up to 4 where the row is largest, all to a.

    From (5, 0) to (1, 3): down from 5, where the background is largest, to 3: −2 to a and nothing to b.
    """
    inputs = keras.Input((2,), name="x")
    model = scored(keras.Model(inputs, ops.max(inputs, axis=1, keepdims=True)))
    for base, row, expected in (
        ((1, 2), (4, 3), (2, 0)),
        ((5, 0), (1, 3), (-2, 0)),
        ((0, 1), (3, 3), (1, 1)),
    ):
        found, _ = explain(model, {"x": np.array([row], np.float32)}, {"x": np.array([base], np.float32)})
        np.testing.assert_allclose(found.values["x"][0, 0], expected, rtol=1e-6, atol=1e-6)


def test_sorted_values_are_integrated_over_the_ranks_that_each_holds() -> None:
    """From (0, 1) to (4, 2) the first passes the second a third of the way: of the larger, it has 4 · 2/3.

    Of more values, by the mean gradient along the line at 20,000 points. The order of equals is that of
    TensorFlow: the first is above.
    """
    rng = np.random.default_rng(6)
    weights = np.array([[3.0], [-2.0], [0.5], [1.0]], np.float32)

    def model_of(width: int, largest: int) -> ScoredGraph:
        inputs = keras.Input((width,), name="x")
        dense = L.Dense(1, use_bias=False)
        model = keras.Model(inputs, dense(ops.top_k(inputs, largest)[0]))
        dense.kernel.assign(weights[:largest])
        return scored(model)

    two, _ = explain(
        model_of(2, 1), {"x": np.array([[4.0, 2.0]], np.float32)}, {"x": np.array([[0.0, 1.0]], np.float32)}
    )
    np.testing.assert_allclose(two.values["x"][0, 0] / 3, (8 / 3, 1 / 3), rtol=1e-6)
    for largest in (4, 3):
        rows, base = rng.normal(size=(5, 4)), rng.normal(size=(1, 4))
        rows[0, 1], base[0, :2] = base[0, 1], 0.5  # one stands still, two begin alike
        given = ({"x": value.astype(np.float32)} for value in (rows, base))
        found, reference = explain(model_of(4, largest), *given)
        delta = totals(found.values) - (found.prediction - reference.base_values)
        assert np.abs(delta).max() < 1e-5
        at = (np.arange(20_000) + 0.5)[:, None, None] / 20_000
        order = np.argsort(-(base + at * (rows - base)), axis=2, kind="stable")
        gradient = np.zeros((20_000, 5, 4))
        padded = np.append(weights[:largest, 0], np.zeros(4 - largest))
        np.put_along_axis(gradient, order, np.broadcast_to(padded, order.shape), axis=2)
        expected = gradient.mean(axis=0) * (rows - base)
        np.testing.assert_allclose(found.values["x"][:, 0], expected, atol=2e-3)


def test_a_choice_by_the_chosen_is_one_curve() -> None:
    """x where x > 0, αx elsewhere, written as a select and as a layer."""
    inputs = keras.Input((3,), name="x")
    written = ops.where(inputs > 0, inputs, 0.25 * inputs)
    layer = L.LeakyReLU(negative_slope=0.25)(inputs)
    rng = np.random.default_rng(1)
    rows, background = ({"x": rng.normal(size=(n, 3)).astype(np.float32)} for n in (5, 4))
    found = []
    for hidden in (written, layer):
        dense = L.Dense(1, kernel_initializer=keras.initializers.Constant(0.5))
        found.append(explain(scored(keras.Model(inputs, dense(hidden))), rows, background)[0].values["x"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_a_choice_between_others_is_a_player_of_its_own() -> None:
    """c a + (1 − c) b with c = [s > 0]: from (s, a, b) = (−1, 1, 2) to (1, 5, 3) the choice is worth
    ((5 − 3) + (1 − 2))/2 = 1/2, a its half difference 2 and b its half difference 1/2: 3 in all."""
    inputs = keras.Input((3,), name="x")
    s, a, b = (column(inputs, index) for index in range(3))
    model = scored(keras.Model(inputs, ops.where(s > 0, a, b)))
    base = {"x": np.array([[-1.0, 1.0, 2.0]], np.float32)}
    found, _ = explain(model, {"x": np.array([[1.0, 5.0, 3.0], [-2.0, 5.0, 3.0]], np.float32)}, base)
    np.testing.assert_allclose(found.values["x"][:, 0], [[0.5, 2.0, 0.5], [0.0, 0.0, 1.0]], rtol=1e-6)


def test_what_is_not_chosen_may_be_no_number() -> None:
    inputs = keras.Input((2,), name="x")
    a, b = column(inputs, 0), column(inputs, 1)
    model = scored(keras.Model(inputs, ops.where(b > 0, ops.log(a), b)))
    rows = {"x": np.array([[2.0, 1.0], [-1.0, -2.0], [3.0, -1.0]], np.float32)}
    base = {"x": np.array([[-1.0, -0.5], [1.5, 0.5]], np.float32)}
    found, reference = explain(model, rows, base)
    assert np.isfinite(found.values["x"]).all()
    assert sums(found, reference).max() < 1e-5


def test_a_softmax_is_integrated_along_the_straight_line() -> None:
    """Of two classes it is a sigmoid of the difference d: φ = ±Δσ · Δx_i / Δd, whatever is added to both."""
    inputs = keras.Input((2,), name="x")
    model = scored(keras.Model(inputs, ops.softmax(inputs)), "probability")
    rng = np.random.default_rng(2)
    x, r = 6 * rng.normal(size=(40, 2)), 6 * rng.normal(size=(1, 2))
    x[-1] += 30  # far from the background, together: still no more than the difference is worth
    found, _ = explain(model, {"x": x.astype(np.float32)}, {"x": r.astype(np.float32)})
    sigmoid = [1 / (1 + np.exp(v[:, 1] - v[:, 0])) for v in (x, r)]
    q = (sigmoid[0] - sigmoid[1]) / ((x[:, 0] - x[:, 1]) - (r[:, 0] - r[:, 1]))
    expected = q[:, None] * (x - r) * [1, -1]
    np.testing.assert_allclose(found.values["x"][:, 0], expected, atol=1e-5 * np.abs(expected).max() + 1e-6)


@pytest.mark.parametrize(
    "activation", ["tanh", "sigmoid", "softplus", "gelu", "silu", "exponential", "relu6"]
)
@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-5, 1e-3, 0.1, 3.0])
def test_a_quotient_does_not_drown_in_rounding(activation: str, apart: float) -> None:
    """Δout/Δin of one unit behind a sum of two features whose own differences are large and cancel."""
    inputs = keras.Input((2,), name="x")
    function = keras.activations.get(activation)
    model = scored(keras.Model(inputs, function(column(inputs, 0) + column(inputs, 1))), "output")
    base = np.array([[1.0, -0.5]], np.float32)
    row = np.array([[3.0, -2.5 + apart]], np.float32)
    at_row, at_base = (np.float64(v.astype(np.float64).sum()) for v in (row, base))

    def value(point: float) -> float:
        with tf.device("CPU"):
            return float(function(tf.constant(point, tf.float64)))

    step = 1e-6
    derivative = (value(at_base + step) - value(at_base - step)) / (2 * step)
    q = (value(at_row) - value(at_base)) / (at_row - at_base) if abs(at_row - at_base) > 1e-6 else derivative
    found, _ = explain(model, {"x": row}, {"x": base})
    np.testing.assert_allclose(found.values["x"][0, 0], q * (row - base)[0], rtol=2e-4, atol=1e-6)


# -- against full enumeration ----------------------------------------------------------------------------


def shapley(model: ScoredGraph, row: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Shapley values of a row by all coalitions, averaged over the background, in double precision."""
    size = row.shape[-1]
    every = [frozenset(c) for n in range(size + 1) for c in combinations(range(size), n)]
    worth = {}
    for coalition in every:
        mask = np.array([index in coalition for index in range(size)])
        scores, _ = model.evaluate({"x": np.where(mask, row, background).astype(np.float32)})
        worth[coalition] = scores[:, 0].astype(np.float64).mean()
    found = np.zeros(size)
    for index in range(size):
        for coalition in every:
            if index not in coalition:
                weight = factorial(len(coalition)) * factorial(size - len(coalition) - 1) / factorial(size)
                found[index] += weight * (worth[coalition | {index}] - worth[coalition])
    return found


def products_of_two(x: Any) -> Any:
    return (
        2 * column(x, 0) * column(x, 1)
        - ops.tanh(column(x, 2)) * ops.relu(column(x, 3))
        + ops.sin(column(x, 0))
    )


@pytest.mark.parametrize("body", [L.Dense(1), products_of_two], ids=["linear", "products of two"])
def test_where_the_rules_are_exact_values_are_shapleys(body: Callable[[Any], Any]) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="x")
    model = scored(keras.Model(inputs, body(inputs)))
    rng = np.random.default_rng(5)
    rows, background = (rng.normal(size=(n, 4)).astype(np.float32) for n in (5, 6))
    found, _ = explain(model, {"x": rows}, {"x": background})
    expected = np.stack([shapley(model, row, background) for row in rows])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.values["x"][:, 0], expected, atol=1e-5)


# -- masks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["embedding lstm", "embedding attention", "embedding pooled"])
def test_a_mask_is_attributed_to_the_id_that_makes_it(name: str) -> None:
    """Where no position differs from the background, nothing is; what a longer row is worth is its tail's."""
    found_in = from_zoo(name)
    length = found_in.rows["tokens"].shape[1]
    longer = np.arange(1, length + 1)[None]
    row = np.where(longer > length - 2, 0, longer)
    found, _ = explain(found_in.model, {"tokens": longer}, {"tokens": row})
    assert not found.values["tokens"][0, :, :-2].any()
    assert np.abs(found.values["tokens"][0, :, -2:]).max() > 1e-3
    same, _ = explain(found_in.model, {"tokens": row}, {"tokens": row})
    assert not same.values["tokens"].any()


# -- what is refused -------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("deep_shap")
class Calls(L.Layer):
    """Calls a function of TensorFlow's."""

    def __init__(self, function: str, **options: Any) -> None:
        super().__init__(**options)
        self.function = function

    def call(self, x: Any) -> Any:
        return REFUSED[self.function][0](x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "function": self.function}


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "inverse": (
        lambda x: tf.linalg.inv(tf.eye(4) + tf.einsum("bi,bj->bij", x, x))[:, 0],
        "MatrixInverse",
    ),
    "noise": (lambda x: x + tf.random.normal(tf.shape(x)), "RandomStandardNormal"),
    "steps by the rows": (
        lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) < 5.0, lambda y: [y + 1.0], [tf.exp(x)])[0],
        "StatelessWhile",
    ),
}  # fmt: skip


def refusing(function: str) -> ScoredGraph:
    inputs = keras.Input((4,), name="x")
    return scored(keras.Model(inputs, L.Dense(1)(Calls(function)(L.Dense(4)(inputs)))))


@pytest.mark.parametrize("function", REFUSED)
def test_an_op_without_a_rule_is_refused_by_its_name(function: str) -> None:
    model = refusing(function)
    with pytest.raises(UserError) as caught:
        model.rescaled({"x": np.ones((3, 4), np.float32)})
    error = caught.value
    assert REFUSED[function][1] in error.what
    assert "deep_shap" in error.what
    assert error.remedy is None  # which methods work depends on the model: `check_method` tells


def test_the_plan_refuses_before_anything_runs(tmp_path: Path) -> None:
    """As a user meets it: one line that names the file, the op and what would do."""
    inputs = keras.Input((2,), name="x")
    inverse = ops.inv(L.Reshape((2, 2))(L.Dense(4)(inputs)))
    keras.Model(inputs, L.Dense(1)(L.Flatten()(inverse))).save(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    pq.write_table(
        pa.table({name: rng.normal(size=40).astype(np.float32) for name in "ab"}), tmp_path / "d.parquet"
    )
    config = worlds.write_config(
        tmp_path / "inverse.yaml",
        name="inverse",
        model={"path": "model.keras"},
        input={"files": "d.parquet", "features": ["a", "b"]},
        method={"name": "deep_shap"},
        baseline={"kind": "sample", "rows": 10},
        output={"path": "run"},
    )
    with pytest.raises(UserError, match=r"MatrixInverse \(.*methods that would work: .*expected_gradients"):
        make_plan(load_config(str(config)), in_process=True)


# -- threads ---------------------------------------------------------------------------------------------


def test_threads_give_the_same_bits() -> None:
    for name in ("categories", "lstm"):
        found_in = from_zoo(name)
        reference = reference_of(found_in.model, found_in.background)

        def once(
            rows: np.ndarray, found_in: Made = found_in, reference: Reference = reference
        ) -> Attribution:
            chosen = pick(found_in.rows, rows)
            return attribute(DeepShap(), found_in.model, chosen, reference)

        orders = [np.roll(np.arange(ROWS), shift % 3) for shift in range(12)]
        alone = [once(order) for order in orders[:3]]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(once, orders))
        for shift, found in enumerate(together):
            for key, value in alone[shift % 3].values.items():
                np.testing.assert_array_equal(found.values[key], value)


@pytest.mark.parametrize("name", ["dense gelu", "categories", "gated"])
def test_fused_calls_give_the_same_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pairs of a plain network go through XLA, few do not; with ids, the way back alone."""
    found_in = from_zoo(name)
    rescaled = found_in.model.rescaled(found_in.background)
    assert rescaled._fusable
    assert rescaled._fusable_whole == (name != "categories")
    plain, _ = explain(found_in.model, found_in.rows, found_in.background)
    before = rescaled._plain.traces
    monkeypatch.setattr(rescale, "_LEAST_FUSED", 1)
    fused, reference = explain(found_in.model, found_in.rows, found_in.background)
    assert rescaled._plain.traces == before
    assert sum(f.traces for f in (rescaled._fused, rescaled._whole)) == 1
    assert sums(fused, reference).max() < 1e-4
    for key, value in plain.values.items():
        np.testing.assert_allclose(fused.values[key], value, rtol=1e-4, atol=1e-5)


def test_convolutions_are_left_to_tensorflows_own_kernels() -> None:
    found_in = from_zoo("conv2d max pooling")
    assert not found_in.model.rescaled(found_in.background)._fusable
