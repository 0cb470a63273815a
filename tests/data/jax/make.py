"""Makes the SavedModels of this folder and `expected.json`: JAX's own values and gradients of them.

Needs jax 0.10.2, tensorflow 2.21.0 and Keras 3.15.1; run it in this folder with KERAS_BACKEND=jax.
"""

import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
import tensorflow as tf
from jax.experimental import jax2tf

# Nothing of where this was run goes into the files.
jax.config.update("jax_include_full_tracebacks_in_locations", False)
jax.config.update("jax_traceback_in_locations_limit", 0)
jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*")

rng = np.random.default_rng(0)
x = rng.normal(size=(3, 4)).astype(np.float32)
w = rng.normal(size=(4, 3)).astype(np.float32)
expected = {"x": x.tolist()}


def function(x):
    return jnp.tanh(x @ w)[:, :2]


def store(name, save, call):
    with tempfile.TemporaryDirectory() as folder:
        save(str(Path(folder) / name))
        shutil.make_archive(name, "zip", folder, name)
    gradient = jax.grad(lambda x: call(x)[:, 0].sum())(x)
    expected[name] = {"output": np.asarray(call(x)).tolist(), "gradient": np.asarray(gradient).tolist()}


def converted(with_gradient):
    def save(path):
        options = {"polymorphic_shapes": ["(b, 4)"], "with_gradient": with_gradient}
        module = tf.Module()
        module.call = tf.function(
            lambda x: {"y": jax2tf.convert(function, **options)(x)},
            input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")],
            autograph=False,
        )
        signatures = {"serving_default": module.call.get_concrete_function()}
        kept = tf.saved_model.SaveOptions(experimental_custom_gradients=with_gradient)
        tf.saved_model.save(module, path, signatures=signatures, options=kept)

    return save


keras.utils.set_random_seed(1)
inputs = keras.Input((4,), name="x")
model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(3, activation="tanh")(inputs)))
store("jax2tf", converted(True), function)
store("jax2tf_without_gradient", converted(False), function)
store("keras", lambda path: model.export(path, verbose=False), model)
Path("expected.json").write_text(json.dumps(expected) + "\n")
