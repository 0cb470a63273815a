"""What looks like a mask of padding and is a value: indicators, counts and gates stay features."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.support.models.cut_worlds import L, called, integrated, ops, scored, total
from tests.support.models.mask_worlds import BASES, PADDED, ROWS, STEPS, VOCABULARY, WIDTH, mask_of
from transforms.errors import UserError


def indicator(ids: Any, e: Any) -> Any:
    """Wide and deep: whether a word is there has a weight of its own."""
    return ops.concatenate([L.Flatten()(e), ops.cast(ops.equal(ids, 3), "float32")], axis=1)


def share(ids: Any, e: Any) -> Any:
    """The number of words is a feature."""
    count = ops.sum(ops.cast(mask_of(ids), "float32"), axis=1, keepdims=True)
    return ops.concatenate([ops.mean(e, axis=1), count], axis=1)


def default(ids: Any, e: Any) -> Any:
    """A category that is missing has a vector of nothing, in a place of its own."""
    return L.Flatten()(ops.where(mask_of(ids)[..., None], e, 0.0))


@pytest.mark.parametrize("kind", [indicator, share, default])
def test_indicators_and_counts_stay_features(kind: Any) -> None:
    keras.utils.set_random_seed(3)
    ids = L.Input((STEPS,), dtype="int32", name="ids")
    embedded = L.Embedding(VOCABULARY, WIDTH, "normal")(ids)
    keras_model = keras.Model(ids, L.Dense(1)(L.Dense(4, "tanh")(kind(ids, embedded))))
    model = scored(keras_model)
    rows, bases = {"ids": ROWS}, {"ids": BASES}
    assert model.differentiable(bases).cut.row_masks == ()
    found = integrated(model, rows, bases)
    change = called(keras_model, rows).numpy() - called(keras_model, bases).numpy().mean()
    np.testing.assert_allclose(total(found), change, atol=1e-5)
    if kind is not share:
        assert np.abs(found["ids"][:, 0][PADDED & (BASES != 0).any(axis=0)]).min() > 0


def listed(gate: Any, prices: Any, e: Any) -> Any:
    """A word lets the price that stands beside it count."""
    return ops.concatenate([L.Flatten()(e), ops.sum(gate * prices, axis=1, keepdims=True)], axis=1)


def counted(gate: Any, prices: Any, e: Any) -> Any:
    """How many such words there are is worth a price each."""
    many = ops.sum(gate, axis=1, keepdims=True)
    return ops.concatenate([L.Flatten()(e), many * L.Dense(2)(prices)], axis=1)


def share_of_own(gate: Any, prices: Any, e: Any) -> Any:
    """The share of such words scales what all of them say."""
    return ops.concatenate([ops.mean(e, axis=1) * ops.mean(gate, axis=1, keepdims=True), prices], axis=1)


@pytest.mark.parametrize("kind", [listed, counted, share_of_own])
def test_what_switches_other_values_is_a_feature_though_the_words_are_embedded(kind: Any) -> None:
    keras.utils.set_random_seed(3)
    ids, prices = L.Input((STEPS,), dtype="int32", name="ids"), L.Input((STEPS,), name="prices")
    gate = ops.cast(ops.greater(ids, 9), "float32")
    keras_model = keras.Model(
        [ids, prices], L.Dense(1)(kind(gate, prices, L.Embedding(VOCABULARY, WIDTH, "normal")(ids)))
    )
    model = scored(keras_model)
    rng = np.random.default_rng(5)
    rows = {"ids": ROWS, "prices": rng.normal(size=ROWS.shape).astype(np.float32)}
    bases = {"ids": BASES, "prices": rng.normal(size=BASES.shape).astype(np.float32)}
    found = integrated(model, rows, bases)
    change = called(keras_model, rows).numpy() - called(keras_model, bases).numpy().mean()
    np.testing.assert_allclose(total(found), change, atol=1e-5)


def test_whether_any_word_is_there_is_no_mask_of_a_price() -> None:
    keras.utils.set_random_seed(3)
    ids, prices = L.Input((STEPS,), dtype="int32", name="ids"), L.Input((3,), name="prices")
    embedded = L.Embedding(VOCABULARY, WIDTH, "normal")(ids)
    there = ops.cast(ops.any(ops.equal(ids, 3), axis=1, keepdims=True), "float32")
    both = L.Concatenate()([L.Flatten()(embedded), there * L.Dense(1)(prices)])
    model = scored(keras.Model([ids, prices], L.Dense(1)(both)))
    with pytest.raises(UserError, match=r"Any .*mixes the values of input 'ids' "):
        model.differentiable({"ids": ROWS, "prices": np.zeros((len(ROWS), 3), np.float32)})


def test_a_share_of_an_input_of_its_own_is_a_feature() -> None:
    keras.utils.set_random_seed(3)
    ids, prices = L.Input((STEPS,), dtype="int32", name="ids"), L.Input((3,), name="prices")
    unknown = ops.mean(ops.cast(ops.equal(ids, 0), "float32"), axis=1, keepdims=True)
    keras_model = keras.Model([ids, prices], L.Dense(1)(prices) / (1.0 + unknown))
    rows = {"ids": ROWS, "prices": np.ones((len(ROWS), 3), np.float32)}
    bases = {"ids": BASES, "prices": np.zeros((len(BASES), 3), np.float32)}
    found = integrated(scored(keras_model), rows, bases)
    change = called(keras_model, rows).numpy() - called(keras_model, bases).numpy().mean()
    np.testing.assert_allclose(total(found), change, atol=1e-5)
    assert np.abs(found["ids"]).max() > 1e-3
