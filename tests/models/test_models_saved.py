"""SavedModels: their signatures, their resources, and what they may not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.planning.method import requirements
from tests.support.models.model_worlds import (
    L,
    described,
    integrated,
    load,
    refusal,
    rows_of,
    saved,
    scored,
)
from transforms.methods import METHODS
from transforms.methods.base import Needs
from transforms.models.kinds.savedmodel import SavedModel


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    keras.utils.set_random_seed(0)
    month, seats = L.Input((1,), dtype="int64", name="month"), L.Input((2,), dtype="int64", name="seats")
    x = L.Input((5,), name="x")
    code = L.IntegerLookup(vocabulary=[10, 20, 30])(seats)
    parts = [
        L.Flatten()(L.Embedding(13, 4, embeddings_initializer="normal")(month)),
        L.Flatten()(L.Embedding(4, 3, embeddings_initializer="normal")(code)),
        L.Normalization(mean=[0.1] * 5, variance=[2.0] * 5)(x),
    ]
    hidden = L.Dense(16, activation="tanh")(L.Concatenate()(parts))
    model = keras.Model(
        {"month": month, "seats": seats, "x": x},
        L.Dense(3, activation="softmax")(L.Dense(8, "swish")(hidden)),
    )
    path = tmp_path_factory.mktemp("exported") / "saved"
    model.export(path, verbose=False)
    return model, path


def test_a_savedmodel_is_seen_through(exported: tuple[Any, Path]) -> None:
    """Loaded without Keras: the last softmax, the ids behind a table and the affine prefix are all found."""
    model, path = exported
    adapter = load(path)
    assert adapter.kind == "savedmodel"
    inputs, outputs = described(adapter)
    assert sorted(inputs) == [("month", (1,), "int64"), ("seats", (2,), "int64"), ("x", (5,), "float32")]
    assert outputs == [("output_0", (3,))]
    found = scored(adapter)
    assert found.score_kinds == ("logit",)
    rng = np.random.default_rng(1)
    rows = {
        "month": rng.integers(0, 13, (4, 1)),
        "seats": rng.choice([10, 20, 7], (4, 2)),
        "x": rows_of(5, 4),
    }
    np.testing.assert_allclose(found.evaluate(rows)[1], model(rows), atol=1e-6)
    cut = found.differentiable(rows).cut
    assert [tensor.shape.as_list() for tensor in cut.frontier] == [[None, 16]]
    values, error = integrated(found, rows)
    assert {name: value.shape for name, value in values.items()} == {
        "month": (4, 1, 1), "seats": (4, 1, 2), "x": (4, 1, 5)
    }  # fmt: skip
    assert np.abs(error).max() < 1e-6


def test_a_savedmodel_and_its_keras_file_agree(exported: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = exported
    rng = np.random.default_rng(1)
    rows = {
        "month": rng.integers(0, 13, (4, 1)),
        "seats": rng.choice([10, 20, 7], (4, 2)),
        "x": rows_of(5, 4),
    }
    found = [integrated(scored(adapter), rows)[0] for adapter in (load(path), saved(tmp_path, model))]
    for name in rows:
        np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-6)


@pytest.fixture(scope="module")
def of_strings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    carrier = L.Input((1,), dtype="string", name="carrier")
    code = L.StringLookup(vocabulary=["AA", "UA"])(carrier)
    model = keras.Model(carrier, L.Dense(1, activation="sigmoid")(L.Flatten()(L.Embedding(5, 2)(code))))
    path = tmp_path_factory.mktemp("strings") / "saved"
    model.export(path, verbose=False)
    return path


class Evaluating:
    needs: ClassVar[Needs] = Needs(gradients=False, background=True)


def test_strings_of_a_savedmodel_are_evaluated_and_not_differentiated(
    of_strings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scored(load(of_strings))
    rows = {"carrier": np.array([["AA"], [b"zz"], ["UA"]], object)}
    scores, outputs = found.evaluate(rows)
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), outputs, atol=1e-6)
    assert len(np.unique(scores)) == 3
    text = refusal(lambda: found.differentiable(rows))
    assert "string input 'carrier' of a SavedModel" in text
    assert text.endswith("give a .keras file of the same model")
    graded = {name: method for name, method in METHODS.items() if method.needs.gradients}
    monkeypatch.setattr(
        requirements, "METHODS", {**graded, "kernel_shap": Evaluating, "occlusion": Evaluating}
    )
    assert requirements.evaluating_methods(found) == "kernel_shap, occlusion"


class Signatures(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.arange(1.0, 5.0, dtype=np.float32)[:, None])

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def many(self, x: Any) -> dict[str, Any]:
        y = x @ self.w
        return {f"out_{index}": y * float(index) for index in range(12)}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def mixed(self, x: Any) -> dict[str, Any]:
        y = x @ self.w
        return {"label": tf.where(y > 0, "late", "early"), "minutes": y, "rank": tf.cast(y, tf.int64)}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def label(self, x: Any) -> dict[str, Any]:
        return {"label": tf.where(x @ self.w > 0, "late", "early")}

    @tf.function(input_signature=[tf.TensorSpec([2, 4], tf.float32, name="x")])
    def fixed(self, x: Any) -> dict[str, Any]:
        return {"y": x @ self.w}

    @tf.function(input_signature=[tf.TensorSpec([None, None, 4], tf.float32, name="steps")])
    def series(self, steps: Any) -> dict[str, Any]:
        return {"y": tf.reduce_sum(tf.tanh(steps @ self.w), axis=1)}


@pytest.fixture(scope="module")
def signatures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    module = Signatures()
    folder = tmp_path_factory.mktemp("signatures")

    def save(function: str, key: str = "serving_default") -> Path:
        path = folder / f"{function}_{key}"
        if not path.exists():
            tf.saved_model.save(module, str(path), signatures={key: getattr(module, function)})
        return path

    return save


def test_heads_of_a_savedmodel_keep_their_order(signatures: Callable[..., Path]) -> None:
    adapter = load(signatures("many"))
    assert adapter.signature.target_names == tuple(f"out_{index}" for index in range(12))
    scores, _ = scored(adapter).evaluate({"x": np.ones((1, 4), np.float32)})
    np.testing.assert_allclose(scores[0], 10.0 * np.arange(12))


def test_labels_beside_a_score_are_left_out(signatures: Callable[..., Path]) -> None:
    assert load(signatures("mixed")).signature.target_names == ("minutes",)
    assert "returns no floats: label" in refusal(lambda: load(signatures("label")))


def test_a_signature_that_cannot_be_batched_is_refused(signatures: Callable[..., Path]) -> None:
    text = refusal(lambda: load(signatures("fixed")))
    assert "input 'x' has the shape (2, 4)" in text


def test_a_missing_signature_lists_what_there_is(signatures: Callable[..., Path]) -> None:
    assert "its signatures: 'predict'" in refusal(lambda: load(signatures("many", "predict")))


def test_open_extents_of_a_savedmodel(signatures: Callable[..., Path]) -> None:
    adapter = load(signatures("series"))
    assert described(adapter)[0] == [("steps", (None, 4), "float32")]
    found = scored(adapter, steps=(3, 4))
    rows = {"steps": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
    values, error = integrated(found, rows)
    assert values["steps"].shape == (2, 1, 3, 4)
    assert np.abs(error).max() < 1e-5


def graph_model(path: Path) -> np.ndarray:
    """A model as TensorFlow 1 saved it; returns its weights."""
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        w = tf.compat.v1.get_variable("w", [4, 1], use_resource=False)
        y = tf.sigmoid(tf.matmul(tf.tanh(x), w))
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            builder = tf.compat.v1.saved_model.Builder(str(path))
            builder.add_meta_graph_and_variables(
                session,
                ["serve"],
                {"serving_default": tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})},
            )
            builder.save()
            return session.run(w)


def test_a_folder_of_tensorflow_1(tmp_path: Path) -> None:
    weights = graph_model(tmp_path / "old")
    adapter = load(tmp_path / "old")
    assert described(adapter) == ([("x", (4,), "float32")], [("y", (1,))])
    found = scored(adapter)
    assert found.score_kinds == ("logit",)
    np.testing.assert_allclose(found.evaluate({"x": rows_of()})[0], np.tanh(rows_of()) @ weights, atol=1e-6)
    values, error = integrated(found, {"x": rows_of()})
    assert np.abs(error).max() < 1e-6
    expected = (np.tanh(rows_of()) - np.tanh(rows_of()[:1])) * weights[:, 0]
    np.testing.assert_allclose(values["x"][:, 0], expected, atol=1e-5)


class WithSlots(tf.Module):
    """Saved beside the slots of an optimizer of TensorFlow 1, on which tf.saved_model.load stumbles."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.full((4, 1), 2.0, np.float32), name="w")
        self.optimizer = tf.compat.v1.train.AdamOptimizer()

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": tf.tanh(x @ self.w)}


