"""What compute.precision and compute.jit change in time on this machine's processors, and in digits.

No bars: they are for GPUs. On processors halves save nothing, as long as these have no instructions for them,
and XLA has to make up for what it takes to compile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.common import Row, features, interleaved, keras_model, per_second, rate, ratios

WIDTH = 50
SETTINGS = {
    "float32": ("float32", False),
    "mixed_float16": ("mixed_float16", False),
    "mixed_bfloat16": ("mixed_bfloat16", False),
    "jit": ("float32", True),
}
#: Evaluations a device call.
SIZE = 16384


@dataclass(frozen=True)
class _Job:
    """Attributions of rows `[n, width]`, and the seconds that the first call took: tracing and compiling."""

    call: Callable[[np.ndarray], np.ndarray]
    first: float


def run(folder: Path, quick: bool) -> list[Row]:
    keras_model(WIDTH).save(folder / "network.keras")
    # A process of its own: in this one TensorFlow has all its threads, for those that runs are compared with.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_rows, folder, quick).result()


def _rows(folder: Path, quick: bool) -> list[Row]:
    from transforms.worker.tensorflow_setup import start_tensorflow

    start_tensorflow(None)
    found = []
    for method, count in (("integrated_gradients", 8192), ("permutation_shap", 256)):
        inputs = features(count // 8 if quick else count, WIDTH)
        jobs = {name: _job(folder, method, inputs, *setting) for name, setting in SETTINGS.items()}
        exact = jobs["float32"].call(inputs)

        def speed(name: str, inputs: np.ndarray = inputs, jobs: dict[str, _Job] = jobs) -> float:
            return rate(lambda _: len(jobs[name].call(inputs)), len(inputs), 0.1 if quick else 1.0)

        rates = interleaved({name: partial(speed, name) for name in SETTINGS}, 2 if quick else 7)
        for name in list(SETTINGS)[1:]:
            error = np.linalg.norm(jobs[name].call(inputs) - exact) / np.linalg.norm(exact)
            extra = jobs[name].first - jobs["float32"].first
            figure = (
                f"{per_second(rates[name])} against {per_second(rates['float32'])}, error {error:.1e}, "
                f"{extra:+.1f} s at the first call"
            )
            found.append(Row(f"{method}, {name} ÷ float32", figure, ratios(rates, name, "float32")))
    return found


def _job(folder: Path, name: str, inputs: np.ndarray, precision: str, jit: bool) -> _Job:
    from transforms.methods import METHODS
    from transforms.models.load import ModelRequest, load_model
    from transforms.models.reference import Reference

    adapter = load_model(ModelRequest(str(folder / "network.keras"), precision=precision, jit=jit))
    zeros = {"x": np.zeros((1, WIDTH), np.float32)}
    model = adapter.scored({"x": (WIDTH,)}, "auto", affine_prefix=True, example=zeros)
    reference = Reference(zeros, model.evaluate(zeros)[0], np.ones(1))
    method = METHODS[name]()

    def call(rows: np.ndarray) -> np.ndarray:
        targets, seeds = np.zeros((len(rows), 1), np.int64), np.arange(len(rows), dtype=np.uint64)
        found = method.attribute(model, {"x": rows}, reference, targets, seeds, SIZE)
        return np.asarray(found.values["x"][:, 0])

    start = time.perf_counter()
    call(inputs)
    return _Job(call, time.perf_counter() - start)
