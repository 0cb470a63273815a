"""Loading models of every kind, what they take and give, which scores they have, and what is refused."""

from __future__ import annotations

import builtins
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from transforms import methods
from transforms.errors import UserError
from transforms.methods.base import Needs
from transforms.models import ModelRequest, load_model, model_digest
from transforms.models.base import ModelAdapter, ScoredModel
from transforms.models.savedmodel import SavedModel

L, ops = keras.layers, keras.ops
Inputs = dict[str, np.ndarray]


def load(path: Any, **options: Any) -> ModelAdapter:
    return load_model(ModelRequest(str(path), **options))


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    return text


def scored(adapter: ModelAdapter, score: str = "auto", **shapes: tuple[int, ...]) -> ScoredModel:
    full = {
        spec.name: shapes.get(spec.name) or tuple(e or 1 for e in spec.shape)
        for spec in adapter.signature.inputs
    }
    return ScoredModel(adapter, full, score)


def integrated(model: ScoredModel, rows: Inputs) -> tuple[Inputs, np.ndarray]:
    """Integrated gradients from the first row, and how far their sum is from the difference of the scores."""
    base = {name: value[:1] for name, value in rows.items()}
    differentiable = model.differentiable(base)
    x, w = np.polynomial.legendre.leggauss(40)
    count = len(next(iter(rows.values())))
    values, _ = differentiable.integrate(
        rows,
        differentiable.ends(base),
        np.zeros((1, 1), np.int32),
        ((x + 1) / 2).astype(np.float32)[None, :, None],
        (w / 2).astype(np.float32),
        np.zeros((count, 1), np.int64),
    )
    scores = model.evaluate(rows)[0][:, 0]
    total = sum(value.reshape(count, -1).sum(axis=1) for value in values.values())
    return values, total - (scores - scores[0])


def small(name: str = "x", size: int = 4) -> Any:
    keras.utils.set_random_seed(1)
    x = L.Input((size,), name=name)
    return keras.Model(x, L.Dense(1, activation="sigmoid", name="late")(L.Dense(8, activation="tanh")(x)))


def rows_of(size: int = 4, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)


# -- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".hdf5"])
def test_a_keras_file_is_loaded(tmp_path: Path, suffix: str) -> None:
    model = small()
    path = tmp_path / f"mödel one{suffix}"
    model.save(path) if suffix == ".keras" else keras.src.legacy.saving.legacy_h5_format.save_model_to_hdf5(
        model, path
    )
    adapter = load(path)
    assert adapter.kind == "keras"
    assert [(i.name, i.shape, i.dtype) for i in adapter.signature.inputs] == [("x", (4,), "float32")]
    assert adapter.signature.target_names == ("late",)
    scores, outputs = scored(adapter).evaluate({"x": rows_of()})
    expected = model(rows_of()).numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    np.testing.assert_allclose(scores, np.log(expected / (1 - expected)), atol=1e-5)


def lambda_model() -> Any:
    x = L.Input((2,), name="x")
    return keras.Model(x, L.Lambda(lambda t: 3 * t, output_shape=(2,))(x))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_file_runs_only_where_it_is_allowed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    lambda_model().save(path)
    text = refusal(lambda: load(path))
    assert "model.allow_unsafe: true" in text
    assert path.name in text
    scores, _ = scored(load(path, allow_unsafe=True)).evaluate({"x": np.ones((2, 2), np.float32)})
    np.testing.assert_array_equal(scores, 3)


