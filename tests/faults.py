"""Faults at every boundary of a run: a killed process, a full disk, a lost permission; helpers, not tests.

A fault is raised where Python itself tells of an operation of the system (`sys.addaudithook`), or before or
after a function of the program: the program knows nothing of it. Killed runs are processes that are forked
off a server which has the program's modules loaded, so that a SIGKILL costs no start.
"""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

MODULES = (
    "apache_beam.runners.portability.fn_api_runner", "pipeline.cli", "pipeline.graph", "pipeline.lock",
    "pipeline.progress", "pipeline.results", "pipeline.run", "pipeline.show", "pyarrow.dataset",
    "transforms.explain",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Where a fault strikes: at an operation of the system on a path, or at a call.

    Args:
      what: An audit event ("open", "os.rename", …), or "before module:function", or "after module:function".
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
    if point is not None and event == point.what and re.search(f"(?:{point.path})$", path):
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
    from pipeline import cli

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
