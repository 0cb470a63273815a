"""What a model that does not load, or cannot be explained, is said to need: nothing that would not help."""

from __future__ import annotations

import json
import signal
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipeline.config.config import load_config
from pipeline.planning.model.child import in_child
from pipeline.planning.plan import make_plan
from tests.support import worlds
from transforms.errors import UserError
from transforms.models.kinds.keras import KerasModel
from transforms.models.kinds.savedmodel import SavedModel
from transforms.models.load import ModelRequest, load_model

L = keras.layers


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as found:
        call()
    line = str(found.value)
    assert "\n" not in line
    assert len(line.removeprefix(str(found.value.where))) <= 320, line
    return line


@keras.saving.register_keras_serializable("remedies")
class lambda_mart(L.Layer):
    """Of a name that is also something else's."""

    def call(self, x: Any) -> Any:
        return 2 * x


def unregistered(path: Path) -> None:
    """A model whose custom layer nobody knows when it is loaded."""
    given = keras.Input((2,), name="x")
    keras.Model(given, lambda_mart(name="lambda_mart_1")(given)).save(path)
    if path.suffix == ".keras":
        members = {}
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members["config.json"] = members["config.json"].replace(b"remedies>lambda_mart", b"else>lambda_mart")
        members["config.json"] = members["config.json"].replace(
            b'"module": "' + __name__.encode(), b'"module": "el'
        )
        write(path, members)
        return
    with h5py.File(path, "a") as file:
        text = file.attrs["model_config"]
        text = text.decode() if isinstance(text, bytes) else text
        file.attrs["model_config"] = text.replace("remedies>lambda_mart", "else>lambda_mart")


