"""Gradients at the cut against finite differences; targets, traces, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models.cut_worlds import (
    Inputs,
    L,
    called,
    gradients,
    integrated,
    numbers,
    one_row,
    scored,
    strings,
    total,
)
from transforms.models.graphs.cut.cut import find_cut
from transforms.models.graphs.scored import ScoredGraph

# -- gradients against finite differences, in float64 ----------------------------------------------------


@contextmanager
def policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def double() -> tuple[Any, ScoredGraph, Inputs]:
    """A float64 model of ids that share a table, a string and two numbers."""
    keras.utils.set_random_seed(5)
    with policy("float64"):
        places = L.Input((3,), dtype="int64", name="places")
        carrier = L.Input((1,), dtype="string", name="carrier")
        x = L.Input((2,), dtype="float64", name="x")
        code = L.StringLookup(vocabulary=["AA", "UA", "DL"])(carrier)
        parts = [
            L.Flatten()(L.Embedding(9, 4, embeddings_initializer="normal", name="places_table")(places)),
            L.Flatten()(L.Embedding(4, 3, embeddings_initializer="normal", name="carrier_table")(code)),
            L.Normalization(mean=[0.1, 0.2], variance=[2.0, 3.0])(x),
        ]
        hidden = L.LayerNormalization()(L.Dense(16, activation="gelu")(L.Concatenate()(parts)))
        hidden = L.Dense(6, activation="swish")(hidden)
        model = keras.Model([places, carrier, x], L.Dense(2, activation="softmax")(hidden))
        adapted = scored(model, "probability")
    rows = {
        "places": np.array([[1, 5, 8], [7, 0, 2]]),
        "carrier": np.array([[b"UA"], [b"never seen"]], object),
        "x": np.array([[0.3, -1.0], [2.0, 0.7]]),
    }
    return model, adapted, rows


def finite_difference(model: Any, row: Inputs, move: Callable[[float], Any]) -> float:
    """Central difference of output 0 with respect to what `move` moves, error O(h⁴)."""

    def score(h: float) -> float:
        arguments = move(h)
        return float(called(model, arguments)[0, 0])

    h = 1e-3
    return (8 * (score(h) - score(-h)) - (score(2 * h) - score(-2 * h))) / (12 * h)


def test_gradients_through_embeddings_are_finite_differences(double: tuple[Any, ScoredGraph, Inputs]) -> None:
    """∂F/∂e summed over the axis of an embedding: moves one id's row of the table."""
    model, loaded_model, rows = double
    values = gradients(loaded_model, rows)
    vocabulary = {b"UA": 2, b"never seen": 0}
    for row in range(2):
        single = one_row(rows, row)
        moved = [("places_table", int(rows["places"][row, p]), values["places"][row, 0, p]) for p in range(3)]
        moved.append(("carrier_table", vocabulary[rows["carrier"][row, 0]], values["carrier"][row, 0, 0]))
        for table, entry, value in moved:
            layer = model.get_layer(table)
            kept = layer.get_weights()[0]

            def move(h: float, layer: Any = layer, kept: np.ndarray = kept, entry: int = entry) -> Inputs:
                changed = kept.copy()
                changed[entry] += h
                layer.set_weights([changed])
                return single  # noqa: B023 - called at once

            expected = finite_difference(model, single, move)
            layer.set_weights([kept])
            assert abs(expected) > 1e-5
            np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-9)


def test_gradients_of_numbers_are_finite_differences(double: tuple[Any, ScoredGraph, Inputs]) -> None:
    model, loaded_model, rows = double
    values, products = gradients(loaded_model, rows), gradients(loaded_model, rows, "times_input")
    sizes = gradients(loaded_model, rows, "absolute")
    for row, position in np.ndindex(2, 2):
        single = one_row(rows, row)

        def move(h: float, single: Inputs = single, position: int = position) -> Inputs:
            x = single["x"].copy()
            x[0, position] += h
            return {**single, "x": x}

        expected = finite_difference(model, single, move)
        np.testing.assert_allclose(values["x"][row, 0, position], expected, rtol=2e-6)
        np.testing.assert_allclose(sizes["x"][row, 0, position], abs(expected), rtol=2e-6)
        np.testing.assert_allclose(
            products["x"][row, 0, position], expected * single["x"][0, position], rtol=2e-6
        )


