"""Gradients that layers bring along, and steps that mix: TensorFlow's own tape or a refusal, no share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models import models_zoo
from tests.support.models.cut_worlds import Inputs, L, gradients, integrated, loaded, ops, scored, total
from transforms.errors import UserError
from transforms.models.base import NoGradients
from transforms.models.graphs.cut.provenance import EVERYWHERE
from transforms.models.graphs.scored import ScoredGraph


def tape(model: Any, rows: Inputs) -> Inputs:
    """TensorFlow's gradient of output 0 of a Keras model as it is."""

    @tf.function(autograph=False)
    def found(values: Inputs) -> Any:
        floats = {name: value for name, value in values.items() if value.dtype.is_floating}
        with tf.GradientTape() as watching:
            watching.watch(floats)
            given = keras.tree.map_structure(lambda tensor: values[tensor.name], model.input)
            output = keras.tree.flatten(model(given, training=False))[0]
            score = tf.reshape(tf.cast(output, tf.float32), [len(next(iter(rows.values()))), -1])[:, 0]
        return watching.gradient(score, floats, unconnected_gradients="zero")

    gradient = found({name: tf.constant(value) for name, value in rows.items()})
    return {name: value.numpy() for name, value in gradient.items()}


def agrees(model: Any, rows: Inputs, tolerance: float = 1e-6, own: ScoredGraph | None = None) -> None:
    expected = tape(model, rows)
    scale = max(float(np.abs(value).max()) for value in expected.values())
    assert scale > 1e-3, "a model that says something"
    found = gradients(own or scored(model), rows)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name][:, 0], value, atol=tolerance * scale)


def numbers(*shape: int, rows: int = 4) -> Inputs:
    return {"x": np.random.default_rng(2).normal(size=(rows, *shape)).astype(np.float32)}