LAYER = """
import keras

@keras.saving.register_keras_serializable(package="{package}")
class {name}(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs + 1
"""


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_custom_layers_come_from_modules(tmp_path: Path, suffix: str) -> None:
    name = f"Doubled{suffix[1:].title()}"
    (tmp_path / f"layers_{name}.py").write_text(LAYER.format(package="traffic", name=name))
    sys.path.append(str(tmp_path))
    try:
        module = __import__(f"layers_{name}")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop(f"layers_{name}")
    x = L.Input((2,), name="x")
    path = tmp_path / f"model{suffix}"
    keras.Model(x, getattr(module, name)()(x)).save(path)
    registered = keras.saving.get_custom_objects()
    for key in [key for key in registered if name in key]:
        registered.pop(key)
    text = refusal(lambda: load(path))
    assert name in text
    assert "model.modules" in text
    assert "cannot be imported" in refusal(lambda: load(path, modules=("no_such_module",)))
    try:
        adapter = load(path, modules=(f"layers_{name}",), module_paths=(str(tmp_path),))
    finally:
        sys.path.remove(str(tmp_path))
    scores, _ = scored(adapter).evaluate({"x": np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(scores, 3)


def test_what_is_no_model_is_said_in_one_line(tmp_path: Path) -> None:
    small().save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.keras").write_text("weights,1,2\n")
    (tmp_path / "text.h5").write_text("weights,1,2\n")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x01")
    (tmp_path / "model").write_bytes(whole)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"no graph")
    assert "did you mean model.keras" in refusal(lambda: load(tmp_path / "modle.keras"))
    assert "there is no such model" in refusal(lambda: load(tmp_path / "elsewhere" / "zzz.h5"))
    assert "is not a Keras archive" in refusal(lambda: load(tmp_path / "cut.keras"))
    assert "is not a Keras archive" in refusal(lambda: load(tmp_path / "text.keras"))
    assert ".onnx is no kind of model known" in refusal(lambda: load(tmp_path / "model.onnx"))
    assert "no suffix is no kind of model known" in refusal(lambda: load(tmp_path / "model"))
    assert "holds no saved_model.pb" in refusal(lambda: load(tmp_path / "empty"))
    assert "TensorFlow cannot load the model" in refusal(lambda: load(tmp_path / "broken"))


def test_what_a_file_is_called_and_what_it_is(tmp_path: Path) -> None:
    import zipfile

    model = small()
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    shutil.copy(tmp_path / "model.keras", tmp_path / "archive.h5")
    shutil.copy(tmp_path / "model.h5", tmp_path / "tables.keras")
    (tmp_path / "text.hdf5").write_text("weights,1,2\n")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "model.h5").read_bytes()[:3000])
    with zipfile.ZipFile(tmp_path / "letters.keras", "w") as archive:
        archive.writestr("letter.txt", "Dear mother")
    for name, *words in (
        ("archive.h5", "is a Keras archive and not HDF5", "give it the suffix .keras"),
        ("tables.keras", "is an HDF5 file and not a Keras archive", "give it the suffix .h5"),
        ("text.hdf5", "is not an HDF5 file", "model.save"),
        ("model.weights.h5", "holds weights at most", "save the whole model"),
        ("cut.h5", "Keras cannot load the model: ", "truncated", "keras.saving.load_model"),
        ("letters.keras", "an archive, and not one of a Keras model", "config.json", "model.save"),
    ):
        line = refusal(lambda name=name: load(tmp_path / name))
        assert line.startswith(f"{tmp_path / name}: ")
        assert all(word in line for word in words), line


def test_a_model_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made up for it."""
    small().save(tmp_path / "model.keras")
    small().export(tmp_path / "saved", verbose=False)
    graph, folder = str(tmp_path / "saved" / "saved_model.pb"), str(tmp_path / "saved")
    closed = {str(tmp_path / "model.keras"), graph}
    real_open, real_list = builtins.open, os.listdir

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **options: Any) -> Any:
            if path in closed:
                raise PermissionError(13, "Permission denied", path)
            return real(path, *rest, **options)

        return call

    monkeypatch.setattr(builtins, "open", refusing(real_open))
    monkeypatch.setattr(os, "listdir", refusing(real_list))
    assert "model.keras: cannot be read: permission denied" in refusal(lambda: load(tmp_path / "model.keras"))
    assert f"{graph}: cannot be read: permission denied" in refusal(lambda: load(folder))
    closed.add(folder)
    assert f"{folder}: cannot be listed: permission denied" in refusal(lambda: load(folder))


def test_heads_that_are_no_floats_are_left_out(tmp_path: Path) -> None:
    """As a SavedModel's are: a label beside the score has no gradient, and a string is no number."""
    inputs = keras.Input((3,), name="x")
    score = L.Dense(2, name="score")(inputs)
    label = Label(name="label")(score)
    word = Word(name="word")(score)
    several = saved(tmp_path, keras.Model(inputs, [word, score, label]))
    assert [head.name for head in several.signature.outputs] == ["score"]
    values, outputs = scored(several).evaluate({"x": rows_of(3)})
    assert values.shape == outputs.shape == (3, 2)
    for layer, dtype in ((label, "label is int64"), (word, "word is string")):
        line = refusal(lambda layer=layer: saved(tmp_path, keras.Model(inputs, layer)))
        assert f"the model returns no floats: {dtype}; save a model that returns its score" in line


@keras.saving.register_keras_serializable("tests")
class Label(L.Layer):
    def call(self, values: Any) -> Any:
        return tf.argmax(values, axis=1)


@keras.saving.register_keras_serializable("tests")
class Word(L.Layer):
    def call(self, values: Any) -> Any:
        return tf.as_string(values[:, 0])


