"""What the benchmarks share: results and their bars, interleaved repeats, and data made on the spot."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

if TYPE_CHECKING:
    from transforms.models.graphs.scored import GraphAdapter
    from transforms.models.load import ModelRequest

SEED = 20130115
Job = TypeVar("Job", bound=str | int)
ROW_GROUP = 1 << 16


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
      name: What was measured.
      figure: In absolute terms, in words.
      runs: The judged quantity of each repeat; their median is held against the bar.
      unit: Of the judged quantity: "×" for a ratio, "%" for a share, "s" for seconds, "ms" for
        thousandths of them, "" where the figure says it all.
      at_least: The bar from below, if there is one.
      at_most: The bar from above, if there is one.
    """

    name: str
    figure: str
    runs: Sequence[float]
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        return median(self.runs)

    @property
    def reached(self) -> bool | None:
        """Whether the bar is reached; None without a bar."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def bar(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "runs": list(self.runs), "median": self.value, "reached": self.reached}


def interleaved(jobs: Mapping[Job, Callable[[], float]], repeats: int) -> dict[Job, list[float]]:
    """Runs the jobs in turns, so that what else the machine does falls on all of them alike."""
    found: dict[Job, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            found[name].append(job())
    return found


def fastest(jobs: Mapping[Job, Callable[[], float]], repeats: int = 3) -> Job:
    """The job with the highest median rate; each is run once before, to trace what it has to."""
    for job in jobs.values():
        job()
    found = interleaved(jobs, repeats)
    return max(found, key=lambda name: median(found[name]))


def ratios(found: Mapping[str, Sequence[float]], above: str, below: str) -> list[float]:
    """The ratio of two jobs in each repeat."""
    return [a / b for a, b in zip(found[above], found[below], strict=True)]


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def rate(call: Callable[[int], int], rows: int, at_least: float = 0.0) -> float:
    """Rows a second of calls that take the first row they handle and return how many they did.

    Args:
      call: Handles rows from a position on.
      rows: How many there are; the calls go round them.
      at_least: Seconds to go on for; with 0 once round.
    """
    start, done, position = time.perf_counter(), 0, 0
    while True:
        size = call(position)
        done += size
        position += size
        elapsed = time.perf_counter() - start
        if position >= rows:
            if elapsed >= at_least:
                return done / elapsed
            position = 0


def per_second(values: Sequence[float]) -> str:
    return f"{median(values):,.0f} rows/s"


def features(rows: int, width: int, seed: int = SEED) -> np.ndarray:
    """Standard normal features, `[rows, width]` float32."""
    return np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)


def column_names(width: int) -> list[str]:
    return [f"f{index:03d}" for index in range(width)]


def write_parquet(path: Path, rows: int, width: int, seed: int = SEED) -> None:
    """The rows of `features` as one column a feature."""
    names = column_names(width)
    values = features(rows, width, seed)
    with pq.ParquetWriter(path, pa.schema([(name, pa.float32()) for name in names])) as writer:
        for start in range(0, rows, ROW_GROUP):
            part = values[start : start + ROW_GROUP].T
            writer.write_table(pa.table([pa.array(np.ascontiguousarray(c)) for c in part], names))


def keras_model(width: int) -> Any:
    """The network of all benchmarks: width-128-64-1, ReLU."""
    keras = tensorflow().keras
    keras.utils.set_random_seed(SEED)
    dense = keras.layers.Dense
    layers = [keras.Input((width,), name="x"), dense(128, "relu"), dense(64, "relu"), dense(1)]
    return keras.Sequential(layers)


def graph_model(request: ModelRequest) -> tuple[GraphAdapter, str]:
    """Loads a model whose graph is known, and tells the name of its one input."""
    from transforms.models.graphs.scored import GraphAdapter
    from transforms.models.load import load_model

    adapter = load_model(request)
    assert isinstance(adapter, GraphAdapter)
    assert adapter.signature is not None
    (only,) = adapter.signature.inputs
    return adapter, only.name


def tensorflow() -> Any:
    """TensorFlow as it comes, all its threads included: what is compared with must not run on ours."""
    from transforms.worker.tensorflow_setup import quiet_stderr

    with quiet_stderr():
        import tensorflow as tf

    return tf


def write_config(
    folder: Path, files: str, method: Mapping[str, Any], width: int, name: str, baseline: str = "zeros"
) -> Path:
    """Saves the network and a config that explains it on the files; everything else as it is by default."""
    model = folder / f"network-{width}.keras"
    if not model.exists():
        keras_model(width).save(model)
    config = {
        "name": name,
        "model": {"path": model.name},
        "input": {"files": files, "features": column_names(width)},
        "method": dict(method),
        "baseline": {"kind": baseline},
        "output": {"path": f"run-{name}"},
        # Random networks have no reason to converge; what is measured is how fast.
        "limits": {"convergence": 1e9},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
