"""What models take and give, and which scores they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models.model_worlds import (
    L,
    described,
    integrated,
    ops,
    refusal,
    rows_of,
    saved,
    scored,
)
from transforms.errors import UserError
from transforms.models.base import ModelAdapter
from transforms.models.kinds.keras_calls import check_loaded


def test_sequential(tmp_path: Path) -> None:
    model = keras.Sequential(
        [L.Input((3,), name="features"), L.Dense(4, "relu"), L.Dense(2, "softmax", name="kind")]
    )
    adapter = saved(tmp_path, model)
    assert described(adapter) == ([("features", (3,), "float32")], [("kind", (2,))])
    assert adapter.signature.target_names == ("kind[0]", "kind[1]")
    _, outputs = scored(adapter).evaluate({"features": rows_of(3)})
    np.testing.assert_allclose(outputs, model(rows_of(3)), atol=1e-6)


def test_inputs_in_a_list(tmp_path: Path) -> None:
    b, a = L.Input((2,), name="b"), L.Input((1,), dtype="int32", name="a")
    model = keras.Model([b, a], L.Dense(1, name="y")(L.Concatenate()([b, ops.cast(a, "float32")])))
    adapter = saved(tmp_path, model)
    assert described(adapter) == ([("b", (2,), "float32"), ("a", (1,), "int32")], [("y", (1,))])
    rows = {"a": np.array([[1], [2]], np.int32), "b": rows_of(2, 2)}
    _, outputs = scored(adapter).evaluate(rows)
    np.testing.assert_allclose(outputs, model([rows["b"], rows["a"]]), atol=1e-6)


def test_inputs_and_outputs_by_name(tmp_path: Path) -> None:
    """Odd characters and near twins stay apart."""
    keys = ["a b", "a_b", "höhe (m)", "a-b"]
    parts = {key: L.Input((1,), name=key) for key in keys}
    weighted = [part * float(10**index) for index, part in enumerate(parts.values())]
    total = L.Add()(weighted)
    model = keras.Model(parts, {"one": total, "both": L.Concatenate()([total, -total])})
    adapter = saved(tmp_path, model)
    inputs, outputs = described(adapter)
    assert {name for name, _, _ in inputs} == set(keys)
    assert sorted(outputs) == [("both", (2,)), ("one", (1,))]
    rows = {key: np.array([[index + 1.0]], np.float32) for index, key in enumerate(keys)}
    model_scored = scored(adapter)
    scores, _ = model_scored.evaluate(rows)
    by_name = dict(zip(adapter.signature.target_names, scores[0], strict=True))
    assert by_name == {"one": 4321.0, "both[0]": 4321.0, "both[1]": -4321.0}
    values = model_scored.differentiable(rows).gradient(
        rows, [np.float32(0)] * 4, 1, np.array([[adapter.signature.target_names.index("one")]]), "plain"
    )[0]
    assert {key: float(value[0, 0, 0]) for key, value in values.items()} == {
        key: 10.0**index for index, key in enumerate(keys)
    }


def test_outputs_in_a_list(tmp_path: Path) -> None:
    x = L.Input((3,), name="x")
    shared = L.Dense(2, name="twice")
    map_head = L.Reshape((2, 2), name="map")(L.Dense(4)(x))
    model = keras.Model(x, [L.Dense(1, "sigmoid", name="late")(x), map_head, shared(x), shared(2 * x)])
    adapter = saved(tmp_path, model)
    names = adapter.signature.target_names
    assert names[:5] == ("late", "map[0]", "map[1]", "map[2]", "map[3]")
    assert len(set(names)) == len(names) == 9
    _, outputs = scored(adapter).evaluate({"x": rows_of(3)})
    expected = np.concatenate([np.reshape(head, (3, -1)) for head in model(rows_of(3))], axis=1)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = L.Dense(2, activation="softmax")

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


@keras.saving.register_keras_serializable(package="tests")
class SubclassedIds(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.table, self.dense = L.Embedding(9, 3), L.Dense(1)
        self.lookup = L.StringLookup(vocabulary=["AA", "UA"])

    def call(self, inputs: Any) -> Any:
        return self.dense(L.Flatten()(self.table(self.lookup(inputs))))


def test_subclassed_models(tmp_path: Path) -> None:
    model = Subclassed()
    model(rows_of(3))
    adapter = saved(tmp_path, model)
    assert described(adapter) == ([("input", (3,), "float32")], [("output_0", (2,))])
    found = scored(adapter)
    np.testing.assert_allclose(found.evaluate({"input": rows_of(3)})[1], model(rows_of(3)), atol=1e-6)
    assert found.score_kinds == ("logit",)
    assert np.abs(integrated(found, {"input": rows_of(3)})[1]).max() < 1e-6


def test_a_subclassed_model_of_strings(tmp_path: Path) -> None:
    """Keras does not keep of which type such a model's inputs are; it is found by calling it."""
    model = SubclassedIds()
    carriers = np.array([["AA"], ["zz"]], object)
    expected = model(tf.constant(carriers))
    adapter = saved(tmp_path, model)
    assert described(adapter)[0] == [("input", (1,), "string")]
    np.testing.assert_allclose(scored(adapter).evaluate({"input": carriers})[1], expected, atol=1e-6)


