"""What skipping the affine prefix gains: integrated gradients with it and without it, as runs set them up."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.bare import STEPS
from benchmarks.common import (
    Row,
    features,
    graph_model,
    interleaved,
    per_second,
    rate,
    ratios,
    write_config,
    write_parquet,
)

#: Features, and the gain to reach.
BARS = {50: 1.5, 500: 4.0}


def run(folder: Path, quick: bool) -> list[Row]:
    # A process of its own: in this one TensorFlow has all its threads, for those that runs are compared with.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return [process.submit(_gain, folder, width, quick).result() for width in BARS]


def _gain(folder: Path, width: int, quick: bool) -> Row:
    from transforms.worker.tensorflow_setup import start_tensorflow

    start_tensorflow(None)
    rows, trial = (2000, 0.1) if quick else (8192, 2.0)
    inputs = features(rows, width)
    size = _default_points(folder, width)
    integrals = {prefix: _integral(folder, width, prefix, size) for prefix in (True, False)}
    agree = [integral(inputs[:20]) for integral in integrals.values()]
    if not np.allclose(agree[0], agree[1], atol=1e-4):
        raise RuntimeError("the integrals with the affine prefix and without it differ")

    def speed(prefix: bool) -> float:
        return rate(lambda _: len(integrals[prefix](inputs)), rows, trial)

    found = interleaved({"with": lambda: speed(True), "without": lambda: speed(False)}, 3 if quick else 9)
    figure = f"{per_second(found['with'])} against {per_second(found['without'])} ({size} points a call)"
    gain = ratios(found, "with", "without")
    return Row(f"affine prefix, {width} features", figure, gain, at_least=BARS[width])


def _default_points(folder: Path, width: int) -> int:
    """Evaluations a device call that a plan decides on; leaves the saved network behind."""
    from pipeline.config.config import load_config
    from pipeline.planning.plan import make_plan

    write_parquet(folder / f"prefix-{width}.parquet", 1000, width)
    method = {"name": "integrated_gradients", "n_steps": STEPS}
    config = write_config(folder, f"prefix-{width}.parquet", method, width, f"prefix-{width}")
    return make_plan(load_config(str(config)), in_process=True).spec.device_batch_size


def _integral(folder: Path, width: int, prefix: bool, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Rows `[n, width]` to their attributions against zeros, `[n, width]`, as a run computes them."""
    from transforms.methods.gradients.integrated_gradients import IntegratedGradients
    from transforms.models.graphs.scored import ScoredGraph
    from transforms.models.load import ModelRequest
    from transforms.models.reference import Reference

    adapter, name = graph_model(ModelRequest(str(folder / f"network-{width}.keras")))
    zeros = {name: np.zeros((1, width), np.float32)}
    model = ScoredGraph(adapter, {name: (width,)}, affine_prefix=prefix)
    reference = Reference(zeros, model.evaluate(zeros)[0], np.ones(1))
    method = IntegratedGradients(n_steps=STEPS)

    def integral(rows: np.ndarray) -> np.ndarray:
        targets, seeds = np.zeros((len(rows), 1), np.int64), np.zeros(len(rows), np.uint64)
        found = method.attribute(model, {name: rows}, reference, targets, seeds, size)
        return found.values[name][:, 0]

    return integral
