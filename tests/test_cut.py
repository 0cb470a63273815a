"""Where gradients begin and where a model stops being affine, against Keras, finite differences and sums."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.base import ScoredModel
from transforms.models.cut import Cut, find_cut
from transforms.models.keras import KerasModel

L, ops = keras.layers, keras.ops
Inputs = dict[str, np.ndarray]
ROWS, BASES, NODES = 5, 3, 40


def loaded(model: Any) -> KerasModel:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.keras")
        model.save(path)
        return KerasModel(path, allow_unsafe=True)


def scored(model: Any, score: str = "auto", *, affine_prefix: bool = True) -> ScoredModel:
    """A Keras model as the product loads it, or a model already loaded, with its score."""
    adapter = model if isinstance(model, KerasModel) else loaded(model)
    shapes = {spec.name: tuple(extent or 1 for extent in spec.shape) for spec in adapter.signature.inputs}
    return ScoredModel(adapter, shapes, score, affine_prefix=affine_prefix)


def legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return ((x + 1) / 2).astype(np.float32), (w / 2).astype(np.float32)


def integrated(
    model: ScoredModel, rows: Inputs, bases: Inputs, nodes: int = NODES, targets: np.ndarray | None = None
) -> Inputs:
    """Integrated gradients with a mean over the base rows, by model input, `[B, T, *shape]`."""
    differentiable = model.differentiable(bases)
    count, many = len(next(iter(rows.values()))), len(next(iter(bases.values())))
    alphas, weights = legendre(nodes)
    targets = np.zeros((count, 1), np.int64) if targets is None else targets
    values, _ = differentiable.integrate(
        rows,
        differentiable.ends(bases),
        np.arange(many, dtype=np.int32)[:, None],
        np.broadcast_to(alphas[None, :, None], (many, nodes, 1)),
        weights / np.float32(many),
        targets,
    )
    return values


def gradients(model: ScoredModel, rows: Inputs, mode: str = "plain") -> Inputs:
    differentiable = model.differentiable(rows)
    still = [np.float32(0)] * len(differentiable.cut.entries)
    count = len(next(iter(rows.values())))
    return differentiable.gradient(rows, still, 1, np.zeros((count, 1), np.int64), mode)[0]


def total(values: Inputs) -> np.ndarray:
    return sum(value.reshape(*value.shape[:2], -1).sum(axis=2, dtype=np.float64) for value in values.values())


def called(model: Any, inputs: Inputs) -> Any:
    values = [tf.constant(inputs[tensor.name]) for tensor in model.inputs]
    return model(values if len(values) > 1 else values[0], training=False)


def one_row(inputs: Inputs, row: int) -> Inputs:
    return {name: value[row : row + 1] for name, value in inputs.items()}


# -- categorical and other inputs that gradients cannot enter --------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model as Keras made it, its loaded selves with and without the affine prefix, rows and base rows."""

    keras_model: Any
    model: ScoredModel
    plain: ScoredModel
    rows: Inputs
    bases: Inputs

    @cached_property
    def values(self) -> Inputs:
        return integrated(self.model, self.rows, self.bases)

    @cached_property
    def plain_values(self) -> Inputs:
        if self.plain is self.model:
            return self.values
        return integrated(self.plain, self.rows, self.bases)


Draw = Callable[[np.random.Generator, int], Inputs]


