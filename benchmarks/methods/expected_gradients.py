"""Expected gradients against shap.GradientExplainer on the same network, with the error of both beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    SEED,
    Row,
    features,
    graph_model,
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
SAMPLES = 200
BACKGROUND = 100
#: Rows whose expectation is worked out, by integrating from every background row.
CHECKED = 64


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, theirs = (2000, CHECKED) if quick else (20_000, 200)
    inputs, background = features(rows, WIDTH), features(BACKGROUND, WIDTH, SEED + 1)
    ours, exact = _ours(folder, inputs, background)
    shap = _shap(background)
    ours(inputs[:1000])
    shap(inputs[:2])
    results: dict[str, np.ndarray] = {}

    def job(name: str, function: Callable[[np.ndarray], np.ndarray], count: int) -> float:
        def call(position: int) -> int:
            results[name] = function(inputs[:count])
            return count

        return rate(call, count)

    jobs = {"ours": lambda: job("ours", ours, rows), "shap": lambda: job("shap", shap, theirs)}
    found = interleaved(jobs, 3)
    truth = exact(inputs[:CHECKED])
    errors = {name: _error(value[:CHECKED], truth) for name, value in results.items()}
    figure = (
        f"{per_second(found['ours'])} with {errors['ours']:.1%} mean error "
        f"against {per_second(found['shap'])} with {errors['shap']:.1%}"
    )
    return [
        Row(
            f"expected gradients ÷ shap, {SAMPLES} samples",
            figure,
            ratios(found, "ours", "shap"),
            at_least=40,
        )
    ]


def _error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean |error| of a value, relative to the mean |value|."""
    return float(np.abs(found - truth).mean() / np.abs(truth).mean())


Explain = Callable[[np.ndarray], np.ndarray]


def _ours(folder: Path, inputs: np.ndarray, background: np.ndarray) -> tuple[Explain, Explain]:
    """Ours, and the converged values: every background row, with many Gauss–Legendre nodes from each."""
    from pipeline.config.config import load_config
    from pipeline.planning.plan import make_plan
    from transforms.methods.gradients.expected_gradients import ExpectedGradients
    from transforms.methods.gradients.integrated_gradients import IntegratedGradients
    from transforms.models.graphs.scored import ScoredGraph
    from transforms.models.reference import Reference

    write_parquet(folder / "expected.parquet", 1000, WIDTH)
    method = {"name": "expected_gradients", "n_samples": SAMPLES}
    config = write_config(folder, "expected.parquet", method, WIDTH, "expected", baseline="sample")
    spec = make_plan(load_config(str(config)), in_process=True).spec
    adapter, name = graph_model(spec.model)
    model = ScoredGraph(adapter, {name: (WIDTH,)})
    scores, _ = model.evaluate({name: background})
    reference = Reference({name: background}, scores, scores.std(axis=0))

    def explain(method: Any, rows: np.ndarray) -> np.ndarray:
        targets = np.zeros((len(rows), 1), np.int64)
        seeds = np.arange(len(rows), dtype=np.uint64)
        found = method.attribute(model, {name: rows}, reference, targets, seeds, spec.device_batch_size)
        return found.values[name][:, 0]

    sampled, converged = ExpectedGradients(n_samples=SAMPLES), IntegratedGradients(n_steps=200)
    return lambda rows: explain(sampled, rows), lambda rows: explain(converged, rows)


def _shap(background: np.ndarray) -> Explain:
    import shap

    # shap hands a list of one input to a model that takes the input itself, which works.
    warnings.filterwarnings("ignore", message="The structure of `inputs`")
    explainer = shap.GradientExplainer(keras_model(WIDTH), background)

    def explain(rows: np.ndarray) -> np.ndarray:
        values = np.asarray(explainer.shap_values(rows, nsamples=SAMPLES))
        return values.reshape(len(rows), WIDTH)

    return explain
