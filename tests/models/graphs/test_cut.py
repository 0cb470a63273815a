"""Inputs that gradients cannot enter, and masks: against Keras, finite differences and sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import keras
import numpy as np
import pytest

from tests.support.models.cut_worlds import (
    BASES,
    ROWS,
    Inputs,
    L,
    called,
    integrated,
    loaded,
    one_row,
    ops,
    scored,
    strings,
    total,
)
from transforms.models.base import ScoredModel

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


# -- masks -----------------------------------------------------------------------------------------------


def test_a_pooled_mask_is_held_as_the_row_has_it() -> None:
    """Rows of other lengths than the base: the change under the row's mask, of which padding gets nothing."""
    pooled = case("pooling, masked")
    rng = np.random.default_rng(2)
    rows, base = rng.integers(1, 11, (4, 6), np.int32), rng.integers(1, 11, (1, 6), np.int32)
    rows[0, 2:], rows[1, 5:], base[0, 3:] = 0, 0, 0
    values = integrated(pooled.model, {"tokens": rows}, {"tokens": base}, 60)
    assert not values["tokens"][:, 0][rows == 0].any()
    differentiable = pooled.model.differentiable({"tokens": base})
    start = differentiable.path_scores(
        {"tokens": rows},
        differentiable.ends({"tokens": base}),
        np.zeros((1, 1), np.int32),
        np.zeros((1, 1, 1), np.float32),
        np.zeros((4, 1), np.int64),
    )[0, 0]
    np.testing.assert_allclose(total(values), pooled.model.evaluate({"tokens": rows})[0] - start, atol=1e-5)


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