def test_slots_of_an_old_optimizer_are_passed_over(tmp_path: Path) -> None:
    module = WithSlots()
    module.optimizer.minimize(lambda: tf.reduce_sum(module.w**2), var_list=[module.w])
    tf.saved_model.save(module, str(tmp_path / "old"), signatures={"serving_default": module.__call__})
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(tmp_path / "old"))
    found = scored(SavedModel(str(tmp_path / "old")))
    np.testing.assert_allclose(
        found.evaluate({"x": rows_of()})[0], np.tanh(rows_of() @ module.w.numpy()), atol=1e-6
    )
    assert np.abs(integrated(found, {"x": rows_of()})[1]).max() < 1e-5


def test_inputs_and_heads_have_one_order_in_every_process(tmp_path: Path) -> None:
    """TensorFlow loads a signature in another order each time; a target's index must not follow it."""
    names = ["f", "e", "d", "c", "b", "a"]
    specs = {name: tf.TensorSpec([None], tf.float32, name=name) for name in names}
    module = tf.Module()
    module.call = tf.function(
        lambda **given: {f"head_{name}": (number + 1) * given[name] for number, name in enumerate(names)},
        autograph=False,
    )
    concrete = module.call.get_concrete_function(**specs)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=concrete)
    adapter = SavedModel(str(tmp_path / "m"))
    inputs, outputs = described(adapter)
    assert [name for name, _, _ in inputs] == sorted(names)
    assert [name for name, _ in outputs] == [f"head_{name}" for name in sorted(names)]
    found = scored(adapter).evaluate({name: np.ones(1, np.float32) for name in names})[1]
    np.testing.assert_allclose(found, [[6, 5, 4, 3, 2, 1]])
