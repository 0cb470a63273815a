"""What the benchmarks of masking methods share: whole runs on the usual network, and its predictions."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import (
    SEED,
    column_names,
    fastest,
    features,
    keras_model,
    rate,
    tensorflow,
    write_config,
    write_parquet,
)

WIDTH = 50
BACKGROUND = 100
#: Rows of the run that is taken off.
FEW = 8

Method = Mapping[str, Any]
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Worker:
    """Runs in a process of its own, where TensorFlow is as a run sets it up, Beam and the files included.

    Args:
      ask: Sends a request and waits for the answer.
    """

    ask: Callable[[tuple[Any, ...]], Any]

    def run(self, method: Method, rows: int, seed: int = 0, *, prefix: bool = True) -> np.ndarray:
        """A whole run, Parquet in and Parquet out, of the first so many rows.

        Args:
          method: The block of the config.
          rows: How many.
          seed: Of the run.
          prefix: False does not skip the affine prefix.
        Returns:
          φ as the tables have it, `[rows, WIDTH]`.
        """
        return self._run(method, rows, seed, prefix)[1]

    def rate(self, method: Method, rows: int, seed: int = 0, *, prefix: bool = True) -> float:
        """Rows a second of a whole run.

        Start-up is left out by a difference, of this run and one of a few rows, each with its own start of
        Beam, reading of the reference and traces; planning, where the model is loaded, is in neither.
        """
        start, _ = self._run(method, FEW, seed, prefix)
        return (rows - FEW) / (self._run(method, rows, seed, prefix)[0] - start)

    def _run(self, *request: Any) -> tuple[float, np.ndarray]:
        seconds, values = self.ask(request)
        return seconds, values


@contextmanager
def worker(folder: Path, rows: int, name: str) -> Iterator[Worker]:
    """A worker with the usual background and so many rows of `features` as input."""
    write_parquet(folder / f"{name}.parquet", rows, WIDTH)
    kept = pa.table(list(background().T), column_names(WIDTH))
    pq.write_table(kept, folder / f"{name}-background.parquet")
    method = {"name": "kernel_shap"}  # each run has its own
    config = write_config(folder, f"{name}.parquet", method, WIDTH, name, baseline="file")
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(
        target=_serve, args=(there, str(config), str(folder / f"{name}-background.parquet")), daemon=True
    )
    process.start()
    there.close()

    def ask(request: tuple[Any, ...]) -> Any:
        here.send(request)
        return here.recv()

    try:
        yield Worker(ask)
    finally:
        here.close()  # which ends it
        process.join()


def background() -> np.ndarray:
    """`[BACKGROUND, WIDTH]`."""
    return features(BACKGROUND, WIDTH, SEED + 1)


def _serve(requests: Any, config: str, background_path: str) -> None:
    """Answers requests until the other end is closed."""
    from pipeline.config.config import load_config
    from pipeline.execution import run
    from pipeline.planning.plan import make_plan
    from pipeline.runners.names import LOCAL

    while True:
        try:
            method, rows, seed, prefix = requests.recv()
        except EOFError:
            return
        settings = [f"baseline.path={background_path}", f"seed={seed}"]
        settings += [f"method.{key}={value}" for key, value in method.items()]
        plan = make_plan(load_config(config, settings=settings), limit=rows, in_process=True)
        # The two halves of pipeline.execution.run.execute, between which the prefix can be left out.
        plan = replace(plan, spec=replace(plan.spec, affine_prefix=prefix))
        shutil.rmtree(plan.spec.run, ignore_errors=True)
        run._begin(plan)
        start = time.perf_counter()
        run._run(plan, None, frozenset(), LOCAL, 1, (), False)
        seconds = time.perf_counter() - start
        table = pq.read_table(f"{plan.spec.run}/attributions", columns=["attribution"])
        columns = table["attribution"].combine_chunks().flatten()
        requests.send((seconds, np.stack([np.asarray(column) for column in columns], axis=1)))


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


def forward() -> Callable[[], float]:
    """Forward passes a second of the network compiled, over an array in memory, in calls of the best size.

    No way of masking that leaves the network whole can evaluate more points.
    """
    tf = tensorflow()
    model = keras_model(WIDTH)
    compiled = tf.function(
        model, input_signature=[tf.TensorSpec([None, WIDTH], tf.float32)], autograph=False
    ).get_concrete_function()
    points = {size: tf.constant(features(size, WIDTH)) for size in (1024, 4096, 16384, 65536)}

    def job(size: int) -> Callable[[], float]:
        return lambda: rate(lambda _: len(compiled(points[size]).numpy()), size, at_least=0.5)

    return job(fastest({size: job(size) for size in points}))


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean |error| of a value, relative to the mean |value|."""
    return float(np.abs(found - truth).mean() / np.abs(truth).mean())
