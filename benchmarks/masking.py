"""What the benchmarks of masking methods share: ours on the usual network, and the predictions of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import fastest, keras_model, rate, tensorflow, write_config, write_parquet

WIDTH = 50

Explain = Callable[[Any, np.ndarray, int], np.ndarray]
Predict = Callable[[np.ndarray], np.ndarray]


def ours(folder: Path, background: np.ndarray) -> Explain:
    """Attributes rows by a method, the model loaded and calls sized as a run would have them.

    Returns:
      (method, rows `[B, WIDTH]`, seed) → φ `[B, WIDTH]`.
    """
    from pipeline.config import load_config
    from pipeline.plan import make_plan
    from transforms.methods.base import Reference
    from transforms.models import load_model
    from transforms.models.base import ScoredModel

    write_parquet(folder / "masking.parquet", 1000, WIDTH)
    config = write_config(
        folder, "masking.parquet", {"name": "permutation_shap"}, WIDTH, "masking", baseline="sample"
    )
    spec = make_plan(load_config(str(config)), in_process=True).spec
    adapter = load_model(spec.model)
    name = adapter.signature.inputs[0].name
    model = ScoredModel(adapter, {name: (WIDTH,)})
    scores, _ = model.evaluate({name: background})
    reference = Reference({name: background}, scores, scores.std(axis=0))

    def explain(method: Any, rows: np.ndarray, seed: int) -> np.ndarray:
        found = method.attribute(
            model,
            {name: rows},
            replace(reference, seed=seed),
            np.zeros((len(rows), 1), np.int64),
            np.arange(len(rows), dtype=np.uint64),
            spec.device_batch_size,
        )
        values: np.ndarray = found.values[name][:, 0]
        return values

    return explain


def predictions(evaluations: int) -> Predict:
    """Predictions of the network, `[N, WIDTH]` to `[N]`: of Keras and a compiled function, the faster.

    Args:
      evaluations: In a call, to try the two with.
    """
    tf = tensorflow()
    model = keras_model(WIDTH)
    compiled = tf.function(
        lambda x: model(x)[:, 0], input_signature=[tf.TensorSpec([None, WIDTH], tf.float32)], autograph=False
    )
    ways: dict[str, Predict] = {
        "keras": lambda x: model.predict(x, batch_size=8192, verbose=0)[:, 0],
        "compiled": lambda x: compiled(np.asarray(x, np.float32)).numpy(),
    }
    some = np.zeros((evaluations, WIDTH), np.float32)

    def job(predict: Predict) -> Callable[[], float]:
        def call(position: int) -> int:
            return len(predict(some))

        return lambda: rate(call, evaluations, at_least=0.3)

    return ways[fastest({name: job(predict) for name, predict in ways.items()})]


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean |error| of a value, relative to the mean |value|."""
    return float(np.abs(found - truth).mean() / np.abs(truth).mean())
