"""Peak memory of an explain process: four million rows against one million, and against what plans print."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from statistics import median

from benchmarks.child import attribeam
from benchmarks.common import Row, interleaved, ratios, write_config, write_parquet
from benchmarks.memory_cases import CASES, host_bytes
from benchmarks.memory_cases import peak as peak_of

WIDTH = 50


def run(folder: Path, quick: bool) -> list[Row]:
    rows = 100_000 if quick else 1_000_000
    few, many = folder / "one-million", folder / "four-million"
    few.mkdir()
    many.mkdir()
    write_parquet(few / "0.parquet", rows, WIDTH)
    # The same million under four names: a process cannot tell, and the disk has to hold only one.
    for index in range(4):
        os.link(few / "0.parquet", many / f"{index}.parquet")
    # One gradient a row: the rows pass through as fast as they ever do.
    method = {"name": "input_x_gradient"}
    configs = {
        place.name: write_config(folder, f"{place.name}/*.parquet", method, WIDTH, place.name)
        for place in (few, many)
    }

    def peak(name: str) -> float:
        found = attribeam(["explain", str(configs[name])])
        shutil.rmtree(folder / f"run-{name}")
        return float(found.peak)

    found = interleaved({name: lambda name=name: peak(name) for name in configs}, 1 if quick else 3)
    first, second = (median(found[place.name]) / 1e6 for place in (few, many))
    figure = f"{second:,.0f} MB for {4 * rows:,} rows, {first:,.0f} MB for {rows:,}"
    rows_told = Row("peak memory, 4 times the rows", figure, ratios(found, many.name, few.name), at_most=1.1)
    return [rows_told, *(_planned(folder, name, quick) for name in CASES)]


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