def test_an_archive_with_damaged_weights_is_refused(tmp_path: Path) -> None:
    import zipfile

    small().save(tmp_path / "model.keras")
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as archive,
        zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad,
    ):
        for name in archive.namelist():
            bad.writestr(name, archive.read(name) if name != "model.weights.h5" else b"none")
    assert "Keras cannot load the model" in refusal(lambda: load(tmp_path / "bad.keras"))


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "saved_model.pb").write_bytes(b"1")
    (tmp_path / "b.keras").write_bytes(b"1")
    first = model_digest(str(tmp_path / "a")), model_digest(str(tmp_path / "b.keras"))
    assert first[0] != first[1]
    (tmp_path / "a").rename(tmp_path / "c")
    assert model_digest(str(tmp_path / "c")) == first[0]
    (tmp_path / "c" / "saved_model.pb").write_bytes(b"2")
    assert model_digest(str(tmp_path / "c")) != first[0]


# -- signatures ------------------------------------------------------------------------------------------


def saved(tmp_path: Path, model: Any) -> ModelAdapter:
    path = tmp_path / "model.keras"
    model.save(path)
    return load(path)


def described(adapter: ModelAdapter) -> tuple[list[Any], list[Any]]:
    signature = adapter.signature
    return [(i.name, i.shape, i.dtype) for i in signature.inputs], [
        (o.name, o.shape) for o in signature.outputs
    ]


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


# -- calls inside of layers ------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Called(L.Layer):
    """A layer whose work is done in functions that call functions, with a loop and a table in them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense, self.last = L.Dense(12), L.Dense(1)
        keys = tf.constant(["AA", "UA"])
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, tf.constant([1, 2], tf.int64)), 0
        )
        self.embedding = L.Embedding(3, 4, embeddings_initializer="normal")

    def build(self, shapes: Any) -> None:
        self.embedding.build((None, 1))
        self.dense.build((None, 9))
        self.last.build((None, 12))

    @tf.function
    def _embed(self, carrier: Any) -> Any:
        return self.embedding(self.table.lookup(carrier))[:, 0]

    @tf.function
    def _hidden(self, carrier: Any, x: Any) -> Any:
        joined = tf.concat([self._embed(carrier), x], axis=1)
        return self.dense(joined), tf.shape(joined)[0]

    @tf.function
    def call(self, inputs: Any) -> Any:
        carrier, x = inputs
        hidden, _ = self._hidden(carrier, x)
        total = tf.while_loop(
            lambda step, _: step < 2, lambda step, value: (step + 1, tf.tanh(value)), (tf.constant(0), hidden)
        )[1]
        return tf.nn.sigmoid(self.last(total))


def test_functions_inside_of_layers_are_written_out(tmp_path: Path) -> None:
    carrier, x = L.Input((1,), dtype="string", name="carrier"), L.Input((5,), name="x")
    keras.utils.set_random_seed(3)
    model = keras.Model([carrier, x], Called()([carrier, x]))
    model.save(tmp_path / "model.keras")
    adapter = load(tmp_path / "model.keras")
    found = scored(adapter)
    types = {op.type for op in found.traced.graph.get_operations()}
    assert not types & {"PartitionedCall", "StatefulPartitionedCall"}
    assert types & {"While", "StatelessWhile"}
    assert found.score_kinds == ("logit",)
    rows = {"carrier": np.array([["AA"], ["zz"], ["UA"]], object), "x": rows_of(5)}
    np.testing.assert_allclose(
        found.evaluate(rows)[1], model([tf.constant(rows["carrier"]), tf.constant(rows["x"])]), atol=1e-6
    )
    cut = found.differentiable(rows).cut
    assert {entry.input for entry in cut.entries} == {"carrier", "x"}
    assert [tensor.shape.as_list() for tensor in cut.frontier] == [[None, 12]]
    values, error = integrated(found, rows)
    assert np.abs(error).max() < 1e-6
    assert np.abs(values["carrier"][1:]).min() > 1e-5


# -- SavedModels -----------------------------------------------------------------------------------------


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
    graded = {name: method for name, method in methods.METHODS.items() if method.needs.gradients}
    monkeypatch.setattr(methods, "METHODS", graded)
    text = refusal(lambda: found.differentiable(rows))
    assert "string input 'carrier' of a SavedModel" in text
    assert ".keras file" in text
    monkeypatch.setattr(methods, "METHODS", {**graded, "kernel_shap": Evaluating, "occlusion": Evaluating})
    text = refusal(lambda: found.differentiable(rows))
    assert text.endswith("methods that need only evaluations: kernel_shap, occlusion")


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