def test_nested_models_and_shared_layers(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    inner_input = L.Input((3,), name="inner")
    inner = keras.Model(inner_input, L.Dense(4, activation="tanh")(inner_input), name="encoder")
    a, b = L.Input((3,), name="a"), L.Input((3,), name="b")
    joined = L.Concatenate()([inner(a), inner(b)])
    model = keras.Model([a, b], keras.Sequential([L.Input((8,)), L.Dense(1, "sigmoid")], name="head")(joined))
    found = scored(saved(tmp_path, model))
    rows = {"a": rows_of(3), "b": rows_of(3)[::-1].copy()}
    np.testing.assert_allclose(found.evaluate(rows)[1], model([rows["a"], rows["b"]]), atol=1e-6)
    assert found.score_kinds == ("logit",)
    assert np.abs(integrated(found, rows)[1]).max() < 1e-5


def test_extents_left_open_are_the_features(tmp_path: Path) -> None:
    ids = L.Input((None,), dtype="int32", name="tokens")
    tagged = L.Dense(2, activation="softmax", name="tag")(L.Embedding(9, 4)(ids))
    model = keras.Model(ids, tagged)
    adapter = saved(tmp_path, model)
    assert described(adapter) == ([("tokens", (None,), "int32")], [("tag", (None, 2))])
    found = scored(adapter, tokens=(5,))
    assert [
        (i.shape, o.shape) for i, o in zip(found.signature.inputs, found.signature.outputs, strict=True)
    ] == [((5,), (5, 2))]
    assert found.signature.target_names[-1] == "tag[9]"
    rows = {"tokens": np.random.default_rng(0).integers(0, 9, (3, 5), np.int32)}
    np.testing.assert_allclose(found.evaluate(rows)[1], np.reshape(model(rows["tokens"]), (3, 10)), atol=1e-6)
    values, error = integrated(found, rows)
    assert values["tokens"].shape == (3, 1, 5)
    assert np.abs(error).max() < 1e-6
    assert not values["tokens"][:, 0, 1:].any(), "tag[0] is of the first token alone"
    # The same model at another length.
    assert scored(adapter, tokens=(2,)).signature.target_names[-1] == "tag[3]"


# -- scores ----------------------------------------------------------------------------------------------


def heads(tmp_path: Path) -> tuple[Any, ModelAdapter]:
    x = L.Input((4,), name="x")
    keras.utils.set_random_seed(0)
    image = L.Reshape((2, 2, 1))(x)
    model = keras.Model(
        x,
        {
            "activation": L.Activation("sigmoid")(L.Dense(1)(x)),
            "layer": L.Softmax()(L.Dense(3)(x)),
            "map": L.Conv2D(2, 1, activation="softmax")(image),
            "fused": L.Dense(2, activation="softmax")(x),
        },
    )
    return model, saved(tmp_path, model)


def test_scores_before_and_after_the_last_softmax(tmp_path: Path) -> None:
    model, adapter = heads(tmp_path)
    rows = {"x": rows_of()}
    found = {score: scored(adapter, score) for score in ("auto", "logit", "probability", "output")}
    assert set(found["auto"].score_kinds) == set(found["logit"].score_kinds) == {"logit"}
    assert set(found["probability"].score_kinds) == set(found["output"].score_kinds) == {"probability"}
    expected = np.concatenate(
        [np.reshape(head, (3, -1)) for head in keras.tree.flatten(model(rows["x"]))], axis=1
    )
    for score, scored_model in found.items():
        scores, outputs = scored_model.evaluate(rows)
        np.testing.assert_allclose(outputs, expected, atol=1e-6)
        if score in ("probability", "output"):
            np.testing.assert_array_equal(scores, outputs)
    logits, _ = found["auto"].evaluate(rows)
    names = adapter.signature.target_names
    one = names.index("activation")
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, one])), expected[:, one], atol=1e-6)
    for head, size, group in (("layer", 3, 3), ("map", 8, 2), ("fused", 2, 2)):
        first = names.index(f"{head}[0]")
        value = np.exp(logits[:, first : first + size].reshape(3, -1, group).astype(np.float64))
        value = (value / value.sum(axis=2, keepdims=True)).reshape(3, size)
        np.testing.assert_allclose(value, expected[:, first : first + size], atol=1e-6)


def test_a_linear_head_has_no_logit(tmp_path: Path) -> None:
    x = L.Input((4,), name="x")
    model = keras.Model(x, {"kind": L.Dense(2, activation="softmax")(x), "minutes": L.Dense(1)(x)})
    adapter = saved(tmp_path, model)
    assert dict(
        zip([o.name for o in adapter.signature.outputs], scored(adapter).score_kinds, strict=True)
    ) == {
        "kind": "logit",
        "minutes": "output",
    }
    for score in ("logit", "probability"):
        text = refusal(lambda score=score: scored(adapter, score))
        assert text.startswith("model.score: ")
        assert "'minutes'" in text


def test_what_only_looks_like_a_softmax_head_is_an_output(tmp_path: Path) -> None:
    x = L.Input((4,), name="x")
    scaled = 100.0 * L.Dense(1, activation="sigmoid")(x)
    assert scored(saved(tmp_path, keras.Model(x, scaled))).score_kinds == ("output",)


def test_weights_that_keras_did_not_load_are_missed() -> None:
    """What a first call makes is drawn at random, whatever the file holds."""
    dense = keras.Sequential([keras.layers.Dense(2, name="late")])
    check_loaded(dense, set(), "m.keras")
    stored = {id(weight) for weight in dense.weights}
    dense(np.zeros((1, 3), np.float32))
    with pytest.raises(UserError, match="makes random ones instead"):
        check_loaded(dense, stored, "m.keras")
    check_loaded(dense, {id(weight) for weight in dense.weights}, "m.keras")
