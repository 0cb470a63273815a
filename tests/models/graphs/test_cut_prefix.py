"""Where a model stops being affine: the prefix changes no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from tests.support.models.cut_worlds import (
    Inputs,
    L,
    integrated,
    loaded,
    numbers,
    ops,
    scored,
    total,
)
from transforms.models.graphs.cut.entries import Cut


def cut_of(model: Any, example: Inputs) -> Cut:
    """The cut; that the prefix changes no number is checked on the way."""
    adapter = loaded(model)
    prefix, plain = scored(adapter), scored(adapter, affine_prefix=False)
    base = {name: value[:1] * 0 for name, value in example.items()}
    found = [integrated(m, example, base, 6) for m in (prefix, plain)]
    scale = max(np.abs(value).max() for value in found[0].values())
    assert scale > 0
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], atol=1e-5 * scale)
    return prefix.differentiable(example).cut


def types(tensors: Any) -> list[str]:
    return [tensor.op.type for tensor in tensors]


def shapes(tensors: Any) -> list[list[int | None]]:
    return [tensor.shape.as_list() for tensor in tensors]


def test_frontier_of_dense_layers() -> None:
    model = keras.Sequential(
        [L.Input((20,), name="x"), L.Dense(8), L.Dense(4, activation="relu"), L.Dense(1)]
    )
    assert types(cut_of(model, numbers(20)).frontier) == ["BiasAdd"]


def test_frontier_of_a_linear_model_is_the_score() -> None:
    model = keras.Sequential([L.Input((20,), name="x"), L.Dense(8), L.Dense(1)])
    cut = cut_of(model, numbers(20))
    assert [t.name for t in cut.frontier] == [t.name for t in cut.scores]


def test_frontier_of_numbers_normalised_and_joined() -> None:
    a, b = L.Input((6,), name="a"), L.Input((9,), name="b")
    normal = L.Normalization(mean=[0.5] * 6, variance=[2.0] * 6)(a)
    model = keras.Model([a, b], L.Dense(1)(L.Dense(7, activation="relu")(L.Concatenate()([normal, b]))))
    example = {"a": numbers(6)["x"], "b": numbers(9)["x"]}
    assert types(cut_of(model, example).frontier) == ["BiasAdd"]


@pytest.mark.parametrize("norm", [False, True])
def test_frontier_of_a_convolution(norm: bool) -> None:
    keras.utils.set_random_seed(0)
    layers = [L.Input((8, 8, 3), name="x"), L.Conv2D(4, 3, strides=2), L.BatchNormalization()]
    model = keras.Sequential([*layers[: 3 if norm else 2], L.ReLU(), L.Flatten(), L.Dense(1)])
    if norm:
        model.layers[1].set_weights(
            [np.array([1.5, 2, 1, 1]), np.ones(4), np.array([0.1, 0.2, 0, 1]), np.full(4, 2.0)]
        )
    cut = cut_of(model, numbers(8, 8, 3))
    assert shapes(cut.frontier) == [[None, 3, 3, 4]]
    assert ("batch_normalization" in cut.frontier[0].op.name) == norm
    assert types(entry.tensor for entry in cut.entries) == ["Placeholder"]


def test_frontier_of_a_residual_connection() -> None:
    x = L.Input((32,), name="x")
    hidden = L.Dense(8, activation="tanh")(x)
    model = keras.Model(x, L.Dense(1)(ops.tanh(L.Dense(32)(hidden) + x)))
    assert types(cut_of(model, numbers(32)).frontier) == ["BiasAdd", "Placeholder"]


def test_frontier_behind_a_flattened_convolution() -> None:
    model = keras.Sequential(
        [
            L.Input((6, 6, 1), name="x"),
            L.Conv2D(2, 3),
            L.Flatten(),
            L.Dense(5),
            L.Dense(3, activation="tanh"),
            L.Dense(1),
        ]
    )
    assert shapes(cut_of(model, numbers(6, 6, 1)).frontier) == [[None, 3]]


@pytest.mark.parametrize("activation", ["relu", "softmax", "leaky_relu", "gelu", "swish"])
def test_nothing_behind_a_nonlinearity_is_affine(activation: str) -> None:
    model = keras.Sequential(
        [
            L.Input((20,), name="x"),
            L.Dense(9, activation=activation),
            L.Dense(4),
            L.Dense(3, activation="tanh"),
            L.Dense(1),
        ]
    )
    assert shapes(cut_of(model, numbers(20)).frontier) == [[None, 9]]


def test_pooling_by_maximum_is_not_affine() -> None:
    model = keras.Sequential(
        [L.Input((8, 8, 1), name="x"), L.MaxPooling2D(2), L.Conv2D(2, 3), L.Flatten(), L.Dense(1)]
    )
    assert types(cut_of(model, numbers(8, 8, 1)).frontier) == ["Placeholder"]


def test_a_product_of_what_varies_is_not_affine() -> None:
    x = L.Input((20,), name="x")
    gated = L.Dense(6)(x) * L.Dense(6)(x)
    cut = cut_of(keras.Model(x, L.Dense(1)(L.Dense(4)(gated))), numbers(20))
    assert types(cut.frontier) == ["BiasAdd", "BiasAdd"]
    squared = L.Dense(6)(x)
    cut = cut_of(keras.Model(x, L.Dense(1)(L.Dense(4)(squared * squared))), numbers(20))
    assert shapes(cut.frontier) == [[None, 6]]
    quotient = L.Dense(6)(x) / (2.0 + ops.square(x[:, :1]))
    assert shapes(cut_of(keras.Model(x, L.Dense(1)(quotient)), numbers(20)).frontier) == [
        [None, 1],
        [None, 6],
    ]


def test_affine_rearranging_is_followed_and_mixing_the_batch_is_not() -> None:
    def ends_of(rearranged: Callable[[Any], Any]) -> list[list[int | None]]:
        x = L.Input((6, 8), name="x")
        model = keras.Model(x, L.Dense(1)(ops.tanh(rearranged(x))))
        return shapes(cut_of(model, numbers(6, 8)).frontier)

    assert ends_of(lambda x: L.Dense(3)(ops.reshape(x, (-1, 48)))) == [[None, 3]]
    assert ends_of(lambda x: L.Dense(3)(ops.mean(ops.transpose(x, (0, 2, 1)), axis=2))) == [[None, 3]]
    assert ends_of(lambda x: L.Dense(3)(x[:, 2:5, 1])) == [[None, 3]]
    assert ends_of(lambda x: L.Dense(3)(ops.take(x, [0, 3], axis=1)[..., 0])) == [[None, 3]]
    assert ends_of(lambda x: L.Dense(3)(L.Flatten()(L.ZeroPadding1D(1)(x)))) == [[None, 3]]
    assert ends_of(lambda x: L.Dense(3)(L.Flatten()(ops.stack([x, 2 * x], axis=1)))) == [[None, 3]]
    # Rows pass through the leading axis here: straight, but not one after another.
    turned = ends_of(
        lambda x: L.Dense(3)(ops.reshape(ops.transpose(ops.transpose(x, (1, 0, 2)), (1, 0, 2)), (-1, 48)))
    )
    assert turned == [[None, 6, 8]]


def test_a_batch_merged_with_positions_is_kept_apart() -> None:
    """[rows · 6, 8] through one dense layer, parted again: right with the prefix and without."""
    x = L.Input((6, 8), name="x")
    merged = L.Dense(4)(ops.reshape(x, (-1, 8)))
    model = keras.Model(x, L.Dense(1)(ops.reshape(ops.tanh(merged), (-1, 24))))
    cut_of(model, numbers(6, 8))
    adapted = scored(model)
    values = integrated(adapted, numbers(6, 8), {"x": np.zeros((1, 6, 8), np.float32)})
    expected = (
        adapted.evaluate(numbers(6, 8))[0] - adapted.evaluate({"x": np.zeros((1, 6, 8), np.float32)})[0]
    )
    np.testing.assert_allclose(total(values), expected, atol=1e-5)


def test_what_depends_on_an_id_is_not_taken_for_a_constant() -> None:
    """Which column is taken is another input's matter: affine in x, but not the same for the base."""
    ids, x = L.Input((1,), dtype="int64", name="ids"), L.Input((12,), name="x")
    part = L.Flatten()(L.Embedding(5, 4, embeddings_initializer="normal")(ids))
    sign = ops.where(ops.equal(ids, 2), 1.0, -1.0)
    model = keras.Model([ids, x], L.Dense(1)(ops.tanh(L.Dense(3)(ops.concatenate([part, x * sign], axis=1)))))
    adapter = loaded(model)
    prefix, plain = scored(adapter), scored(adapter, affine_prefix=False)
    rows = {"ids": np.array([[2], [1], [2]]), "x": numbers(12)["x"]}
    base = {"ids": np.array([[1]]), "x": np.ones((1, 12), np.float32)}
    found = [integrated(m, rows, base) for m in (prefix, plain)]
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], atol=1e-5)
    np.testing.assert_allclose(
        total(found[0]), prefix.evaluate(rows)[0] - prefix.evaluate(base)[0], atol=1e-5
    )


def test_layers_that_train_with_noise_are_quiet() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            L.Input((12,), name="x"),
            L.GaussianNoise(1.0),
            L.Dense(8),
            L.BatchNormalization(),
            L.Dropout(0.9),
            L.Dense(4, activation="tanh"),
            L.Dense(1),
        ]
    )
    model.layers[2].set_weights([np.full(8, 2.0), np.ones(8), np.full(8, 0.3), np.full(8, 4.0)])
    assert shapes(cut_of(model, numbers(12)).frontier) == [[None, 4]]
    adapted = scored(model)
    np.testing.assert_array_equal(adapted.evaluate(numbers(12))[0], adapted.evaluate(numbers(12))[0])
    np.testing.assert_allclose(adapted.evaluate(numbers(12))[0], model(numbers(12)["x"]), atol=1e-6)
