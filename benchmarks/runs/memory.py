"""Peak memory of an explain process: ten million rows against one million, and against what plans print."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.child import attribeam
from benchmarks.common import Row, interleaved, ratios, write_config, write_parquet
from benchmarks.runs.memory_cases import CASES, host_bytes
from benchmarks.runs.memory_cases import peak as peak_of

WIDTH = 50
TIMES = 10


def run(folder: Path, quick: bool) -> list[Row]:
    rows = 100_000 if quick else 1_000_000
    few, many = folder / "one-million", folder / "ten-million"
    few.mkdir()
    many.mkdir()
    write_parquet(few / "0.parquet", rows, WIDTH)
    # The same million under ten names: a process cannot tell, and the disk has to hold only one.
    for index in range(TIMES):
        os.link(few / "0.parquet", many / f"{index}.parquet")
    # One gradient a row: the rows pass through as fast as they ever do.
    method = {"name": "input_x_gradient"}
    configs = {
        place.name: write_config(folder, f"{place.name}/*.parquet", method, WIDTH, place.name)
        for place in (few, many)
    }

    pace: dict[str, list[float]] = {name: [] for name in configs}

    def peak(name: str) -> float:
        found = attribeam(["explain", str(configs[name])])
        place = folder / f"run-{name}"
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        pace[name].append(manifest["timing"]["pipeline_seconds"] / manifest["counts"]["rows_read"])
        shutil.rmtree(place)
        return float(found.peak)

    found = interleaved({name: partial(peak, name) for name in configs}, 1 if quick else 2)
    first, second = (median(found[place.name]) / 1e6 for place in (few, many))
    figure = f"{second:,.0f} MB for {TIMES * rows:,} rows, {first:,.0f} MB for {rows:,}"
    slow, fast = (1e6 * median(pace[place.name]) for place in (few, many))
    told = [
        Row("peak memory, 10 times the rows", figure, ratios(found, many.name, few.name), at_most=1.1),
        Row(
            "time a row, 10 times the rows",
            f"{fast:.1f} µs a row, and {slow:.1f} µs with its start",
            ratios(pace, many.name, few.name),
            at_most=1.1,
        ),
    ]
    return [*told, *(_planned(folder, name, quick) for name in CASES)]


def _planned(folder: Path, name: str, quick: bool) -> Row:
    """A run's peak as a share of what its plan prints."""
    build, limit = CASES[name]
    place = folder / build.__name__
    place.mkdir()
    config = build(place, quick)
    planned, found = host_bytes(config), peak_of(config, limit)
    shutil.rmtree(place)
    figure = f"{found / 1e6:,.0f} MB, planned {planned / 1e6:,.0f} MB"
    return Row(f"peak memory, {name}", figure, [found / planned], at_most=1.0)
