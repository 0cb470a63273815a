"""deep_shap through steps, quantised layers and identities: what has no gradient has differences.

Sums are held against Keras's own prediction of the rows and of the background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipeline.config.config import load_config
from pipeline.planning.method.requirements import check_method
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models.models_zoo import attribute, pick, scored
from transforms.errors import UserError
from transforms.methods.base import totals
from transforms.methods.gradients.deep_shap import DeepShap
from transforms.models.base import ScoredModel
from transforms.models.players import Players
from transforms.models.reference import Reference

L, ops = keras.layers, keras.ops
ROWS, BACKGROUND = 7, 5


def inputs_of(shape: tuple[int, ...], count: int = ROWS + BACKGROUND) -> dict[str, np.ndarray]:
    return {"x": (1.5 * np.random.default_rng(3).normal(size=(count, *shape))).astype(np.float32)}


def explained(model: Any, shape: tuple[int, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """φ of some rows, and how far their sums are off by Keras's own predictions, over the score's spread."""
    whole = inputs_of(shape)
    rows, background = pick(whole, slice(ROWS)), pick(whole, slice(ROWS, None))
    predicted = np.asarray(model(whole["x"]), np.float64)
    base = predicted[ROWS:]
    reference = Reference(background, base.astype(np.float32), base.std(axis=0))
    found = attribute(DeepShap(), scored(model), rows, reference, np.zeros((ROWS, 1), np.int64))
    wanted = predicted[:ROWS, :1] - base[:, :1].mean(axis=0)
    spread = base[:, 0].std()
    assert spread > 1e-3
    assert np.abs(wanted).max() > 0.3 * spread  # not trivially
    return dict(found.values), np.abs(totals(found.values) - wanted) / spread


# -- steps -----------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Any], Any]] = {
    "round": ops.round,
    "floor": ops.floor,
    "ceil": ops.ceil,
    "sign": ops.sign,
    "trunc": ops.trunc,
    "above": lambda h: ops.cast(h > 0.2, "float32"),
    "equal": lambda h: ops.cast(ops.equal(ops.floor(h), 1.0), "float32"),
    "whole numbers": lambda h: ops.cast(ops.cast(3 * h, "int32") * 2 + 1, "float32"),
    "truth": lambda h: ops.cast(ops.cast(ops.relu(h), "bool"), "float32"),
    "whole sums": lambda h: ops.cast(ops.sum(ops.cast(3 * h, "int32"), axis=1, keepdims=True), "float32"),
    "whole products": lambda h: ops.cast(
        ops.cast(3 * h, "int32") * ops.roll(ops.cast(2 * h, "int32"), 1, axis=1), "float32"
    ),
    "remainder": lambda h: ops.mod(h, 0.5),
    "floor division": lambda h: ops.floor_divide(h, 0.5),
    "quantised in training": lambda h: tf.quantization.fake_quant_with_min_max_vars(h, -3.0, 3.0, 4),
    "a byte": lambda h: ops.cast(ops.cast(h, "float8_e4m3fn"), "float32"),
}


@keras.saving.register_keras_serializable("deep_shap_steps")
class Does(L.Layer):
    """Calls a function of TensorFlow's or Keras's."""

    def __init__(self, does: str, **options: Any) -> None:
        super().__init__(**options)
        self.does = does

    def call(self, x: Any) -> Any:
        return {**STEPS, **IDENTITIES, **HOPELESS}[self.does](x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "does": self.does}


def behind_dense(does: str) -> Any:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((6,), name="x")
    return keras.Model(inputs, L.Dense(2)(Does(does)(L.Dense(8, kernel_initializer="glorot_normal")(inputs))))


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_walked_by_their_differences(name: str) -> None:
    _, off = explained(behind_dense(name), (6,))
    assert off.max() < 1e-4


def test_a_step_that_does_not_move_is_worth_nothing() -> None:
    """round(x_0) + 2 round(x_1) from (0.1, 0.2): φ_i = w_i (round x_i − 0), whatever x_i has moved by."""
    inputs = keras.Input((2,), name="x")
    dense = L.Dense(1, use_bias=False)
    model = keras.Model(inputs, dense(ops.round(inputs)))
    dense.kernel.assign([[1.0], [2.0]])
    rows = {"x": np.array([[0.4, 3.2], [1.6, 0.2], [0.1, 0.2]], np.float32)}
    base = {"x": np.array([[0.1, 0.2]], np.float32)}
    found = attribute(DeepShap(), scored(model), rows, Reference(base, np.zeros((1, 1)), np.ones(1)))
    np.testing.assert_allclose(found.values["x"][:, 0], [[0, 6], [2, 0], [0, 0]], atol=1e-5)


# -- quantised layers ------------------------------------------------------------------------------------


def attention(x: Any) -> Any:
    return L.Flatten()(L.LayerNormalization()(L.EinsumDense("abc,cd->abd", (3, 6))(x)))


QUANTISED: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "dense": (lambda x: L.Dense(8, activation="tanh")(x), (6,)),
    "einsum": (attention, (3, 4)),
}


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_models_are_walked_but_for_those_that_scale_rows(name: str, mode: str) -> None:
    """int8 scales a row by its own largest value; what int4 and float8 scale by are weights."""
    body, shape = QUANTISED[name]
    keras.utils.set_random_seed(5)
    inputs = keras.Input(shape, name="x")
    model = keras.Model(inputs, L.Dense(1)(body(inputs)))
    model.quantize(mode)
    if mode != "int8":
        _, off = explained(model, shape)
        assert off.max() < 1e-4
        return
    with pytest.raises(UserError, match=r"Mul .* scales a row by its own largest value before it is rounded"):
        explained(model, shape)


# -- what cancels ----------------------------------------------------------------------------------------


def test_layer_norms_of_few_values_sum() -> None:
    """Two transformer blocks of width 4: multipliers are large where a token's values are alike."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((5, 4), name="x")
    hidden = inputs
    for _ in range(2):
        hidden = L.LayerNormalization()(hidden + L.MultiHeadAttention(2, 2)(hidden, hidden))
        hidden = L.LayerNormalization()(hidden + L.Dense(4)(L.Dense(8, activation="gelu")(hidden)))
    made = keras.Model(inputs, L.Dense(1)(L.Flatten()(hidden)))
    rng = np.random.default_rng(3)
    for variable in made.weights:
        variable.assign(np.asarray(variable) + 0.3 * rng.normal(size=variable.shape))
    model = scored(made)
    rows, base = ({"x": rng.normal(size=(count, 5, 4)).astype(np.float32)} for count in (40, 20))
    scores, _ = model.evaluate(base)
    found = attribute(DeepShap(), model, rows, Reference(base, scores, scores.std(axis=0)))
    off = np.abs(totals(found.values) - (found.prediction - scores.mean(axis=0, dtype=np.float64)))
    assert off.max() < 1e-4 * scores.std()


