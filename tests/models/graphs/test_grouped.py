"""Grouped convolutions without oneDNN, where TensorFlow has neither fused kernel nor gradient."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import keras, numpy as np
from tests.support.models.models_zoo import attribute, make_reference, scored
from transforms.methods import METHODS

layers = keras.layers
given = keras.Input((6, 6, 4), name="x")
hidden = layers.Conv2D(4, 3, groups=2, activation="relu", bias_initializer="ones")(given)
hidden = layers.Conv2D(6, 2, groups=2, strides=2, padding="same", dilation_rate=1)(hidden)
model = keras.Model(given, layers.Dense(1)(layers.GlobalAveragePooling2D()(hidden)))
rows = np.random.default_rng(0).normal(size=(4, 6, 6, 4)).astype(np.float32)
found = scored(model)
np.testing.assert_allclose(found.evaluate({"x": rows})[1], model.predict(rows, verbose=0), rtol=1e-5)
reference = make_reference(found, {"x": rows[2:]})
for name in ("saliency", "integrated_gradients", "deep_shap", "permutation_shap"):
    attribution = attribute(METHODS[name](), found, {"x": rows[:2]}, reference)
    if name in ("deep_shap", "permutation_shap"):
        assert np.abs(attribution.convergence_delta).max() < 1e-5
print("done")
"""


def test_grouped_convolutions_are_explained_without_onednn() -> None:
    """The variable stands for a processor on which it is off by default; Keras's `predict` is the truth."""
    root = Path(__file__).resolve().parents[3]
    found = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=root,
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.stdout.strip().endswith("done"), found.stderr[-3000:]
