"""Loading models of every kind, what is refused, and calls inside of layers."""

from __future__ import annotations

import builtins
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models.model_worlds import (
    L,
    integrated,
    load,
    refusal,
    rows_of,
    saved,
    scored,
    small,
)
from transforms.models.load import model_digest


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
    assert "is an ONNX model" in refusal(lambda: load(tmp_path / "model.onnx"))
    assert "is a Keras model under another name" in refusal(lambda: load(tmp_path / "model"))
    assert "does not hold a saved_model.pb" in refusal(lambda: load(tmp_path / "empty"))
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
        ("model.weights.h5", "holds only weights", "save the whole model"),
        ("cut.h5", "Keras cannot load the model: ", "truncated", "keras.saving.load_model"),
        ("letters.keras", "an archive, but not of a Keras model", "config.json", "model.save"),
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