# -- identities ------------------------------------------------------------------------------------------

IDENTITIES: dict[str, Callable[[Any], Any]] = {
    "ensured": lambda x: tf.ensure_shape(x, [None, 8]),
    "checked": lambda x: tf.debugging.check_numerics(x, "finite"),
    "checked in two words": lambda x: tf.raw_ops.CheckNumericsV2(tensor=x, message="finite"),
    "stopped": tf.stop_gradient,
    "prevented": lambda x: tf.raw_ops.PreventGradient(input=x, message="none"),
    "snapshot": lambda x: tf.raw_ops.Snapshot(input=x),
    "by default": lambda x: tf.compat.v1.placeholder_with_default(x, [None, 8]),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_an_identity_is_passed(name: str) -> None:
    """The same values as without it: −2 x_0 and so on, in front of a bend and behind it."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((6,), name="x")
    first, last = L.Dense(8), L.Dense(2)
    plain = keras.Model(inputs, last(ops.tanh(first(inputs))))
    through = keras.Model(inputs, last(Does(name)(ops.tanh(Does(name)(first(inputs))))))
    (expected, _), (found, off) = explained(plain, (6,)), explained(through, (6,))
    assert off.max() < 1e-4
    np.testing.assert_allclose(found["x"], expected["x"], rtol=1e-5, atol=1e-5)


# -- what is refused, and what is advised -----------------------------------------------------------------

HOPELESS: dict[str, Callable[[Any], Any]] = {
    "inverse": lambda x: tf.linalg.inv(tf.eye(8) + tf.einsum("bi,bj->bij", x, x))[:, 0],
    "places": lambda x: tf.one_hot(tf.argmax(x, axis=1), 8),
}


class Schema:
    """What `check_method` asks of a schema: features that play one by one."""

    features = ()
    groups: Mapping[str, Any] = {}

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.players = Players.each({"x": shape})


def remedy_of(model: ScoredModel, shape: tuple[int, ...]) -> str:
    with pytest.raises(UserError, match="deep_shap cannot explain this model") as caught:
        check_method(model, inputs_of(shape), DeepShap(), Schema(shape))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400
    return str(caught.value.remedy)


def test_only_methods_that_work_are_advised() -> None:
    # An inverse has a gradient; the place of the largest has none.
    inverse = remedy_of(scored(behind_dense("inverse")), (6,))
    assert inverse == (
        "methods that would work: integrated_gradients, expected_gradients, kernel_shap, exact_shap, "
        "permutation_shap, saliency, input_x_gradient, smoothgrad, lime, occlusion"
    )
    places = remedy_of(scored(behind_dense("places")), (6,))
    assert places == "methods that would work: kernel_shap, exact_shap, permutation_shap, lime, occlusion"


def test_exact_shap_is_not_advised_past_its_limit() -> None:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((40,), name="x")
    wide = keras.Model(inputs, L.Dense(1)(Does("places")(L.Dense(8)(inputs))))
    assert (
        remedy_of(scored(wide), (40,))
        == "methods that would work: kernel_shap, permutation_shap, lime, occlusion"
    )


# -- as a user meets it -----------------------------------------------------------------------------------


def planned(model: Any, tmp_path: Path) -> dict[str, Any]:
    model.save(tmp_path / "model.keras")
    rows = inputs_of((6,), 40)["x"]
    pq.write_table(pa.table({f"f{i}": rows[:, i] for i in range(6)}), tmp_path / "d.parquet")
    config = worlds.write_config(
        tmp_path / "steps.yaml",
        name="steps",
        model={"path": "model.keras"},
        input={"files": "d.parquet", "features": [f"f{i}" for i in range(6)]},
        method={"name": "deep_shap"},
        baseline={"kind": "sample", "rows": 10},
        output={"path": "run"},
    )
    return dict(make_plan(load_config(str(config)), in_process=True).__dict__)


def test_a_rounded_layer_is_planned_though_it_has_no_gradient(tmp_path: Path) -> None:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((6,), name="x")
    assert planned(keras.Model(inputs, L.Dense(1)(ops.round(L.Dense(8)(inputs)))), tmp_path)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantised_model_is_refused_with_the_methods_that_work(tmp_path: Path) -> None:
    inputs = keras.Input((6,), name="x")
    model = keras.Model(inputs, L.Dense(1)(L.Dense(8, activation="tanh")(inputs)))
    model.quantize("int8")
    with pytest.raises(UserError, match=r"scales a row by its own largest value.*exact_shap"):
        planned(model, tmp_path)