def strings(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(np.array([b"AA", b"UA", b"DL", b"never seen"], object), shape)


def tail(*parts: Any) -> Any:
    """Layers wide enough for an affine prefix to pay, and smooth, so that few nodes integrate them."""
    joined = L.Concatenate()(list(parts)) if len(parts) > 1 else parts[0]
    return L.Dense(1, activation="sigmoid")(
        L.Dense(6, activation="tanh")(L.Dense(16, activation="tanh")(joined))
    )


def embedding() -> tuple[Any, Draw]:
    month = L.Input((1,), dtype="int64", name="month")
    part = L.Flatten()(L.Embedding(13, 4, embeddings_initializer="normal")(month))
    return keras.Model(month, tail(part)), lambda rng, n: {"month": rng.integers(0, 13, (n, 1))}


def lookup(**options: Any) -> Callable[[], tuple[Any, Draw]]:
    def build() -> tuple[Any, Draw]:
        carrier = L.Input((1,), dtype="string", name="carrier")
        found = L.StringLookup(vocabulary=["AA", "UA", "DL"], **options)(carrier)
        if not options:
            found = L.Flatten()(L.Embedding(4, 3, embeddings_initializer="normal")(found))
        return keras.Model(carrier, tail(found)), lambda rng, n: {"carrier": strings(rng, n, 1)}

    return build


def integer_lookup(**options: Any) -> Callable[[], tuple[Any, Draw]]:
    def build() -> tuple[Any, Draw]:
        seats = L.Input((1,), dtype="int64", name="seats")
        found = L.IntegerLookup(vocabulary=[10, 20, 30], **options)(seats)
        if not options:
            found = L.Flatten()(L.Embedding(4, 3, embeddings_initializer="normal")(found))
        return keras.Model(seats, tail(found)), lambda rng, n: {"seats": rng.choice([10, 20, 30, 7], (n, 1))}

    return build


def hashing() -> tuple[Any, Draw]:
    tail_number = L.Input((1,), dtype="string", name="tail_number")
    part = L.Flatten()(L.Embedding(8, 3, embeddings_initializer="normal")(L.Hashing(8)(tail_number)))
    return keras.Model(tail_number, tail(part)), lambda rng, n: {"tail_number": strings(rng, n, 1)}


def encoding(mode: str) -> Callable[[], tuple[Any, Draw]]:
    def build() -> tuple[Any, Draw]:
        month = L.Input((1,), dtype="int64", name="month")
        part = L.CategoryEncoding(13, output_mode=mode)(month)
        return keras.Model(month, tail(part)), lambda rng, n: {"month": rng.integers(0, 13, (n, 1))}

    return build


def discretization(mode: str, *, direct: bool) -> Callable[[], tuple[Any, Draw]]:
    """A float input through bins and, where `direct`, also as it is."""

    def build() -> tuple[Any, Draw]:
        temp = L.Input((1,), name="temp")
        part = L.Discretization(bin_boundaries=[-0.5, 0.0, 0.5], output_mode=mode)(temp)
        if mode == "int":
            part = L.Flatten()(L.Embedding(4, 3, embeddings_initializer="normal")(part))
        parts = [part, L.Normalization(mean=[0.3], variance=[2.0])(temp)] if direct else [part]
        draw = lambda rng, n: {"temp": rng.normal(size=(n, 1)).astype(np.float32)}  # noqa: E731
        return keras.Model(temp, tail(*parts)), draw

    return build


def whole_numbers() -> tuple[Any, Draw]:
    """Integers that are measured, not named: normalised."""
    seats = L.Input((2,), dtype="int32", name="seats")
    part = L.Normalization(mean=[100.0, 50.0], variance=[400.0, 90.0])(seats)
    return keras.Model(seats, tail(part)), lambda rng, n: {"seats": rng.integers(0, 200, (n, 2), np.int32)}


def flags() -> tuple[Any, Draw]:
    night = L.Input((2,), dtype="bool", name="night")
    part = L.Dense(4, activation="tanh")(ops.cast(night, "float32"))
    return keras.Model(night, tail(part)), lambda rng, n: {"night": rng.random((n, 2)) < 0.5}


def shared_embedding() -> tuple[Any, Draw]:
    """Several ids of one vector input through one table: an attribution a position."""
    places = L.Input((3,), dtype="int64", name="places")
    part = L.Flatten()(L.Embedding(9, 4, embeddings_initializer="normal")(places))
    return keras.Model(places, tail(part)), lambda rng, n: {"places": rng.integers(0, 9, (n, 3))}


def flattened_ids() -> tuple[Any, Draw]:
    """The batch is merged with the positions before the table, and parted again behind it."""
    places = L.Input((3,), dtype="int64", name="places")
    ids = ops.reshape(places, (-1,))
    part = ops.reshape(L.Embedding(9, 4, embeddings_initializer="normal")(ids), (-1, 12))
    return keras.Model(places, tail(part)), lambda rng, n: {"places": rng.integers(0, 9, (n, 3))}


def mixed_vector() -> tuple[Any, Draw]:
    """One float vector of numbers and ids, taken apart inside of the model."""
    x = L.Input((4,), name="x")
    month = ops.cast(x[:, 0], "int32")
    day, hour = ops.cast(x[:, 3:], "int64"), x[:, 1:3]
    parts = [
        hour,
        L.Embedding(13, 3, embeddings_initializer="normal")(month),
        L.Flatten()(L.Embedding(7, 2, embeddings_initializer="normal")(day)),
    ]

    def draw(rng: np.random.Generator, n: int) -> Inputs:
        columns = [rng.integers(0, 13, n), rng.normal(size=n), rng.normal(size=n), rng.integers(0, 7, n)]
        return {"x": np.stack(columns, axis=1).astype(np.float32)}

    return keras.Model(x, tail(*parts)), draw


def many_kinds() -> tuple[Any, Draw]:
    """Strings, ids, bins and numbers in one model, one of them twice."""
    month, carrier = L.Input((1,), dtype="int64", name="month"), L.Input((1,), dtype="string", name="carrier")
    distance, temp = L.Input((1,), name="distance"), L.Input((1,), name="temp")
    code = L.StringLookup(vocabulary=["AA", "UA", "DL"])(carrier)
    parts = [
        L.Flatten()(L.Embedding(4, 3, embeddings_initializer="normal")(code)),
        L.CategoryEncoding(8, output_mode="one_hot")(L.Hashing(8)(carrier)),
        L.CategoryEncoding(13, output_mode="multi_hot")(month),
        L.Discretization(bin_boundaries=[0.0, 1.0], output_mode="one_hot")(temp),
        L.Normalization(mean=[0.5], variance=[2.0])(distance),
        temp,
    ]

    def draw(rng: np.random.Generator, n: int) -> Inputs:
        return {
            "month": rng.integers(0, 13, (n, 1)),
            "carrier": strings(rng, n, 1),
            "distance": rng.random((n, 1)).astype(np.float32),
            "temp": rng.normal(size=(n, 1)).astype(np.float32),
        }

    return keras.Model([month, carrier, distance, temp], tail(*parts)), draw


def tokens(body: Callable[..., Any], *, mask: bool = False) -> Callable[[], tuple[Any, Draw]]:
    """Token sequences through an embedding. With a mask, every row is padded alike."""

    def build() -> tuple[Any, Draw]:
        ids = L.Input((6,), dtype="int32", name="tokens")
        by_hand = body is written_attention
        seen = L.Embedding(11, 4, mask_zero=mask, embeddings_initializer="normal")(ids)

        def draw(rng: np.random.Generator, n: int) -> Inputs:
            drawn = rng.integers(1, 11, (n, 6), np.int32)
            drawn[:, 4:] = 0 if mask else drawn[:, 4:]
            return {"tokens": drawn}

        return keras.Model(ids, tail(body(seen, ids) if by_hand else body(seen))), draw

    return build


def started_tokens() -> tuple[Any, Draw]:
    """A start token before the row's own: it comes from no position and gets nothing."""
    ids = L.Input((4,), dtype="int32", name="tokens")
    started = ops.concatenate([ops.zeros_like(ids[:, :1]), ids], axis=1)
    seen = L.Conv1D(3, 2, activation="tanh")(L.Embedding(9, 4, embeddings_initializer="normal")(started))
    return keras.Model(ids, tail(L.Flatten()(seen))), lambda rng, n: {
        "tokens": rng.integers(1, 9, (n, 4), np.int32)
    }


def written_attention(seen: Any, ids: Any) -> Any:
    """Attention by hand, its mask added as numbers, which mix the positions of the ids."""
    there = ops.not_equal(ids, 0)
    pairs = ops.logical_and(ops.expand_dims(there, 1), ops.expand_dims(there, 2))
    scores = ops.matmul(seen, ops.transpose(seen, (0, 2, 1))) + (1.0 - ops.cast(pairs, "float32")) * -30.0
    return L.Flatten()(ops.matmul(ops.softmax(scores), seen))


def attention(seen: Any) -> Any:
    return L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 3)(seen, seen))


