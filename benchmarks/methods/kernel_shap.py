"""Kernel SHAP against shap.KernelExplainer on the same network, with the error of both beside it.

Ours are whole runs, Parquet in and Parquet out; shap has arrays in memory and TensorFlow as it comes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

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
from benchmarks.methods.masking import BACKGROUND, WIDTH, background, forward, relative_error, worker

COALITIONS = 2048
#: Rows whose values are worked out with so many coalitions that a sixth of the error is left.
CHECKED = 12
#: Ours share their coalitions among all rows: so many seeds, for a mean that says something.
SEEDS = 5
#: Rows that shap is timed with.
THEIRS = 4
MANY = 32 * COALITIONS

Explain = Callable[[np.ndarray], np.ndarray]


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, repeats = (64, 1) if quick else (128, 5)
    inputs = features(CHECKED, WIDTH)
    shap = _shap(background(), inputs[:1])
    method = {"name": "kernel_shap", "n_samples": COALITIONS}
    with worker(folder, rows, "kernel") as runs:
        found = interleaved(
            {
                "without": lambda: runs.rate(method, rows, prefix=False),
                "with": lambda: runs.rate(method, rows, prefix=True),
                "bare": forward(),
                "shap": lambda: rate(lambda _: len(shap(inputs[:THEIRS])), THEIRS),
            },
            repeats,
        )
        values = [runs.run(method, CHECKED, seed) for seed in range(SEEDS)]
        truth = runs.run({**method, "n_samples": COALITIONS if quick else MANY}, CHECKED)
    errors = {"ours": [relative_error(value, truth) for value in values]}
    errors["shap"] = [relative_error(shap(inputs), truth)] * SEEDS
    per_row = (COALITIONS - 2) * BACKGROUND
    of_bare = {
        name: [per_row * ours / bare for ours, bare in zip(found[name], found["bare"], strict=True)]
        for name in ("without", "with")
    }
    lines = [
        row
        for name in ("without", "with")
        for row in (
            Row(
                f"kernel_shap ÷ shap, {COALITIONS:,} coalitions × {BACKGROUND}, {name} affine prefix",
                f"{per_second(found[name])} against {per_second(found['shap'])}",
                ratios(found, name, "shap"),
                at_least=9,
            ),
            Row(
                "  its evaluations ÷ bare forward passes of the network",
                f"{median(found['bare']):,.0f} forward passes a second",
                of_bare[name],
            ),
        )
    ]
    figure = f"{np.mean(errors['ours']):.2%} of the mean value against {np.mean(errors['shap']):.2%}"
    return [*lines, Row("  mean error ÷ shap's", figure, ratios(errors, "ours", "shap"), at_most=1)]


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
