"""Worlds with attributions that are known without us: a direct computation, a linear model; no tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support import worlds


def direct(world: worlds.Vectors, target: int = 1, steps: int = 40) -> dict[str, np.ndarray]:
    """Integrated gradients of the logit, from the mean row, in plain TensorFlow on arrays in memory."""
    import keras
    import tensorflow as tf

    model = keras.models.load_model(world.folder / "model.keras")
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers[1:])

    def score(x: Any) -> Any:
        return (tf.tanh(x @ w1 + b1) @ w2 + b2)[:, target]

    x = tf.constant(world.values)
    base = tf.constant(world.mean)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = tf.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = base + np.float32(node) * (x - base)
        with tf.GradientTape() as tape:
            tape.watch(point)
            found = score(point)
        total += np.float32(weight) * tape.gradient(found, point)
    return {
        "attribution": ((x - base) * total).numpy(),
        "prediction": score(x).numpy(),
        "output": model(x).numpy()[:, target],
        "base_value": score(base).numpy(),
    }


# Every format, every size of shard and every size of batch.


def linear_world(folder: Path, count: int) -> np.ndarray:
    """Saves F = Σ wᵢxᵢ + 1 of one vector, and returns w."""
    import keras

    inputs = keras.Input((count,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(1, name="sum")(inputs))
    weights = np.linspace(-2, 2, count, dtype=np.float32)
    model.layers[-1].set_weights([weights[:, None], np.ones(1)])
    model.save(folder / "model.keras")
    return weights


def linear_config(folder: Path, **changes: Any) -> Path:
    blocks: dict[str, Any] = {
        "model": {"path": "model.keras"},
        "input": {"files": "*.parquet"},
        "method": "integrated_gradients",
        "output": {"path": "run"},
    }
    return worlds.write_config(folder / "config.yaml", **{**blocks, **changes})
