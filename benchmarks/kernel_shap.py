"""Kernel SHAP against shap.KernelExplainer on the same network, with the error of both beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    SEED,
    Row,
    fastest,
    features,
    interleaved,
    keras_model,
    per_second,
    rate,
    ratios,
    tensorflow,
    write_config,
    write_parquet,
)

WIDTH = 50
COALITIONS = 2048
BACKGROUND = 100
#: Rows whose values are worked out with so many coalitions that a sixth of the error is left.
CHECKED = 4
MANY = 32 * COALITIONS

Explain = Callable[[np.ndarray], np.ndarray]


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, theirs, repeats = (CHECKED, 1, 1) if quick else (24, CHECKED, 5)
    inputs, background = features(rows, WIDTH), features(BACKGROUND, WIDTH, SEED + 1)
    ours = {prefix: _ours(folder, background, prefix, COALITIONS) for prefix in (False, True)}
    shap = _shap(background, inputs[:1])
    for explain in ours.values():
        explain(inputs[:2])
    results: dict[Any, np.ndarray] = {}

    def job(name: Any, explain: Explain, count: int) -> Callable[[], float]:
        def call(_: int) -> int:
            results[name] = explain(inputs[:count])
            return count

        return lambda: rate(call, count)

    jobs = {str(prefix): job(str(prefix), explain, rows) for prefix, explain in ours.items()}
    found = interleaved({**jobs, "shap": job("shap", shap, theirs)}, repeats)
    many = COALITIONS if quick else MANY
    truth = _ours(folder, background, True, many)(inputs[:theirs])
    errors = {name: _error(value[:theirs], truth) for name, value in results.items()}
    size = f"{COALITIONS:,} coalitions × {BACKGROUND}"
    return [
        Row(
            f"kernel_shap ÷ shap, {size}{', affine prefix' if prefix else ''}",
            f"{per_second(found[str(prefix)])} with {errors[str(prefix)]:.2%} mean error "
            f"against {per_second(found['shap'])} with {errors['shap']:.2%}",
            ratios(found, str(prefix), "shap"),
            at_least=9,
        )
        for prefix in ours
    ]


def _error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean |error| of a value, relative to the mean |value|."""
    return float(np.abs(found - truth).mean() / np.abs(truth).mean())


def _ours(folder: Path, background: np.ndarray, prefix: bool, coalitions: int) -> Explain:
    """Rows `[n, width]` to their attributions, in device calls of the size that a plan decides on."""
    from pipeline.config import load_config
    from pipeline.plan import make_plan
    from transforms.methods.base import Reference
    from transforms.methods.kernel_shap import KernelShap
    from transforms.models import load_model
    from transforms.models.base import ScoredModel

    write_parquet(folder / "kernel.parquet", 1000, WIDTH)
    method = {"name": "kernel_shap", "n_samples": coalitions}
    config = write_config(folder, "kernel.parquet", method, WIDTH, "kernel", baseline="sample")
    spec = make_plan(load_config(str(config)), in_process=True).spec
    adapter = load_model(spec.model)
    name = adapter.signature.inputs[0].name
    model = ScoredModel(adapter, {name: (WIDTH,)}, affine_prefix=prefix)
    scores, _ = model.evaluate({name: background})
    reference = Reference({name: background}, scores, scores.std(axis=0))

    def explain(rows: np.ndarray) -> np.ndarray:
        targets, seeds = np.zeros((len(rows), 1), np.int64), np.zeros(len(rows), np.uint64)
        found = KernelShap(n_samples=coalitions).attribute(
            model, {name: rows}, reference, targets, seeds, spec.device_batch_size
        )
        return found.values[name][:, 0]

    return explain


def _shap(background: np.ndarray, row: np.ndarray) -> Explain:
    """shap with whichever makes it faster: Keras's predict in large batches, or a compiled function."""
    import shap

    tf = tensorflow()
    model = keras_model(WIDTH)
    compiled = tf.function(model, input_signature=[tf.TensorSpec([None, WIDTH], tf.float32)])

    def call(rows: np.ndarray) -> np.ndarray:
        return compiled(rows.astype(np.float32)).numpy()[:, 0]

    def predict(rows: np.ndarray) -> np.ndarray:
        return model.predict(rows.astype(np.float32), batch_size=8192, verbose=0)[:, 0]

    def explain(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explainer = shap.KernelExplainer(function, background)
            found = explainer.shap_values(rows, nsamples=COALITIONS, l1_reg=False, silent=True)
        return np.asarray(found).reshape(len(rows), WIDTH)

    ways = {"compiled": call, "predict": predict}

    def once(way: str) -> float:
        return rate(lambda _: len(explain(ways[way], row)), len(row))

    best = fastest({"compiled": lambda: once("compiled"), "predict": lambda: once("predict")})
    return lambda rows: explain(ways[best], rows)
