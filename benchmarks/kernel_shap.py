"""Kernel SHAP against shap.KernelExplainer on the same network, with the error of both beside it.

Ours runs in a process of its own, set up as a worker of a run is; shap with TensorFlow as it comes.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
#: Rows, coalitions, whether the affine prefix is skipped → attributions.
Ours = Callable[[np.ndarray, int, bool], np.ndarray]


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, theirs, repeats = (CHECKED, 1, 1) if quick else (24, CHECKED, 5)
    inputs, background = features(rows, WIDTH), features(BACKGROUND, WIDTH, SEED + 1)
    shap = _shap(background, inputs[:1])
    results: dict[str, np.ndarray] = {}
    with _worker(folder, background) as ours:

        def job(name: str, explain: Explain, count: int) -> Callable[[], float]:
            def call(_: int) -> int:
                results[name] = explain(inputs[:count])
                return count

            return lambda: rate(call, count)

        jobs = {
            "without": job("without", lambda part: ours(part, COALITIONS, False), rows),
            "with": job("with", lambda part: ours(part, COALITIONS, True), rows),
            "shap": job("shap", shap, theirs),
        }
        ours(inputs[:2], COALITIONS, False)
        ours(inputs[:2], COALITIONS, True)
        found = interleaved(jobs, repeats)
        truth = ours(inputs[:theirs], COALITIONS if quick else MANY, True)
    errors = {name: _error(value[:theirs], truth) for name, value in results.items()}
    against = f"against {per_second(found['shap'])} with {errors['shap']:.2%}"
    return [
        Row(
            f"kernel_shap ÷ shap, {COALITIONS:,} coalitions × {BACKGROUND}, {name} affine prefix",
            f"{per_second(found[name])} with {errors[name]:.2%} mean error {against}",
            ratios(found, name, "shap"),
            at_least=9,
        )
        for name in ("without", "with")
    ]


def _error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean |error| of a value, relative to the mean |value|."""
    return float(np.abs(found - truth).mean() / np.abs(truth).mean())


@contextmanager
def _worker(folder: Path, background: np.ndarray) -> Iterator[Ours]:
    """Ours in a process of its own, in device calls of the size that a plan decides on."""
    write_parquet(folder / "kernel.parquet", 1000, WIDTH)
    config = write_config(
        folder, "kernel.parquet", {"name": "kernel_shap"}, WIDTH, "kernel", baseline="sample"
    )
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(there, str(config), background), daemon=True)
    process.start()
    there.close()

    def explain(rows: np.ndarray, coalitions: int, prefix: bool) -> np.ndarray:
        here.send((rows, coalitions, prefix))
        found: np.ndarray = here.recv()
        return found

    try:
        yield explain
    finally:
        here.close()  # which ends it
        process.join()


def _serve(requests: Any, config: str, background: np.ndarray) -> None:
    """Answers requests until the other end is closed."""
    from pipeline.config import load_config
    from pipeline.plan import make_plan
    from transforms.methods.base import Reference
    from transforms.methods.kernel_shap import KernelShap
    from transforms.models.base import ScoredModel
    from transforms.worker import adapter

    spec = make_plan(load_config(config), in_process=True).spec
    loaded = adapter(spec.model)
    name = loaded.signature.inputs[0].name
    models = {use: ScoredModel(loaded, {name: (WIDTH,)}, affine_prefix=use) for use in (False, True)}
    scores, _ = models[False].evaluate({name: background})
    reference = Reference({name: background}, scores, scores.std(axis=0))
    while True:
        try:
            rows, coalitions, prefix = requests.recv()
        except EOFError:
            return
        targets, seeds = np.zeros((len(rows), 1), np.int64), np.zeros(len(rows), np.uint64)
        found = KernelShap(n_samples=coalitions).attribute(
            models[prefix], {name: rows}, reference, targets, seeds, spec.device_batch_size
        )
        requests.send(found.values[name][:, 0])


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
