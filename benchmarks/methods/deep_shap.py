"""Rows a second of deep_shap with 100 background rows, ours and shap's, each with its error."""

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
BACKGROUND = 100
#: Rows whose values are worked out in double precision.
CHECKED = 64

Explain = Callable[[np.ndarray], np.ndarray]


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, theirs = (4000, CHECKED) if quick else (40_000, 1000)
    inputs, background = features(rows, WIDTH), features(BACKGROUND, WIDTH, SEED + 1)
    ours = _ours(folder, background)
    shap = _shap(background)
    ours(inputs)
    shap(inputs[:2])
    results: dict[str, np.ndarray] = {}

    def job(name: str, function: Explain, count: int) -> float:
        def call(position: int) -> int:
            results[name] = function(inputs[:count])
            return count

        return rate(call, count)

    jobs = {"ours": lambda: job("ours", ours, rows), "shap": lambda: job("shap", shap, theirs)}
    found = interleaved(jobs, 5)
    truth = exact(inputs[:CHECKED], background)
    errors = {name: _error(value[:CHECKED], truth) for name, value in results.items()}
    figure = (
        f"{per_second(found['ours'])} with {errors['ours']:.1e} mean error "
        f"against {per_second(found['shap'])} with {errors['shap']:.1e}"
    )
    return [
        Row(
            f"deep_shap ÷ shap, {BACKGROUND} background rows",
            figure,
            ratios(found, "ours", "shap"),
            at_least=30,
        )
    ]


def _error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean |error| of a value, relative to the mean |value|."""
    return float(np.abs(found - truth).mean() / np.abs(truth).mean())


def exact(rows: np.ndarray, background: np.ndarray) -> np.ndarray:
    """DeepLIFT's values of the network by their definition, in double precision, `[B, features]`."""
    weights = [np.asarray(value, np.float64) for value in keras_model(WIDTH).get_weights()]
    kernels, biases = weights[0::2], weights[1::2]

    def activations(values: np.ndarray) -> list[np.ndarray]:
        found = [values.astype(np.float64)]
        for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
            found.append(
                np.maximum(found[-1], 0) @ kernel + bias if len(found) > 1 else found[-1] @ kernel + bias
            )
        return found

    x, r = activations(rows), activations(background)
    multipliers = np.ones((len(rows), len(background), 1)) @ kernels[-1].T
    for layer in range(len(kernels) - 2, -1, -1):
        above = np.maximum(x[layer + 1], 0)[:, None] - np.maximum(r[layer + 1], 0)[None]
        multipliers = multipliers * (above / (x[layer + 1][:, None] - r[layer + 1][None])) @ kernels[layer].T
    values: np.ndarray = (multipliers * (x[0][:, None] - r[0][None])).mean(axis=1)
    return values


def _ours(folder: Path, background: np.ndarray) -> Explain:
    from pipeline.config.config import load_config
    from pipeline.planning.plan import make_plan
    from transforms.methods.gradients.deep_shap import DeepShap
    from transforms.models.graphs.scored import ScoredGraph
    from transforms.models.reference import Reference

    write_parquet(folder / "deep.parquet", 1000, WIDTH)
    config = write_config(folder, "deep.parquet", {"name": "deep_shap"}, WIDTH, "deep", baseline="sample")
    spec = make_plan(load_config(str(config)), in_process=True).spec
    adapter, name = graph_model(spec.model)
    model = ScoredGraph(adapter, {name: (WIDTH,)})
    scores, _ = model.evaluate({name: background})
    reference = Reference({name: background}, scores, scores.std(axis=0))

    def explain(rows: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(rows), spec.batch_size):
            part = rows[start : start + spec.batch_size]
            targets, seeds = np.zeros((len(part), 1), np.int64), np.zeros(len(part), np.uint64)
            batch = {name: part}
            made = DeepShap().attribute(model, batch, reference, targets, seeds, spec.device_batch_size)
            found.append(made.values[name][:, 0])
        return np.concatenate(found)

    return explain


def _shap(background: np.ndarray) -> Explain:
    import shap

    # shap hands a list of one input to a model that takes the input itself, which works.
    warnings.filterwarnings("ignore", message="The structure of `inputs`")
    explainer: Any = shap.DeepExplainer(keras_model(WIDTH), background)

    def explain(rows: np.ndarray) -> np.ndarray:
        values = np.asarray(explainer.shap_values(rows, check_additivity=False))
        return values.reshape(len(rows), WIDTH)

    return explain
