"""Rows a second of whole runs, Parquet in and Parquet out, against a bare function over arrays in memory.

Start-up is left out by a difference: a run of all rows and a run of the first few, each with its own start of
Beam, its own loading of the reference and its own trace, and only the rows between them count. Planning, in
which TensorFlow and the model are loaded, is not in the manifest's `pipeline_seconds` in the first place.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import bare
from benchmarks.child import attribeam
from benchmarks.common import (
    Row,
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
#: Rows of the run that is taken off.
FEW = 2000


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, trial = (30_000, 0.1) if quick else (500_000, 0.3)
    write_parquet(folder / "rows.parquet", rows, WIDTH)
    method = {"name": "integrated_gradients", "n_steps": bare.STEPS}
    config = write_config(folder, "rows.parquet", method, WIDTH, "end-to-end")
    output = folder / "run-end-to-end"

    def seconds_of(limit: int) -> float:
        # A process of its own, as a user has it: there TensorFlow's threads are as runs set them, and here,
        # for the bare functions, as TensorFlow does.
        shutil.rmtree(output, ignore_errors=True)
        attribeam(["explain", str(config), "--limit", str(limit)])
        manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
        return float(manifest["timing"]["pipeline_seconds"])

    def piped() -> float:
        # In this order, so that what is left behind to look at is the whole run.
        start = seconds_of(FEW)
        return (rows - FEW) / (seconds_of(rows) - start)

    model = keras_model(WIDTH)
    baseline = np.zeros((1, WIDTH), np.float32)
    # The bare functions need no more rows than it takes to measure them.
    inputs = features(rows, WIDTH)[: max(rows // 4, 20_000)]
    results = np.empty_like(inputs)
    plain = bare.best(bare.straightforward(model, baseline), inputs, results, trial)
    tuned = bare.best(bare.by_hand(model, baseline), inputs, results, trial)
    found = interleaved(
        {
            "pipeline": piped,
            "plain": lambda: rate(plain(inputs, results), len(inputs)),
            "tuned": lambda: rate(tuned(inputs, results), len(inputs)),
        },
        3,
    )
    _check(output, results)
    piped_rate = per_second(found["pipeline"])
    return [
        Row(
            "end to end ÷ bare tf.function",
            f"{piped_rate} against {per_second(found['plain'])} (at {plain.rows} rows a call)",
            ratios(found, "pipeline", "plain"),
            at_least=0.9,
        ),
        Row(
            "end to end ÷ written by hand",
            f"{piped_rate} against {per_second(found['tuned'])} ({tuned.name}, {tuned.rows} rows a call)",
            ratios(found, "pipeline", "tuned"),
            at_least=0.9,
        ),
    ]


def _check(output: Path, results: np.ndarray) -> None:
    """Both did the same arithmetic, or there is nothing to compare."""
    part = pq.ParquetFile(sorted((output / "attributions").glob("*.parquet"))[0])
    table = next(part.iter_batches(batch_size=1000)).to_struct_array().field("attribution")
    found = np.stack([np.asarray(column) for column in table.flatten()], axis=1)
    error = float(np.abs(found - results[: len(found)]).max())
    if error > 1e-4:
        raise RuntimeError(f"the pipeline and the bare function differ by {error:g}")
