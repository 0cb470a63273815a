"""Faults at every boundary of a run: a killed process, a full disk, a lost permission; helpers, not tests.

A fault is raised where Python itself tells of an operation of the system (`sys.addaudithook`), or before or
after a function of the program: the program knows nothing of it. Killed runs are processes that are forked
off a server which has the program's modules loaded, so that a SIGKILL costs no start.
"""

from __future__ import annotations

import errno
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.results.run import Run
from tests.support import worlds

MODULES = (
    "apache_beam.runners.portability.fn_api_runner", "pipeline.cli.commands", "pipeline.results.run",
    "pipeline.run_directory.lock", "pipeline.execution.graph", "pipeline.execution.progress",
    "pipeline.execution.run", "pipeline.terminal.run_and_plan", "pyarrow.dataset", "transforms.explain",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Where a fault strikes: at an operation of the system on a path, or at a call.

    Args:
      what: An audit event ("open", "os.rename", …), "any" of them, or "before module:function", or "after …".
      path: The operation's path ends like this regular expression; of a rename, the new name.
      nth: The how-manieth of those.
    """

    what: str
    path: str = ""
    nth: int = 1


class _Armed:
    """The fault of this process; nothing strikes while there is none."""

    point: Point | None = None
    strike: Callable[[], None]
    left = 0
    seen: list[tuple[str, str]] | None = None
    hooked = False


def kill() -> None:
    """Ends this process as the system does when memory runs out: no handler, no cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


def full() -> None:
    """A disk without space."""
    raise OSError(errno.ENOSPC, "No space left on device")


def denied() -> None:
    """A permission that was taken away."""
    raise PermissionError(errno.EACCES, "Permission denied")


def broken() -> None:
    """A defect, or whatever nobody thought of."""
    raise RuntimeError("nobody thought of this")


KINDS: dict[str, Callable[[], None]] = {"kill": kill, "full": full, "denied": denied, "broken": broken}


def _count() -> None:
    _Armed.left -= 1
    if _Armed.left == 0:
        _Armed.strike()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    point = _Armed.point
    if (point is None and _Armed.seen is None) or not event.startswith(("open", "os.", "shutil.rmtree")):
        return
    path = arguments[1] if event == "os.rename" else arguments[0] if arguments else ""
    if not isinstance(path, str) or (event == "open" and not _writes(arguments)):
        return
    if _Armed.seen is not None:
        _Armed.seen.append((event, path))
    if point is None or point.what not in (event, "any"):
        return
    if re.search(f"(?:{point.path})$", path):
        _count()


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@contextmanager
def armed(point: Point, kind: str) -> Iterator[None]:
    """Has a fault strike in this process, once."""
    if not _Armed.hooked:
        sys.addaudithook(_hook)
        _Armed.hooked = True
    _Armed.left, _Armed.strike = point.nth, KINDS[kind]
    undo = _wrap(point) if ":" in point.what else None
    _Armed.point = point
    try:
        yield
    finally:
        _Armed.point = None
        if undo is not None:
            undo()
    assert _Armed.left <= 0, f"{point} was never reached"


def _wrap(point: Point) -> Callable[[], None]:
    when, _, name = point.what.partition(" ")
    module, _, attribute = name.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = attribute.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real = getattr(owner, last)

    @wraps(real)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            _count()
        found = real(*args, **kwargs)
        if when == "after":
            _count()
        return found

    setattr(owner, last, wrapped)
    return lambda: setattr(owner, last, real)


def operations(run: Callable[[], object]) -> list[tuple[str, str]]:
    """The operations of the system that write, as a run makes them."""
    with armed(Point("none", nth=0), "kill"):
        _Armed.seen = []
        run()
        found, _Armed.seen = _Armed.seen, None
    return found


def _child(arguments: Sequence[str], point: Point | None, kind: str, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from pipeline.cli import commands as cli

    if point is None:
        os._exit(cli.run(arguments))
    with armed(point, kind):
        status = cli.run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_forks: Any = None


def run_apart(arguments: Sequence[str], log: Path, point: Point | None = None, kind: str = "kill") -> int:
    """Runs the command line in a process of its own; returns its exit status, −9 where it was killed."""
    global _forks
    if _forks is None:
        _forks = multiprocessing.get_context("forkserver")
        _forks.set_forkserver_preload([__name__, *MODULES])
    process = _forks.Process(target=_child, args=(list(arguments), point, kind, str(log)))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"it hangs: {log.read_text()}")
    return int(process.exitcode)


ROWS, SHARD = 90, 25
SCORING = """
import numpy as np

def predict(batch):
    wind = batch["wind"]
    if (wind > 99).any():
        raise ValueError("such a storm")
    return np.where(batch["hour"] > 12, wind * batch["distance"], batch["distance"] - wind)
"""


def make_world(folder: Path) -> Path:
    """A config over two files of 90 rows, three of them bad, and a function."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    table = pa.table(
        {
            "trip": [f"trip {i}" for i in range(ROWS)],
            "hour": pa.array([None if i == 4 else i % 24 for i in range(ROWS)], pa.int64()),
            "wind": np.where(np.isin(np.arange(ROWS), [40, 77]), 100.0, rng.normal(10, 3, ROWS)),
            "distance": rng.normal(5, 1, ROWS).astype(np.float32),
            "carrier": rng.choice(["X", "Y"], ROWS),
        }
    )
    pq.write_table(table.slice(0, 60), folder / "rows-1.parquet")
    pq.write_table(table.slice(60), folder / "rows-2.parquet")
    (folder / "scoring.py").write_text(SCORING, encoding="utf-8")
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: scoring:predict"},
        input={"files": "rows-*.parquet", "id": "trip", "slices": ["carrier"]},
        method={"name": "exact_shap"},
        baseline={"kind": "sample", "rows": 4},
        # It comes after the commit, takes a second in a process of its own, and has tests of its own.
        output={"path": "run", "report": False},
        compute={"shard_rows": SHARD, "batch_size": 10},
        limits={"rejected": 0.1},
    )


def tables(run: Run) -> dict[str, bytes]:
    """All that a run holds but for times; nothing else may be there."""
    found = worlds.part_bytes(run)
    folder = Path(run.path)
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert there == {*found, "manifest.json"}
    assert sorted(found) == sorted(part["file"] for part in run.manifest["parts"])
    facts = {k: v for k, v in run.manifest.items() if k not in ("created", "timing", "config")}
    return {**found, "facts": json.dumps(facts).encode()}


def command(config: Path, place: Path, *more: str) -> list[str]:
    return ["explain", str(config), "--output", str(place), *more]


def journal(place: Path) -> dict[str, int]:
    """Of each finished shard, when its part was written."""
    done = [path.name.partition(".")[0] for path in (place / "_work" / "shards").glob("0*.done")]
    return {n: (place / "attributions" / f"part-{n}.parquet").stat().st_mtime_ns for n in done}


def check_resumed(config: Path, place: Path, whole: dict[str, bytes], *settings: str) -> None:
    """The same command goes on, redoes nothing that was done, and ends as if nothing had been."""
    before = journal(place)
    run = worlds.explain(config, place, *settings)
    assert tables(run) == whole
    parts = {n: (place / "attributions" / f"part-{n}.parquet").stat().st_mtime_ns for n in before}
    assert parts == before


@cache
def world() -> Path:
    """The world that tests share."""
    return make_world(worlds.shelf() / "faults")


@cache
def undisturbed() -> dict[str, bytes]:
    """The tables of a run that nothing disturbed."""
    return tables(worlds.explain(world(), world().parent / "whole"))


def main() -> None:
    """Kills a run before each operation of the system that it makes, one after the other, and goes on.

    Where tests have a table of points, this leaves none out: `python -m tests.support.faults`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_world(folder / "world")
        whole = tables(worlds.explain(config, folder / "whole"))
        made = operations(lambda: worlds.explain(config, folder / "run"))
        shutil.rmtree(folder / "run")
        start, unlike = time.monotonic(), []
        for nth in range(1, len(made) + 1):
            point = Point("any", nth=nth)
            status = run_apart(command(config, folder / "run"), folder / "log", point, "kill")
            found = tables(worlds.explain(config, folder / "run"))
            if status != -9 or found != whole:
                unlike.append((status, made[nth - 1]))
            shutil.rmtree(folder / "run")
        took = time.monotonic() - start
        print(f"{len(made)} operations, {len(unlike)} after which a run was another, {took:.0f} s", *unlike)


if __name__ == "__main__":
    main()
