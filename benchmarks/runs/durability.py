"""What it costs that a run cannot be lost: checksums, syncs and the journal; and what resuming takes.

The share of a run is accounted rather than compared: a run with them and one without differ by less than two
runs of the same do. Digests and the journal take processor time, of which a run has as much a second as there
are processors; a sync is waited for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.child import ROOT, attribeam
from benchmarks.common import Row, column_names, write_config, write_parquet

WIDTH = 50
METHOD = {"name": "integrated_gradients", "n_steps": 50}

#: Runs the command line and prints what went into each kind of call: processor time, and waiting for syncs.
_ACCOUNT = """
import json, sys, time
from pipeline.cli import commands as cli
from transforms import explain_shard, files, parts, shard_result
import pipeline.execution.commit, pipeline.execution.run

spent = {}

def timed(owner, name, what, clock):
    real = getattr(owner, name)
    def call(*args, **kwargs):
        start = clock()
        try:
            return real(*args, **kwargs)
        finally:
            spent[what] = spent.get(what, 0.0) + clock() - start
    setattr(owner, name, call)

real = parts.hashlib.blake2b

class Digest:
    def __init__(self, *args, **kwargs):
        self._digest = real(*args, **kwargs)
        self.hexdigest = self._digest.hexdigest
        self.update = lambda data: update(self._digest, data)

def update(digest, data):
    start = time.thread_time()
    digest.update(data)
    spent["digests"] = spent.get("digests", 0.0) + time.thread_time() - start

parts.hashlib.blake2b = Digest
timed(files.os, "fsync", "syncs", time.perf_counter)
timed(explain_shard, "write_journal", "journal", time.thread_time)
timed(explain_shard, "check_own", "journal", time.thread_time)
timed(pipeline.execution.commit, "read_journal", "journal", time.thread_time)
timed(pipeline.execution.run, "finished_shards", "journal", time.thread_time)
assert cli.run(sys.argv[1:]) == 0
print(json.dumps(spent), file=sys.stderr)
"""


def run(folder: Path, quick: bool) -> list[Row]:
    rows = 40_000 if quick else 1_000_000
    write_parquet(folder / "rows.parquet", rows, WIDTH)
    config = write_config(folder, "rows.parquet", METHOD, WIDTH, "durable")
    return [_overhead(config, rows, 1 if quick else 3), _resumed(config, rows), *_plans(folder, quick)]


def _overhead(config: Path, rows: int, repeats: int) -> Row:
    shares, told = [], ""
    for _ in range(repeats):
        place = config.parent / "run-durable"
        shutil.rmtree(place, ignore_errors=True)
        line = [sys.executable, "-c", _ACCOUNT, "explain", str(config)]
        found = subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        spent = json.loads(found.stderr.decode().strip().splitlines()[-1])
        seconds = _manifest(place)["timing"]["pipeline_seconds"]
        processor = (spent["digests"] + spent["journal"]) / (os.cpu_count() or 1)
        shares.append(100 * (processor + spent["syncs"]) / seconds)
        told = ", ".join(f"{name} {1000 * value:,.0f} ms" for name, value in sorted(spent.items()))
    figure = f"{told} of {seconds:,.1f} s, {rows:,} rows"
    return Row("checksums, syncs and journal", figure, shares, unit="%", at_most=2)


def _manifest(place: Path) -> dict[str, Any]:
    return json.loads((place / "manifest.json").read_text(encoding="utf-8"))


def _resumed(config: Path, rows: int) -> Row:
    """A run that is nine tenths done, as a kill leaves it: the journal and parts of that many shards."""
    place, shard_rows = config.parent / "run-durable", rows // 40
    shutil.rmtree(place, ignore_errors=True)
    arguments = ["explain", str(config), "--set", f"compute.shard_rows={shard_rows}"]
    whole = attribeam(arguments)
    shutil.rmtree(place)
    victim = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while victim.poll() is None and len(list((place / "_work" / "shards").glob("0*.done"))) < 36:
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    done = len(list((place / "_work" / "shards").glob("0*.done")))
    resumed = attribeam(arguments)
    figure = f"{resumed.seconds:,.1f} s where {done} of 40 shards were done, {whole.seconds:,.1f} s in one go"
    return Row("resuming at 90 %", figure, [resumed.seconds / whole.seconds])


def _plans(folder: Path, quick: bool) -> list[Row]:
    """Many files of few rows, and a model that takes no time to load: what is left is looking at files."""
    files = 1_000 if quick else 10_000
    many = folder / "many"
    many.mkdir()
    rng = np.random.default_rng(0)
    for index in range(files):
        values = rng.normal(size=(20, 8)).astype(np.float32)
        table = pa.table([pa.array(values[:, i]) for i in range(8)], column_names(8))
        pq.write_table(table, many / f"part-{index:05d}.parquet")
    (folder / "scoring.py").write_text("def predict(batch):\n    return batch['f000'] * batch['f001']\n")
    config = folder / "many.yaml"
    config.write_text(
        "model: {path: 'python: scoring:predict'}\ninput: {files: 'many/*.parquet'}\n"
        "method: {name: exact_shap}\nbaseline: {kind: zeros}\noutput: {path: run-many}\n"
    )
    seconds = [attribeam(["plan", str(config)]).seconds for _ in range(1 if quick else 3)]
    return [Row("plan", f"{files:,} files", seconds, unit="s", at_most=10)]
