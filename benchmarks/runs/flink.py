"""A Flink cluster with one TaskManager at work and with two: rows a second, and what starting a run costs.

TensorFlow has one thread and one processor in each. Needs what `python -m tests.flink.parts` fetches.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from statistics import median

from benchmarks.child import attribeam
from benchmarks.common import Row, interleaved, per_second, ratios, write_config, write_parquet
from tests.flink import traces
from tests.flink.cluster import Cluster

WIDTH = 50
SHARDS = 40


def run(folder: Path, quick: bool) -> list[Row]:
    rows = 40_000 if quick else 1_000_000  # beside which loading the model is little
    data = folder / "rows.parquet"
    write_parquet(data, rows, WIDTH)
    config = write_config(folder, data.name, {"name": "integrated_gradients"}, WIDTH, "flink")
    starting: list[float] = []
    spent: dict[int, list[float]] = {1: [], 2: []}
    with Cluster(taskmanagers=2, slots=1, processors=1) as cluster:

        def rate(slots: int) -> float:
            """Rows a second from the first row that is explained to the last part that is written."""
            since, start = time.time(), time.perf_counter()
            cut = f"compute.shard_rows={rows // SHARDS}"
            flags = [*cluster.flags, f"--parallelism={slots}"]
            attribeam(["explain", str(config), "--set", cut, *flags])
            whole = time.perf_counter() - start
            events = traces.read(cluster.traces, since)
            done = [event for event in events if event.what == traces.COMMIT]
            if len(done) != SHARDS or len({event.parent for event in done}) != slots:
                raise RuntimeError(f"{len(done)} shards by {len({e.parent for e in done})} TaskManagers")
            work = done[-1].at - min(event.at for event in events if event.what == traces.BEGIN)
            starting.append(whole - work)
            spent[slots].append(rows / sum(_processor_seconds(events).values()))
            shutil.rmtree(folder / "run-flink")
            return rows / work

        found = interleaved({"two": lambda: rate(2), "one": lambda: rate(1)}, 1 if quick else 3)
    one, two = (per_second(found[name]) for name in ("one", "two"))
    cost = {"two": spent[2], "one": spent[1]}
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    return [
        Row(
            "Flink, two slots ÷ one",
            f"{two} and {one}; {load}",
            ratios(found, "two", "one"),
            at_least=1.7,
        ),
        Row(
            "Flink, rows a second of processor time, two slots ÷ one",
            f"{per_second(spent[2])} and {per_second(spent[1])}; 1 is no loss, whatever the load",
            ratios(cost, "two", "one"),
        ),
        Row(
            "Flink, start and end of a run",
            f"plan, job server, workers, combine; {median(starting):.0f} s beside the rows; {load}",
            starting,
            "s",
        ),
    ]


def _processor_seconds(events: list[traces.Event]) -> dict[int, float]:
    """Of each worker, from its first row to its last part."""
    found: dict[int, float] = {}
    for worker in {event.worker for event in events if event.what == traces.COMMIT}:
        mine = [e.spent for e in events if e.worker == worker and e.what in (traces.BEGIN, traces.COMMIT)]
        found[worker] = mine[-1] - mine[0]
    return found