def test_a_float64_model_is_integrated_in_float64(double: tuple[Any, ScoredGraph, Inputs]) -> None:
    _, model, rows = double
    differentiable = model.differentiable(rows)
    assert {entry.tensor.dtype for entry in differentiable.cut.entries} == {tf.float64}
    base = one_row(rows, 1)
    values = integrated(model, rows, base)
    scores = model.evaluate(rows)[0]
    np.testing.assert_allclose(total(values)[:, 0], (scores - scores[1])[:, 0], atol=2e-7)
    noise = [np.zeros((4, *e.tensor.shape[1:]), np.float32) for e in differentiable.cut.entries]
    twice, squares = differentiable.gradient(rows, noise, 2, np.zeros((2, 1), np.int64), "plain")
    for name, value in gradients(model, rows).items():
        np.testing.assert_allclose(twice[name], 2 * value, rtol=1e-6)
        assert not squares[name].any()


def test_half_precision_is_integrated_in_float32() -> None:
    keras.utils.set_random_seed(6)
    with policy("mixed_float16"):
        month, x = L.Input((1,), dtype="int64", name="month"), L.Input((5,), name="x")
        part = L.Flatten()(L.Embedding(13, 4, embeddings_initializer="normal")(month))
        hidden = L.Dense(32, activation="tanh")(L.Concatenate()([part, L.Dense(8)(x)]))
        model = keras.Model([month, x], L.Dense(1, dtype="float32")(hidden))
    adapted = scored(model)
    assert "in_x:0" in [tensor.name for tensor in find_cut(adapted.traced, adapted.scores).frontier]
    rng = np.random.default_rng(0)
    rows = {"month": rng.integers(0, 13, (6, 1)), "x": rng.normal(size=(6, 5)).astype(np.float32)}
    base = one_row(rows, 0)
    values = integrated(adapted, rows, base, 32)
    scores = adapted.evaluate(rows)[0]
    spread = scores.std()
    # As exact as a model that rounds to three digits can be, and no worse for the nodes being many.
    np.testing.assert_allclose(total(values), scores - scores[0], atol=5e-3 * spread)
    plain = integrated(scored(model, affine_prefix=False), rows, base, 32)
    for name, value in values.items():
        np.testing.assert_allclose(value, plain[name], atol=5e-3 * spread)


# -- targets, traces, threads ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes() -> ScoredGraph:
    keras.utils.set_random_seed(2)
    x = L.Input((7,), name="x")
    return scored(keras.Model(x, L.Dense(11, activation="softmax")(L.Dense(16, activation="tanh")(x))))


def test_every_target_in_any_order(classes: ScoredGraph) -> None:
    rows, base = numbers(7), {"x": np.zeros((1, 7), np.float32)}
    everything = np.broadcast_to(np.arange(11), (3, 11))
    values = integrated(classes, rows, base, targets=everything)
    expected = classes.evaluate(rows)[0] - classes.evaluate(base)[0]
    np.testing.assert_allclose(total(values), expected, atol=1e-5)
    chosen = np.array([[4, 10], [0, 1], [9, 9]])
    some = integrated(classes, rows, base, targets=chosen)
    np.testing.assert_allclose(
        some["x"], np.take_along_axis(values["x"], chosen[:, :, None], axis=1), atol=1e-6
    )


def test_the_batch_is_never_traced_again(classes: ScoredGraph) -> None:
    differentiable = classes.differentiable(numbers(7))
    base = {"x": np.zeros((2, 7), np.float32)}
    counts = []
    for size in (1, 2, 3, 5, 3):
        rows = {"x": np.ones((size, 7), np.float32)}
        integrated(classes, rows, base, nodes=size)
        gradients(classes, rows)
        classes.evaluate(rows)
        counts.append(differentiable.traces)
    assert len(set(counts)) == 1
    assert counts[0] <= 6


def test_evaluations_are_counted(classes: ScoredGraph) -> None:
    differentiable = classes.differentiable(numbers(7))
    before = differentiable.evaluations
    integrated(classes, numbers(7), {"x": np.zeros((2, 7), np.float32)}, nodes=4)
    assert differentiable.evaluations - before == 3 * 2 * 4
    before = differentiable.evaluations
    gradients(classes, numbers(7))
    assert differentiable.evaluations - before == 3
    before = classes.evaluations
    classes.evaluate(numbers(7))
    assert classes.evaluations - before == 3


