"""What gradients cannot pass is refused by name; what only looks alike is explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models.cut_worlds import (
    Inputs,
    L,
    gradients,
    integrated,
    loaded,
    ops,
    scored,
    total,
)
from transforms.errors import UserError


def refusal(model: Any, example: Inputs) -> str:
    with pytest.raises(UserError) as caught:
        scored(model).differentiable(example)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_crossing_is_refused_by_name() -> None:
    a, b = L.Input((1,), dtype="string", name="origin"), L.Input((1,), dtype="string", name="carrier")
    crossed = L.HashedCrossing(8, output_mode="one_hot")((a, b))
    model = keras.Model([a, b], L.Dense(1)(crossed))
    example = {"origin": np.array([[b"JFK"]], object), "carrier": np.array([[b"AA"]], object)}
    text = refusal(model, example)
    assert "'carrier', 'origin' meet in" in text
    assert "hashed_crossing" in text


@pytest.mark.parametrize("mode", ["multi_hot", "count"])
@pytest.mark.parametrize("size", [3, 5])
def test_positions_that_are_counted_share_what_the_column_gets(mode: str, size: int) -> None:
    """Also where the encoding happens to be as wide as the input, so that shapes alone would not tell.

    The model is linear in the encoding: the column gets w · (encoding of the row − that of the base row).
    """
    ids = L.Input((3,), dtype="int64", name="ids")
    encode, dense = L.CategoryEncoding(size, output_mode=mode), L.Dense(1)
    model = keras.Model(ids, dense(encode(ids)))
    rows, bases = {"ids": np.array([[0, 1, 1], [2, 2, 2], [0, 1, 2]])}, {"ids": np.array([[0, 0, 2]])}
    values = integrated(scored(loaded(model)), rows, bases)["ids"][:, 0]
    weights = dense.get_weights()[0][:, 0]
    one_hot = np.eye(size)[np.concatenate([rows["ids"], bases["ids"]])]
    encoded = one_hot.max(axis=1) if mode == "multi_hot" else one_hot.sum(axis=1)
    np.testing.assert_allclose(values.sum(axis=1), (encoded[:3] - encoded[3]) @ weights, atol=1e-6)
    np.testing.assert_allclose(values, np.repeat(values.mean(axis=1)[:, None], 3, axis=1), atol=1e-7)
    assert np.abs(values).max() > 1e-2


@pytest.mark.parametrize("mode", ["multi_hot", "count", "tf_idf"])
def test_words_that_are_counted_share_what_the_column_gets(mode: str) -> None:
    words = L.Input((2,), dtype="string", name="words")
    idf = {"idf_weights": [0.5, 2.0, 1.0]} if mode == "tf_idf" else {}
    lookup = L.StringLookup(vocabulary=["snow", "fog", "rain"], output_mode=mode, **idf)
    model = keras.Model(words, L.Dense(1)(L.Dense(5, activation="tanh")(lookup(words))))
    rows = {"words": np.array([[b"snow", b"fog"], [b"rain", b"rain"]], object)}
    bases = {"words": np.array([[b"sun", b"fog"]], object)}
    own = scored(loaded(model))
    values = integrated(own, rows, bases)["words"][:, 0]
    difference = own.evaluate(rows)[0][:, 0] - own.evaluate(bases)[0][:, 0]
    np.testing.assert_allclose(values.sum(axis=1), difference, atol=1e-5)
    np.testing.assert_allclose(values[:, 0], values[:, 1])
    assert np.abs(difference).max() > 1e-2


@pytest.mark.parametrize("function", [ops.flip, ops.cumsum], ids=["flip", "cumsum"])
def test_values_that_change_places_are_refused(function: Callable[..., Any]) -> None:
    """Shapes are kept, and still no value stands for its own position."""
    ids = L.Input((3,), dtype="int64", name="ids")
    seen = L.Embedding(9, 2)(function(ids, axis=1))
    text = refusal(keras.Model(ids, L.Dense(1)(L.Flatten()(seen))), {"ids": np.array([[0, 1, 2]])})
    assert "mixes the values of input 'ids'" in text


def test_no_path_is_refused_and_an_unused_input_is_not() -> None:
    x, gate, unused = (
        L.Input((2,), name="x"),
        L.Input((1,), dtype="int32", name="gate"),
        L.Input((1,), name="unused"),
    )
    chosen = ops.where(ops.equal(gate, 1), x, 2 * x)
    example = {
        "x": np.ones((1, 2), np.float32),
        "gate": np.ones((1, 1), np.int32),
        "unused": np.ones((1, 1), np.float32),
    }
    assert "no gradient path leads from the int32 input 'gate'" in refusal(
        keras.Model([x, gate, unused], L.Dense(1)(chosen)), example
    )
    model = scored(keras.Model([x, gate, unused], L.Dense(1)(x)))
    values = integrated(model, example, {k: 0 * v for k, v in example.items()})
    assert values["gate"].shape == values["unused"].shape == (1, 1, 1)
    assert not values["gate"].any()
    assert not values["unused"].any()
    assert values["x"].any()


@pytest.mark.parametrize(
    "function",
    [tf.floor, tf.round, tf.sign, lambda x: x // 0.5],
    ids=["floor", "round", "sign", "floor division"],
)
def test_steps_are_crossed_as_inputs_of_their_own(function: Callable[[Any], Any]) -> None:
    """What moves in steps is attributed by its value, as a bin is."""

    class Steps(L.Layer):
        def call(self, inputs: Any) -> Any:
            return function(inputs)

    x = L.Input((2,), name="x")
    model = keras.Model(x, L.Dense(1)(ops.tanh(Steps()(x))))
    with keras.saving.custom_object_scope({"Steps": Steps}):
        adapted = scored(model)
    rows, base = {"x": np.array([[1.7, -0.6]], np.float32)}, {"x": np.array([[-0.7, 0.2]], np.float32)}
    values = integrated(adapted, rows, base)
    expected = adapted.evaluate(rows)[0] - adapted.evaluate(base)[0]
    np.testing.assert_allclose(total(values), expected, atol=1e-6)
    assert np.abs(values["x"]).min() > 1e-3


def test_what_stops_gradients_in_training_stops_no_attribution() -> None:
    """A softmax written out subtracts a maximum behind stop_gradient, in which all inputs meet."""
    x, y = L.Input((2,), name="x"), L.Input((2,), name="y")
    joined = L.Concatenate()([x, y])
    shifted = ops.exp(joined - ops.stop_gradient(ops.max(joined, axis=-1, keepdims=True)))
    model = scored(keras.Model([x, y], shifted[:, :1] / ops.sum(shifted, axis=-1, keepdims=True)))
    rng = np.random.default_rng(1)
    rows = {name: rng.normal(size=(4, 2)).astype(np.float32) for name in "xy"}
    base = {name: np.zeros((1, 2), np.float32) for name in "xy"}
    values = integrated(model, rows, base, 60)
    np.testing.assert_allclose(total(values)[:, 0], (model.evaluate(rows)[0] - 0.25)[:, 0], atol=1e-5)
    found = gradients(model, rows)
    p = np.exp(np.concatenate([rows["x"], rows["y"]], axis=1))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["x"][:, 0, 0], p[:, 0] * (1 - p[:, 0]), rtol=1e-4)
    np.testing.assert_allclose(found["y"][:, 0], -p[:, :1] * p[:, 2:], rtol=1e-4)


def test_a_stopped_gradient_is_part_of_the_derivative() -> None:
    """F = x² written as x · stop_gradient(x) moves by 2x, whatever training would do with it."""
    x = L.Input((2,), name="x")
    model = scored(keras.Model(x, ops.sum(x * ops.stop_gradient(x), axis=1, keepdims=True)))
    rows = {"x": np.array([[1.5, -2.0]], np.float32)}
    np.testing.assert_allclose(gradients(model, rows)["x"][0, 0], [3.0, -4.0], rtol=1e-6)
    values = integrated(model, rows, {"x": np.zeros((1, 2), np.float32)})
    np.testing.assert_allclose(values["x"][0, 0], [2.25, 4.0], rtol=1e-5)