BUILDERS: dict[str, Callable[[], tuple[Any, Draw]]] = {
    "embedding": embedding,
    "string lookup": lookup(),
    "string lookup one-hot": lookup(output_mode="one_hot"),
    "string lookup multi-hot": lookup(output_mode="multi_hot"),
    "integer lookup": integer_lookup(),
    "integer lookup one-hot": integer_lookup(output_mode="one_hot"),
    "hashing": hashing,
    "one-hot": encoding("one_hot"),
    "multi-hot": encoding("multi_hot"),
    "count": encoding("count"),
    "bins": discretization("int", direct=False),
    "bins one-hot": discretization("one_hot", direct=False),
    "bins and itself": discretization("one_hot", direct=True),
    "whole numbers": whole_numbers,
    "flags": flags,
    "shared embedding": shared_embedding,
    "flattened ids": flattened_ids,
    "mixed vector": mixed_vector,
    "many kinds": many_kinds,
    "pooling": tokens(lambda seen: L.GlobalAveragePooling1D()(seen)),
    "pooling, masked": tokens(lambda seen: L.GlobalAveragePooling1D()(seen), mask=True),
    "lstm": tokens(lambda seen: L.LSTM(5)(seen)),
    "lstm, masked": tokens(lambda seen: L.LSTM(5)(seen), mask=True),
    "both ways": tokens(lambda seen: L.Bidirectional(L.GRU(3))(seen)),
    "convolution": tokens(lambda seen: L.GlobalMaxPooling1D()(L.Conv1D(5, 3, activation="gelu")(seen))),
    "attention": tokens(attention),
    "attention by hand": tokens(written_attention, mask=True),
    "started tokens": started_tokens,
    "attention, masked": tokens(attention, mask=True),
}
#: A maximum has kinks: its sums are only about right.
KINKED = {"convolution"}