def test_squares_are_of_pairs_and_of_deviations(classes: ScoredGraph) -> None:
    differentiable = classes.differentiable(numbers(7))
    rows, targets = numbers(7), np.array([[3], [1], [0]])
    bases = {"x": np.random.default_rng(8).normal(size=(4, 7)).astype(np.float32)}
    ends = differentiable.ends(bases)
    alphas = np.random.default_rng(9).random((4, 1, 3)).astype(np.float32)
    index = np.arange(4, dtype=np.int32)[:, None]
    weight = np.ones(1, np.float32)
    terms = [
        differentiable.integrate(rows, ends, index[g : g + 1], alphas[g : g + 1], weight, targets)[0]["x"]
        for g in range(4)
    ]
    sums, squares = differentiable.integrate(rows, ends, index, alphas, weight, targets, squares=True)
    np.testing.assert_allclose(sums["x"], sum(terms), atol=1e-5)
    np.testing.assert_allclose(
        squares["x"], (terms[0] - terms[1]) ** 2 + (terms[2] - terms[3]) ** 2, atol=1e-5
    )
    noise = np.random.default_rng(10).normal(size=(5, 3, 7)).astype(np.float32)
    moved, deviations = differentiable.gradient(rows, [noise.reshape(15, 7)], 5, targets, "plain")
    single = np.stack([differentiable.gradient(rows, [n], 1, targets, "plain")[0]["x"] for n in noise])
    np.testing.assert_allclose(moved["x"], single.sum(axis=0), atol=1e-5)
    np.testing.assert_allclose(deviations["x"], 5 * single.var(axis=0), atol=1e-5)


def test_scores_along_the_path(classes: ScoredGraph) -> None:
    differentiable = classes.differentiable(numbers(7))
    rows, targets = numbers(7), np.array([[3, 0], [1, 2], [10, 4]])
    bases = {"x": np.random.default_rng(8).normal(size=(2, 7)).astype(np.float32)}
    alphas = np.random.default_rng(9).random((2, 3, 3)).astype(np.float32)
    found = differentiable.path_scores(
        rows, differentiable.ends(bases), np.array([[1], [0]], np.int32), alphas, targets
    )
    assert found.shape == (2, 3, 3, 2)
    for g, k, row in np.ndindex(2, 3, 3):
        base = bases["x"][1 - g]
        point = base + alphas[g, k, row] * (rows["x"][row] - base)
        expected = classes.evaluate({"x": point[None]})[0][0, targets[row]]
        np.testing.assert_allclose(found[g, k, row], expected, atol=1e-5)


def test_memory_grows_with_the_steps_of_a_loop() -> None:
    """What a recurrent layer keeps for the way back decides how many rows a device call may take."""

    def bytes_of(steps: int, unroll: bool) -> int:
        series = L.Input((steps, 4), name="x")
        model = scored(keras.Model(series, L.Dense(1)(L.LSTM(16, unroll=unroll)(series))))
        return model.differentiable(numbers(steps, 4)).activation_bytes

    short, long, written_out = bytes_of(4, False), bytes_of(16, False), bytes_of(4, True)
    assert 3 < long / short < 5
    assert 0.2 < short / written_out < 5


def test_threads_share_a_model() -> None:
    keras.utils.set_random_seed(2)
    x, carrier = L.Input((7,), name="x"), L.Input((1,), dtype="string", name="carrier")
    code = L.StringLookup(vocabulary=["AA", "UA", "DL"], output_mode="one_hot")(carrier)
    hidden = L.Dense(16, activation="tanh")(L.Concatenate()([x, code]))
    model = scored(keras.Model([x, carrier], L.Dense(2)(hidden)))
    rng = np.random.default_rng(1)
    batches = [
        {"x": rng.normal(size=(n, 7)).astype(np.float32), "carrier": strings(rng, n, 1)} for n in (1, 4, 9, 3)
    ]
    base = one_row(batches[1], 0)

    def work(number: int) -> tuple[np.ndarray, Inputs]:
        rows = batches[number % 4]
        return model.evaluate(rows)[0], integrated(model, rows, base, 8)

    with ThreadPoolExecutor(4) as pool:  # the first calls trace, all at once
        found = list(pool.map(work, range(24)))
    for number, (scores, values) in enumerate(found):
        alone_scores, alone = work(number)
        np.testing.assert_allclose(scores, alone_scores, atol=1e-6)
        for name, value in values.items():
            np.testing.assert_allclose(value, alone[name], atol=1e-6)
    differentiable = model.differentiable(base)
    assert differentiable.evaluations == 2 * 8 * sum(len(batches[n % 4]["x"]) for n in range(24))
    assert model.evaluations == 2 * sum(len(batches[n % 4]["x"]) for n in range(24))
    assert differentiable.traces == 2


def test_find_cut_needs_a_frontier_only_where_it_pays() -> None:
    """A layer that widens by far costs more to interpolate than to compute."""
    model = scored(keras.Sequential([L.Input((2,), name="x"), L.Dense(64, activation="tanh"), L.Dense(1)]))
    cut = find_cut(model.traced, model.scores)
    assert not cut.has_prefix
    wide = scored(keras.Sequential([L.Input((64,), name="x"), L.Dense(64, activation="tanh"), L.Dense(1)]))
    assert find_cut(wide.traced, wide.scores).has_prefix
    assert not find_cut(wide.traced, wide.scores, affine_prefix=False).has_prefix
