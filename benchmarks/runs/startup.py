"""Seconds from typing a command to its answer: `--help`, and a run of 100 rows with what they go into."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import median

from benchmarks.child import attribeam
from benchmarks.common import Row, write_config, write_parquet

ROWS = 100
WIDTH = 50


def run(folder: Path, quick: bool) -> list[Row]:
    attribeam(["--help"])  # fills the caches of compiled Python and of the disk
    helps = [attribeam(["--help"]).seconds for _ in range(5)]
    data = folder / "few.parquet"
    write_parquet(data, ROWS, WIDTH)
    config = write_config(folder, data.name, {"name": "integrated_gradients"}, WIDTH, "startup")
    output = folder / "run-startup"
    totals, parts = [], []
    for _ in range(1 if quick else 3):
        totals.append(attribeam(["explain", str(config)]).seconds)
        timing = json.loads((output / "manifest.json").read_text())["timing"]
        parts.append((totals[-1] - timing["seconds"], timing["planning_seconds"], timing["pipeline_seconds"]))
        shutil.rmtree(output)
    around, plan, work = (median(column) for column in zip(*parts, strict=True))
    split = f"{around:.1f} s imports and exit, {plan:.1f} s plan with TensorFlow, {work:.1f} s run with Beam"
    return [
        Row("attribeam --help", "process start to exit", helps, "s", at_most=0.5),
        Row(f"attribeam explain, {ROWS} rows", split, totals, "s"),
    ]