def write(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_class_that_is_not_registered_is_said_to_be_that(suffix: str, tmp_path: Path) -> None:
    """Even where its name is part of what a Lambda layer is called."""
    path = tmp_path / f"model{suffix}"
    unregistered(path)
    line = refusal(lambda: KerasModel(str(path)))
    assert "lambda_mart" in line
    assert "is not registered" in line
    assert "model.modules" in line
    assert "allow_unsafe" not in line


def test_a_part_of_a_layer_that_is_not_registered_is_said_to_be_that(tmp_path: Path) -> None:
    """An initializer, called as Keras calls what it refuses to run."""

    class Unsafe_mode(keras.initializers.Initializer):
        def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
            return keras.ops.ones(shape, dtype)

        def get_config(self) -> dict[str, Any]:
            return {}

    given = keras.Input((2,), name="x")
    layer = L.Dense(1, kernel_initializer=Unsafe_mode())
    for name in ("model.keras", "model.h5"):
        keras.Model(given, layer(given)).save(tmp_path / name)
        line = refusal(lambda name=name: KerasModel(str(tmp_path / name)))
        assert "needs Unsafe_mode, which is not registered" in line
        assert "allow_unsafe" not in line


def test_a_lambda_layer_is_still_said_to_be_one(tmp_path: Path) -> None:
    given = keras.Input((2,), name="x")
    keras.Model(given, L.Lambda(lambda x: x + 1)(given)).save(tmp_path / "model.keras")
    assert "set model.allow_unsafe: true" in refusal(lambda: KerasModel(str(tmp_path / "model.keras")))


def test_files_of_keras_2_are_said_to_be_that(tmp_path: Path) -> None:
    """Both formats name their writer: metadata.json, and an attribute of the HDF5 file."""
    unregistered(tmp_path / "three.keras")
    with zipfile.ZipFile(tmp_path / "three.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["metadata.json"] = json.dumps({"keras_version": "2.15.0"}).encode()
    members["config.json"] = members["config.json"].replace(b"lambda_mart", b"TFOpLambda")
    write(tmp_path / "two.keras", members)
    unregistered(tmp_path / "two.h5")
    with h5py.File(tmp_path / "two.h5", "a") as file:
        file.attrs["keras_version"] = b"2.15.0"
    for name in ("two.keras", "two.h5"):
        line = refusal(lambda name=name: KerasModel(str(tmp_path / name)))
        assert "was written by Keras 2.15.0" in line
        assert "as a SavedModel with tf_keras" in line


def test_a_file_of_keras_2_with_an_argument_that_is_gone_is_said_to_be_that(tmp_path: Path) -> None:
    """Keras 2 wrote time_major into every LSTM, which Keras 3 does not take: its most frequent .h5."""
    given = keras.Input((3, 2), name="x")
    keras.Model(given, L.Dense(1)(L.LSTM(2)(given))).save(tmp_path / "two.h5")
    with h5py.File(tmp_path / "two.h5", "a") as file:
        text = file.attrs["model_config"]
        file.attrs["model_config"] = text.replace('"units": 2', '"units": 2, "time_major": false')
        file.attrs["keras_version"] = b"2.15.0"
    line = refusal(lambda: KerasModel(str(tmp_path / "two.h5")))
    assert "was written by Keras 2.15.0" in line
    assert "time_major" in line
    assert "as a SavedModel with tf_keras" in line


def test_code_in_an_h5_of_keras_2_is_still_said_to_be_that(tmp_path: Path) -> None:
    """Keras 3 loads it where it is allowed to."""
    given = keras.Input((2,), name="x")
    keras.Model(given, L.Lambda(lambda x: x + 1)(given)).save(tmp_path / "two.h5")
    with h5py.File(tmp_path / "two.h5", "a") as file:
        file.attrs["keras_version"] = b"2.15.0"
    assert "set model.allow_unsafe: true" in refusal(lambda: KerasModel(str(tmp_path / "two.h5")))
    assert KerasModel(str(tmp_path / "two.h5"), allow_unsafe=True).signature.outputs


def test_recurrent_layers_that_keep_their_state_are_refused_with_a_way_out(tmp_path: Path) -> None:
    given = keras.Input(batch_shape=(4, 3, 2), name="x")
    keras.Model(given, L.Dense(1)(L.LSTM(2, stateful=True, name="memory")(given))).save(tmp_path / "m.keras")
    line = refusal(lambda: KerasModel(str(tmp_path / "m.keras")))
    assert "memory keeps its state" in line
    assert "stateful=False" in line


@keras.saving.register_keras_serializable("remedies")
class TwoArguments(keras.Model):
    """`call(self, x, z)`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = L.Dense(1)

    def call(self, x: Any, z: Any) -> Any:
        return self.dense(x) + z


def test_a_call_of_two_arguments_is_refused_with_a_way_out(tmp_path: Path) -> None:
    model = TwoArguments()
    model(np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))
    model.save(tmp_path / "m.keras")
    line = refusal(lambda: KerasModel(str(tmp_path / "m.keras")))
    assert "one argument, a dict or a list" in line
    with warnings.catch_warnings():  # a warning of Keras is an error to the tests, and not to a user
        warnings.simplefilter("ignore")
        line = refusal(lambda: KerasModel(str(tmp_path / "m.keras")))
    assert "one argument, a dict or a list" in line


class Served(tf.Module):
    """What TFX serves: serialised records by default, features and another score beside them."""

    def __init__(self) -> None:
        self.weight = tf.Variable([[2.0], [3.0]])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_default(self, examples: Any) -> dict[str, Any]:
        found = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([2], tf.float32)})
        return {"score": found["x"] @ self.weight}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def features(self, x: Any) -> dict[str, Any]:
        return {"score": x @ self.weight}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def negative(self, x: Any) -> dict[str, Any]:
        return {"score": -(x @ self.weight)}


def test_the_signature_is_chosen_by_name(tmp_path: Path) -> None:
    """serving_default takes serialised records, which is said with what else there is."""
    served = Served()
    whole = {name: getattr(served, name) for name in ("serving_default", "features", "negative")}
    tf.saved_model.save(served, str(tmp_path / "m"), signatures=whole)
    line = refusal(lambda: SavedModel(str(tmp_path / "m")))
    assert "serving_default takes examples: serialised tf.train.Examples" in line
    assert "another signature in model.signature: features, negative" in line.replace("'", "")
    assert "did you mean features?" in refusal(lambda: SavedModel(str(tmp_path / "m"), signature="feature"))
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [5.0, 7.0]}), tmp_path / "rows.parquet")
    for name, sign in (("features", 1), ("negative", -1)):
        config = worlds.write_config(
            tmp_path / f"{name}.yaml",
            model={"path": "m", "signature": name},
            input={"files": "rows.parquet"},
            method="saliency",
            baseline={"kind": "constant", "value": 1},
            output={"path": "run"},
        )
        plan = make_plan(load_config(str(config)), in_process=True)
        np.testing.assert_allclose(plan.probe.artifact.scores, [[sign * 5.0]])
    tf.saved_model.save(
        served, str(tmp_path / "only"), signatures={"serving_default": served.serving_default}
    )
    assert "export a signature that takes the features" in refusal(lambda: SavedModel(str(tmp_path / "only")))
    (tmp_path / "model.py").write_text("def score(rows):\n    return rows['a']\n")
    request = ModelRequest("python:model:score", module_paths=(str(tmp_path),), signature="features")
    assert "only a SavedModel has signatures" in refusal(lambda: load_model(request))


# -- failures while a run is planned ----------------------------------------------------------------------


@keras.saving.register_keras_serializable("remedies")
class Demanding(L.Layer):
    """Fails on what it computes, or, by an assertion, only where Keras runs it."""

    def __init__(self, at: str, **options: Any) -> None:
        super().__init__(**options)
        self.at = at

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "at": self.at}

    def call(self, x: Any) -> Any:
        if self.at == "gather":
            return tf.gather(x, tf.cast(tf.reduce_sum(0 * x), tf.int32) + 5 + tf.range(2), axis=1)
        if self.at == "assertion":
            with tf.control_dependencies([tf.debugging.assert_less(x, -1e9, message="vault closed")]):
                return tf.identity(x)
        return x


def config_of(folder: Path, at: str, method: str = "saliency") -> Path:
    given = keras.Input((2,), name="x")
    keras.Model(given, L.Dense(1)(Demanding(at)(given))).save(folder / "m.keras")
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [5.0, 7.0]}), folder / "rows.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": "m.keras"},
        input={"files": "rows.parquet"},
        method=method,
        baseline={"kind": "zeros"},
        output={"path": "run"},
    )


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("gather", ["the model fails on the first rows", "not in [0, 2)"]),
        ("assertion", ["the model fails in its own prediction of the first rows", "vault closed"]),
    ],
)
def test_a_model_that_fails_on_its_rows_is_at_fault(at: str, words: list[str], tmp_path: Path) -> None:
    """And not the baseline, of which no other kind would help."""
    loaded = load_config(str(config_of(tmp_path, at)))
    line = refusal(lambda: make_plan(loaded, in_process=True))
    for word in ("model.path: ", *words):
        assert word in line
    assert "choose another kind of baseline" not in line


def test_a_method_that_fails_is_one_line_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise TypeError("unhashable " + "x" * 2000)

    monkeypatch.setattr("pipeline.planning.method.requirements.check_method", fail)
    loaded = load_config(str(config_of(tmp_path, "never")))
    line = refusal(lambda: make_plan(loaded, in_process=True))
    assert "saliency fails on this model: TypeError: unhashable xxx" in line
    assert "permutation_shap" in line


def test_a_child_that_is_killed_is_the_models_failure() -> None:
    line = refusal(lambda: in_child(signal.raise_signal, signal.SIGKILL))
    assert "ended by SIGKILL" in line
    assert "memory" in line
