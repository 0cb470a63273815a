"""`python -m benchmarks.run`: runs the benchmarks, prints what they found and whether it is good enough."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Row

#: Name → module, in the order in which they run.
BENCHMARKS = {
    "startup": "benchmarks.runs.startup",
    "reading": "benchmarks.runs.reading",
    "affine_prefix": "benchmarks.methods.affine_prefix",
    "arithmetic": "benchmarks.methods.arithmetic",
    "expected_gradients": "benchmarks.methods.expected_gradients",
    "deep_shap": "benchmarks.methods.deep_shap",
    "kernel_shap": "benchmarks.methods.kernel_shap",
    "permutation_shap": "benchmarks.methods.permutation_shap",
    "lime": "benchmarks.methods.lime",
    "tree_shap": "benchmarks.methods.tree_shap",
    "end_to_end": "benchmarks.runs.end_to_end",
    "memory": "benchmarks.runs.memory",
    "durability": "benchmarks.runs.durability",
    "importance": "benchmarks.runs.importance",
    "wide": "benchmarks.runs.wide",
}
#: Run only by name: they need more than Python.
ON_REQUEST = {"flink": "benchmarks.runs.flink"}
_MARKS = {True: "ok", False: "MISSED", None: ""}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS | ON_REQUEST)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; judges nothing"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    given = parser.parse_args(arguments)
    known = BENCHMARKS | ON_REQUEST
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"{unknown[0]!r} is no benchmark; there are {', '.join(known)}")
    logging.basicConfig(level=logging.ERROR)  # Beam has remarks on what is not installed
    rows: list[Row] = []
    for name, module in known.items():
        if name not in (given.names or BENCHMARKS):
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"attribeam-{name}-") as folder:
            found = importlib.import_module(module).run(Path(folder), given.quick)
        took = time.perf_counter() - start
        for row in found:
            print(f"  {_line(row)}", file=sys.stderr)
        print(f"  took {took:.0f} s", file=sys.stderr, flush=True)
        rows += found
    missed = [] if given.quick else [row for row in rows if row.reached is False]
    if given.json:
        machine = {"processors": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}
        found = [row.to_json() | ({"reached": None} if given.quick else {}) for row in rows]
        print(json.dumps({"machine": machine, "quick": given.quick, "rows": found}))
    else:
        _print_table(rows, given.quick)
    return 1 if missed else 0


def _judged(row: Row) -> tuple[str, str]:
    """The median and the range of what is judged; nothing where the figure says it all."""
    if not row.unit:
        return "", f"{min(row.runs):,.0f}–{max(row.runs):,.0f}"
    return f"{row.value:.2f} {row.unit}", f"{min(row.runs):.2f}–{max(row.runs):.2f}"


def _line(row: Row) -> str:
    value, spread = _judged(row)
    return f"{row.name}: {value + ' ' if value else ''}({spread}), {row.figure}"


def _print_table(rows: Sequence[Row], quick: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("benchmark", "median", "min–max", "bar"):
        table.add_column(title, justify="left" if title == "benchmark" else "right", no_wrap=True)
    table.add_column("")
    table.add_column("figures")
    for row in rows:
        table.add_row(row.name, *_judged(row), row.bar, "" if quick else _MARKS[row.reached], row.figure)
    # As wide as it needs to be: in a log there is no terminal to fit into.
    width = None if sys.stdout.isatty() else 220
    Console(width=width, highlight=False).print(table)
    if quick:
        print("quick sizes: nothing is judged")


if __name__ == "__main__":
    sys.exit(main())