@keras.saving.register_keras_serializable("customs")
class Rounds(L.Layer):
    """Rounds, and says that its gradient is that of the identity; in a function of its own, if so told."""

    def __init__(self, nested: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.nested = nested

    def call(self, inputs: Any) -> Any:
        @tf.custom_gradient
        def rounded(x: Any) -> Any:
            return tf.round(4 * x) / 4, lambda upstream: upstream * tf.cast(tf.abs(x) < 1, x.dtype)

        return tf.function(rounded, autograph=False)(inputs) if self.nested else rounded(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "nested": self.nested}


@keras.saving.register_keras_serializable("customs")
class Scales(L.Layer):
    """Multiplies by a weight, with gradients of its own for the input and the weight."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.RandomNormal(seed=3))

    def call(self, inputs: Any) -> Any:
        @tf.custom_gradient
        def scaled(x: Any) -> Any:
            scale = tf.convert_to_tensor(self.scale)

            def gradient(upstream: Any, variables: Any = None) -> Any:
                found = 3.0 * upstream * scale
                return (found, [tf.zeros_like(v) for v in variables]) if variables else found

            return x * scale, gradient

        return scaled(inputs)


def dense(*layers: Any, shape: tuple[int, ...] = (5,)) -> Any:
    keras.utils.set_random_seed(4)
    x = value = L.Input(shape, name="x")
    for layer in layers:
        value = layer(value)
    return keras.Model(x, L.Dense(2)(L.Flatten()(value)))


def nested() -> Any:
    """A model in a model, called twice, with a layer of its own gradient in both."""
    rounds = Rounds()
    inner = dense(L.Dense(4, activation="tanh"), rounds, shape=(3,))
    x = L.Input((6,), name="x")
    return keras.Model(x, L.Dense(1)(rounds(inner(x[:, :3]) * inner(x[:, 3:]))))


CUSTOM: dict[str, Callable[[], Any]] = {
    "straight through": lambda: dense(L.Dense(6), Rounds(), L.Dense(4, activation="tanh")),
    "in a function": lambda: dense(L.Dense(6, activation="tanh"), Rounds(nested=True), L.Dense(3)),
    "weighted": lambda: dense(L.Dense(6, activation="tanh"), Scales(), L.Dense(3, activation="tanh")),
    "swish": lambda: dense(L.Dense(16, activation="swish"), L.Dense(8, activation="swish")),
    "in a loop": lambda: dense(L.GRU(4, activation="swish"), shape=(3, 2)),
    "nested": nested,
    "in steps": lambda: dense(L.TimeDistributed(L.Dense(3)), Rounds(), L.LSTM(3), shape=(3, 2)),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_a_layer_s_own_gradient_is_taken(name: str) -> None:
    model = CUSTOM[name]()
    agrees(model, numbers(*model.inputs[0].shape[1:]))


@pytest.mark.parametrize("name", models_zoo.CASES)
def test_every_model_of_the_zoo_has_tensorflow_s_gradient(name: str) -> None:
    """Of the model as Keras holds it, neither traced by us nor written out nor cut."""
    case = models_zoo.CASES[name]()
    own = ScoredGraph(case.model.adapter, case.model.shapes, "output")
    agrees(case.model.adapter.model, case.rows, 2e-6, own)


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantised_models_have_their_layers_gradients(mode: str) -> None:
    """Keras's straight-through gradients; a feature of weight 0 gets nothing, of equal ones each the same."""
    model = dense(L.Dense(8, activation="tanh"), L.Dense(4, activation="tanh"))
    first = model.layers[1]
    kernel, bias = first.get_weights()
    kernel[1], kernel[3] = 0, kernel[2]
    first.set_weights([kernel, bias])
    rows = numbers(5)
    rows["x"][:, 3] = rows["x"][:, 2]
    for layer in model.layers[1:]:
        if isinstance(layer, L.Dense):
            layer.quantize(mode)
    agrees(model, rows)
    own = scored(model)
    for values in (
        gradients(own, rows)["x"],
        integrated(own, rows, {"x": np.zeros((1, 5), np.float32)})["x"],
    ):
        assert not values[..., 1].any()
        np.testing.assert_allclose(values[..., 2], values[..., 3], rtol=1e-5, atol=1e-7)
        assert np.abs(values).max() > 1e-2


# -- steps that mix the values of a row ------------------------------------------------------------------


def weighed(x: Any) -> Any:
    return ops.sum(x * np.array([5.0, 1.0, 0.0], np.float32), axis=1, keepdims=True)


MIXED: dict[str, Callable[[Any], Any]] = {
    "floor of a sum": lambda x: ops.floor(weighed(x)),
    "rounded maximum": lambda x: ops.round(ops.max(x, axis=1, keepdims=True)),
    "sign of a layer": lambda x: ops.sign(L.Dense(3)(x)),
    "ceil of a softmax": lambda x: ops.ceil(3 * ops.softmax(x)),
    "bins of a layer": lambda x: L.Discretization([0.0], output_mode="one_hot")(L.Dense(1)(x)),
    "largest": lambda x: ops.cast(ops.argmax(x, axis=1, keepdims=True), "float32"),
    "places of the largest": lambda x: ops.cast(ops.top_k(x, 2)[1], "float32"),
    "order": lambda x: ops.cast(ops.argsort(x, axis=1), "float32"),
    "comparison": lambda x: ops.cast(weighed(x) > 0, "float32"),
    "whole numbers": lambda x: ops.cast(ops.cast(weighed(x), "int32"), "float32"),
    "a table": lambda x: L.Flatten()(L.Embedding(9, 2)(ops.cast(ops.abs(weighed(x)), "int32"))),
    "a hash": lambda x: L.CategoryEncoding(8, "one_hot")(L.Hashing(8)(ops.cast(weighed(x), "int64"))),
    "beside a smooth path": lambda x: ops.concatenate([x, ops.floor(weighed(x))], axis=1),
    "a product": lambda x: x * ops.floor(weighed(x)),
    "neighbours": lambda x: ops.round(L.Flatten()(L.Conv1D(1, 3, padding="same")(x[:, :, None]))),
    "stopped": lambda x: L.Dense(3)(x) + ops.stop_gradient(ops.round(weighed(x))),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_step_that_mixes_values_is_refused(name: str) -> None:
    """A feature of weight 0 got as much as any other: entries were shared out evenly."""
    x = L.Input((3,), name="x")
    model = scored(keras.Model(x, L.Dense(1)(MIXED[name](x))))
    with pytest.raises(UserError, match="mixes the values of input 'x' before any gradient begins") as caught:
        model.differentiable({"x": np.ones((1, 3), np.float32)})
    # Which methods would do instead is added by whoever knows methods: see planning.
    assert isinstance(caught.value, NoGradients)
    assert caught.value.remedy is None
    assert "tree_shap" not in str(caught.value)


@pytest.mark.parametrize(
    "told_apart",
    [
        lambda ids: ids + np.array([0, 4, 8]),  # a column's own part of one vocabulary
        lambda ids: ids[:, :2],
        lambda ids: ops.concatenate([ids, ids[:, :1]], axis=1),
    ],
    ids=["offset", "a part", "one twice"],
)
def test_counts_that_are_not_alike_are_not_shared(told_apart: Callable[[Any], Any]) -> None:
    ids = L.Input((3,), dtype="int64", name="x")
    model = scored(keras.Model(ids, L.Dense(1)(L.CategoryEncoding(12, "count")(told_apart(ids)))))
    with pytest.raises(UserError, match="mixes the values"):
        model.differentiable({"x": np.ones((1, 3), np.int64)})


@pytest.mark.parametrize("axis", [1, -1])
def test_classes_stand_where_one_hot_puts_them(axis: int) -> None:
    """As many classes as positions: shapes alone would not tell the axes apart."""
    ids = L.Input((3,), dtype="int64", name="x")
    keras.utils.set_random_seed(1)
    model = keras.Model(ids, L.Dense(1)(L.Flatten()(ops.one_hot(ids, 3, axis=axis))))
    rows, base = {"x": np.array([[0, 1, 2], [2, 1, 0]])}, {"x": np.array([[1, 1, 1]])}
    found = integrated(scored(model), rows, base)["x"][:, 0]
    score = scored(model).evaluate
    for place in range(3):
        changed = {"x": np.tile(base["x"], (2, 1))}
        changed["x"][:, place] = rows["x"][:, place]
        # The model is linear in the classes: each position is worth what it changes alone.
        np.testing.assert_allclose(found[:, place], (score(changed)[0] - score(base)[0])[:, 0], atol=1e-6)


def test_what_counts_is_shared_and_what_only_looks_so_is_not() -> None:
    ids = L.Input((3,), dtype="int64", name="x")
    counts = [
        (L.CategoryEncoding(5, "count")(ids), True),
        (ops.cast(ops.sum(ops.one_hot(ids, 5, dtype="int32"), axis=1), "float32"), True),
        # Each position has floats of its own before they meet.
        (ops.sum(ops.one_hot(ids, 5), axis=1), False),
        (ops.max(ops.cast(ops.one_hot(ids, 5, dtype="int32"), "float32"), axis=1), False),
    ]
    for counted, shared in counts:
        keras.utils.set_random_seed(1)
        model = scored(loaded(keras.Model(ids, L.Dense(1)(counted))))
        rows, base = {"x": np.array([[0, 1, 1], [2, 2, 4]])}, {"x": np.array([[0, 0, 2]])}
        entries = model.differentiable(base).cut.entries
        values = integrated(model, rows, base)["x"][:, 0]
        difference = model.evaluate(rows)[0] - model.evaluate(base)[0]
        np.testing.assert_allclose(values.sum(axis=1), difference[:, 0], atol=1e-5)
        assert any((entry.positions == EVERYWHERE).any() for entry in entries) == shared
        if shared:
            np.testing.assert_allclose(values, values[:, :1].repeat(3, axis=1), rtol=1e-5)
        else:
            assert not values[0, 0].any(), "the row's first id is the baseline's"


# -- complex numbers in between --------------------------------------------------------------------------

COMPLEX: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "rfft": ((8,), lambda x: ops.concatenate(ops.rfft(x), axis=-1)),
    "power": ((8,), lambda x: ops.square(ops.rfft(x)[0]) + ops.square(ops.rfft(x)[1])),
    "fft2": ((4, 4), lambda x: ops.fft2((x, ops.zeros_like(x)))[0]),
    "spectrogram": (
        (16, 1),
        lambda x: L.STFTSpectrogram(frame_length=4, frame_step=2, fft_length=4, mode="psd")(x),
    ),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_in_between_are_differentiated(name: str) -> None:
    shape, function = COMPLEX[name]
    keras.utils.set_random_seed(4)
    x = L.Input(shape, name="x")
    model = keras.Model(x, L.Dense(1, activation="tanh")(L.Flatten()(function(x))))
    agrees(model, numbers(*shape), 1e-5)
    own, rows, base = scored(model), numbers(*shape), {"x": np.zeros((1, *shape), np.float32)}
    difference = own.evaluate(rows)[0] - own.evaluate(base)[0]
    np.testing.assert_allclose(total(integrated(own, rows, base, 80)), difference, atol=1e-4)
