"""What workers did, by their own account: started, loaded a model, began a shard, committed a shard."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

START, MODEL, BEGIN, COMMIT = "start", "model", "begin", "commit"


@dataclass(frozen=True)
class Event:
    """Something that a worker did.

    Args:
      at: Seconds since the epoch.
      spent: Seconds of processor time that its process had used.
      worker: Its process.
      parent: The process that started it: its TaskManager.
      what: START, MODEL (a file of one), BEGIN (a shard's progress is opened), COMMIT (its journal is).
      path: Of the file.
    """

    at: float
    spent: float
    worker: int
    parent: int
    what: str
    path: str = ""

    @property
    def shard(self) -> int:
        return int(Path(self.path).stem)


def write_to(folder: str) -> None:
    """Has this process tell what it does, in a file of its own, from now on."""
    out = os.open(os.path.join(folder, f"{os.getpid()}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    parent = os.getppid()  # another one takes its children over when it is killed

    def tell(what: str, path: str = "") -> None:
        event = Event(time.time(), time.process_time(), os.getpid(), parent, what, path)
        os.write(out, json.dumps(asdict(event)).encode() + b"\n")

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            path = arguments[0]
            if isinstance(path, str) and path.endswith(".keras"):
                tell(MODEL, path)
            elif isinstance(path, str) and "/_work/progress/" in path:
                tell(BEGIN, path)
        elif name == "os.rename" and str(arguments[1]).endswith(".done"):
            tell(COMMIT, str(arguments[1]))

    tell(START)
    sys.addaudithook(hook)


def read(folder: Path, since: float = 0.0) -> list[Event]:
    """What happened since, in order."""
    return sorted((e for e in _events(folder) if e.at >= since), key=lambda event: event.at)


def _events(folder: Path) -> Iterator[Event]:
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield Event(**json.loads(line))
