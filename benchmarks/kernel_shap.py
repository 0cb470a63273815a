"""Kernel SHAP against shap.KernelExplainer on the same network, with the error of both beside it.

Ours are whole runs, Parquet in and Parquet out; shap has arrays in memory and TensorFlow as it comes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import (
    Row,
    fastest,
    features,
    interleaved,
    keras_model,
    per_second,
    rate,
    ratios,
    tensorflow,
)
from benchmarks.masking import BACKGROUND, WIDTH, background, relative_error, worker

COALITIONS = 2048
#: Rows whose values are worked out with so many coalitions that a sixth of the error is left.
CHECKED = 4
MANY = 32 * COALITIONS

Explain = Callable[[np.ndarray], np.ndarray]


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, repeats = (24, 1) if quick else (72, 5)
    inputs = features(CHECKED, WIDTH)
    shap = _shap(background(), inputs[:1])
    method = {"name": "kernel_shap", "n_samples": COALITIONS}
    with worker(folder, rows, "kernel") as runs:
        found = interleaved(
            {
                "without": lambda: runs.rate(method, rows, prefix=False),
                "with": lambda: runs.rate(method, rows, prefix=True),
                "shap": lambda: rate(lambda _: len(shap(inputs)), len(inputs)),
            },
            repeats,
        )
        values = {name: runs.run(method, CHECKED, prefix=name == "with") for name in ("without", "with")}
        truth = runs.run({**method, "n_samples": COALITIONS if quick else MANY}, CHECKED)
    errors = {name: relative_error(value, truth) for name, value in values.items()}
    against = f"against {per_second(found['shap'])} with {relative_error(shap(inputs), truth):.2%}"
    return [
        Row(
            f"kernel_shap ÷ shap, {COALITIONS:,} coalitions × {BACKGROUND}, {name} affine prefix",
            f"{per_second(found[name])} with {errors[name]:.2%} mean error {against}",
            ratios(found, name, "shap"),
            at_least=9,
        )
        for name in ("without", "with")
    ]


def _shap(background: np.ndarray, row: np.ndarray) -> Explain:
    """shap with whichever makes it faster: Keras's predict in large batches, or a compiled function."""
    import shap

    tf = tensorflow()
    model = keras_model(WIDTH)
    compiled = tf.function(model, input_signature=[tf.TensorSpec([None, WIDTH], tf.float32)])

    def call(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = compiled(rows.astype(np.float32)).numpy()[:, 0]
        return found

    def predict(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = model.predict(rows.astype(np.float32), batch_size=8192, verbose=0)[:, 0]
        return found

    def explain(function: Explain, rows: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explainer = shap.KernelExplainer(function, background)
            found = explainer.shap_values(rows, nsamples=COALITIONS, l1_reg=False, silent=True)
        return np.asarray(found).reshape(len(rows), WIDTH)

    ways: dict[str, Explain] = {"compiled": call, "predict": predict}

    def once(way: str) -> float:
        return rate(lambda _: len(explain(ways[way], row)), len(row))

    best = fastest({"compiled": lambda: once("compiled"), "predict": lambda: once("predict")})
    return lambda rows: explain(ways[best], rows)
