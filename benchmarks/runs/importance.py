"""What quantiles and intervals cost: a run with the whole state against the same run with means alone.

The share of a run is accounted rather than compared, since two runs of the same differ by more than it: it
is processor time, of which a run has as much a second as there are processors. The ratio of the two stands
beside it, for what accounting does not see.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.child import ROOT
from benchmarks.common import SEED, Row, column_names, features, write_config
from transforms.aggregates.importance import ImportanceState
from transforms.numerics.random import row_keys
from transforms.slices.slicings import BinsRequest, SliceRequest, labels, resolve_slicings

WIDTH = 50
METHOD = {"name": "integrated_gradients", "n_steps": 50}
#: Labels of the columns that the importance is broken down by.
SLICES = (20, 20)
SHARDS = 100

#: Runs the command line, and prints the processor time of what is added to the moments.
_ACCOUNT = """
import json, sys, time
from pipeline.cli import commands as cli
from transforms.aggregates.importance import groups, state, table

spent = 0.0

def timed(owner, name):
    real = getattr(owner, name)
    def call(*args, **kwargs):
        global spent
        start = time.thread_time()
        try:
            return real(*args, **kwargs)
        finally:
            spent += time.thread_time() - start
    setattr(owner, name, call)

timed(groups.Groups, "add_entries")
timed(state, "Coded")
timed(state, "tops_of")
for name in ("mean_abs_interval", "rank_intervals", "quantiles", "shape"):
    timed(table, name)
status = cli.run(sys.argv[1:])
print(json.dumps(spent), file=sys.stderr)
sys.exit(status)
"""
#: The same with moments alone: no buckets, and a table without what comes of them.
_MOMENTS = """
import sys
import numpy as np
from pipeline.cli import commands as cli
from transforms.aggregates.importance import groups, state, table

groups.Groups.add_entries = lambda *args: None
state.Coded = lambda values, tops: None
state.tops_of = lambda values: np.zeros(len(values), np.int32)
table.shape = lambda counts, bits: np.zeros((2, *counts.shape[:2]))
table.mean_abs_interval = lambda moments, *shape: (moments.absolute, moments.absolute)
table.rank_intervals = lambda mean, *rest: (mean.astype(np.int32), mean.astype(np.int32))
table.quantiles = lambda counts, bits, tops, low, high: np.zeros((5, *low.shape))
sys.exit(cli.run(sys.argv[1:]))
"""


def run(folder: Path, quick: bool) -> list[Row]:
    rows, repeats = (40_000, 1) if quick else (300_000, 3)
    _write_input(folder / "rows.parquet", rows)
    config = write_config(folder, "rows.parquet", METHOD, WIDTH, "importance")
    found = [_cost(config, rows, repeats, slicings) for slicings in (0, len(SLICES))]
    costs = [row for pair in found for row in pair]
    return [*costs, *_labelling(), _merging(20, 20), _merging(500, 200, shards=3)]


def _write_input(path: Path, rows: int) -> None:
    values, rng = features(rows, WIDTH), np.random.default_rng(SEED)
    columns = {name: pa.array(values[:, at]) for at, name in enumerate(column_names(WIDTH))}
    for at, count in enumerate(SLICES):
        columns[f"slice{at}"] = pa.array([f"{label:02d}" for label in rng.integers(0, count, rows)])
    pq.write_table(pa.table(columns), path, row_group_size=1 << 16)


def _cost(config: Path, rows: int, repeats: int, slicings: int) -> list[Row]:
    told = yaml.safe_load(config.read_text(encoding="utf-8"))
    told["input"]["slices"] = [f"slice{at}" for at in range(slicings)]
    config.write_text(yaml.safe_dump(told))
    shares, ratios, seconds = [], [], 0.0
    for _ in range(repeats):
        seconds, spent = _run(config, _ACCOUNT)
        shares.append(100 * spent / (os.cpu_count() or 1) / seconds)
        ratios.append(seconds / _run(config, _MOMENTS)[0])
    name = f"quantiles and intervals, {slicings} slicings" if slicings else "quantiles and intervals"
    figure = f"{spent:,.2f} s of a processor in a run of {seconds:,.1f} s, {rows:,} rows × {WIDTH} features"
    return [
        Row(name, figure, shares, unit="%", at_most=5),
        Row(f"{name} ÷ means alone", f"of the seconds of a run: {median(ratios):.3f}", ratios),
    ]


def _run(config: Path, code: str) -> tuple[float, float]:
    """Seconds after planning, and what the code says last, where it is a number."""
    place = config.parent / "run-importance"
    shutil.rmtree(place, ignore_errors=True)
    line = [sys.executable, "-c", code, "explain", str(config)]
    found = subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    last = found.stderr.decode().strip().rpartition("\n")[2]
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    return manifest["timing"]["pipeline_seconds"], float(last) if code is _ACCOUNT else 0.0


def _labelling(rows: int = 4096) -> list[Row]:
    """Milliseconds for the slices of a batch's rows, the best of several, by the kind of slicing."""
    rng = np.random.default_rng(SEED)
    columns = {
        "carrier": pa.array(rng.choice([f"C{at}" for at in range(16)], rows)),
        "dest": pa.array(rng.choice([f"D{at}" for at in range(105)], rows)),
        "hour": pa.array(rng.uniform(0, 24, rows), pa.float32()),
    }
    types = {name: array.type for name, array in columns.items()}
    asked: dict[str, SliceRequest] = {
        "a column": "carrier",
        "a condition": 'hour >= 17 and carrier in ["C1", "C2"]',
        "bins": BinsRequest("hour", (6.0, 12.0, 18.0)),
        "an intersection": ("carrier", "dest"),
    }
    found = []
    for kind, request in asked.items():
        slicings = resolve_slicings([request], types)
        best = float("inf")
        for _ in range(50):
            start = time.perf_counter()
            labels(slicings, columns)
            best = min(best, time.perf_counter() - start)
        found.append(Row(f"slices of {rows:,} rows by {kind}", "best of 50", [best * 1e3], "ms", at_most=1.0))
    return found


def _merging(count: int, slices: int, shards: int = SHARDS) -> Row:
    """States as the journal holds them, read and merged, and the table of the sum."""
    rng = np.random.default_rng(SEED)
    names = tuple(column_names(count))
    state, rows = ImportanceState(names), 1 << 12
    for part in range(16):
        values = rng.standard_normal((count, rows), dtype=np.float32)
        labels = pa.array([f"s={label}" for label in rng.integers(0, slices, rows)])
        keys = row_keys(SEED, np.arange(part * rows, (part + 1) * rows))
        state.update(values, np.zeros(rows, np.int64), {"s": labels}, keys)
    data = state.to_bytes()
    start = time.perf_counter()
    total = ImportanceState(names)
    for _ in range(shards):
        total.merge(ImportanceState.from_bytes(data))
    merged = time.perf_counter()
    total.to_table(["y"])
    table = time.perf_counter() - merged
    figure = f"{len(data) / 1e6:,.2f} MB a state of {16 * rows:,} rows; the table takes {table:,.2f} s"
    name = f"merging {shards} states, {count} features × {slices} slices"
    return Row(name, figure, [merged - start], unit="s")