@cache
def case(name: str) -> Case:
    keras.utils.set_random_seed(3)
    model, draw = BUILDERS[name]()
    rng = np.random.default_rng(4)
    rows, bases = draw(rng, ROWS), draw(rng, BASES)
    adapter = loaded(model)
    prefix = scored(adapter)
    # Where there is no prefix to leave off, the model is its own plain self.
    has_prefix = prefix.differentiable(bases).cut.has_prefix
    return Case(model, prefix, scored(adapter, affine_prefix=False) if has_prefix else prefix, rows, bases)


@pytest.fixture(params=BUILDERS, scope="module")
def categorical(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


def logit(probability: np.ndarray) -> np.ndarray:
    wide = probability.astype(np.float64)
    return np.log(wide) - np.log1p(-wide)


def test_the_cut_model_is_the_model(categorical: Case) -> None:
    rows = categorical.rows
    expected = keras.ops.convert_to_numpy(called(categorical.keras_model, rows))
    scores, outputs = categorical.model.evaluate(rows)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    np.testing.assert_allclose(scores, logit(expected), atol=2e-5)
    differentiable = categorical.model.differentiable(rows)
    at_the_row = differentiable.path_scores(
        rows,
        differentiable.ends(categorical.bases),
        np.array([[1]], np.int32),
        np.ones((1, 1, 1), np.float32),
        np.zeros((ROWS, 1), np.int64),
    )
    assert at_the_row.shape == (1, 1, ROWS, 1)
    np.testing.assert_allclose(at_the_row[0, 0], scores, atol=1e-6)


def test_every_input_has_one_attribution_a_position(categorical: Case) -> None:
    values = categorical.values
    assert {k: v.shape for k, v in values.items()} == {
        k: (ROWS, 1, *v.shape[1:]) for k, v in categorical.rows.items()
    }
    # Not a trivial case: rows differ from the bases, and attributions are not all nothing.
    assert np.abs(total(values)).max() > 1e-3


def test_attributions_sum_to_the_difference_of_scores(categorical: Case, request: Any) -> None:
    score, base = (categorical.model.evaluate(inputs)[0] for inputs in (categorical.rows, categorical.bases))
    kinked = request.node.callspec.params["categorical"] in KINKED
    np.testing.assert_allclose(
        total(categorical.values), score - base.mean(axis=0), atol=2e-2 if kinked else 5e-6
    )


def test_the_affine_prefix_changes_no_number(categorical: Case) -> None:
    for name, value in categorical.values.items():
        np.testing.assert_allclose(value, categorical.plain_values[name], atol=1e-5)


def test_an_unchanged_position_gets_nothing(categorical: Case) -> None:
    """A row that differs from its base at one position of one input owes the whole difference to it."""
    base = one_row(categorical.bases, 0)
    for name, value in categorical.rows.items():
        for position in np.ndindex(*value.shape[1:]):
            row = {key: array.copy() for key, array in base.items()}
            row[name][(0, *position)] = value[(0, *position)]
            values = integrated(categorical.plain, row, base)
            changed = values[name][(0, 0, *position)]
            assert abs(abs(changed) - sum(np.abs(v).sum() for v in values.values())) < 1e-6


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
def double() -> tuple[Any, ScoredModel, Inputs]:
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


def test_gradients_through_embeddings_are_finite_differences(double: tuple[Any, ScoredModel, Inputs]) -> None:
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


def test_gradients_of_numbers_are_finite_differences(double: tuple[Any, ScoredModel, Inputs]) -> None:
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


def test_a_float64_model_is_integrated_in_float64(double: tuple[Any, ScoredModel, Inputs]) -> None:
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


# -- what is refused -------------------------------------------------------------------------------------


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


# -- masks -----------------------------------------------------------------------------------------------


def test_a_pooled_mask_is_attributed_with_its_token() -> None:
    """Rows of other lengths than the base: the mask enters a mean as numbers, so that the sum still holds."""
    pooled = case("pooling, masked")
    rng = np.random.default_rng(2)
    rows, base = rng.integers(1, 11, (4, 6), np.int32), rng.integers(1, 11, (1, 6), np.int32)
    rows[0, 2:], rows[1, 5:], base[0, 3:] = 0, 0, 0
    values = integrated(pooled.model, {"tokens": rows}, {"tokens": base}, 60)
    expected = pooled.model.evaluate({"tokens": rows})[0] - pooled.model.evaluate({"tokens": base})[0]
    np.testing.assert_allclose(total(values), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm, masked", "attention, masked"])
def test_a_mask_that_switches_is_held_as_the_row_has_it(name: str) -> None:
    masked = case(name)
    rng = np.random.default_rng(2)
    rows, base = rng.integers(1, 11, (4, 6), np.int32), rng.integers(1, 11, (1, 6), np.int32)
    rows[:2, 3:], base[0, 2:] = 0, 0
    found = [integrated(model, {"tokens": rows}, {"tokens": base}) for model in (masked.model, masked.plain)]
    np.testing.assert_allclose(found[0]["tokens"], found[1]["tokens"], atol=1e-5)
    if name.startswith("lstm"):
        assert not found[0]["tokens"][:2, 0, 3:].any(), "a masked step moves nothing"
    assert np.isfinite(found[0]["tokens"]).all()


# -- the affine prefix -----------------------------------------------------------------------------------


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


def numbers(*shape: int) -> Inputs:
    return {"x": np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)}


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


# -- targets, traces, threads ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes() -> ScoredModel:
    keras.utils.set_random_seed(2)
    x = L.Input((7,), name="x")
    return scored(keras.Model(x, L.Dense(11, activation="softmax")(L.Dense(16, activation="tanh")(x))))


def test_every_target_in_any_order(classes: ScoredModel) -> None:
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


def test_the_batch_is_never_traced_again(classes: ScoredModel) -> None:
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


def test_evaluations_are_counted(classes: ScoredModel) -> None:
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


def test_squares_are_of_pairs_and_of_deviations(classes: ScoredModel) -> None:
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


def test_scores_along_the_path(classes: ScoredModel) -> None:
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
