"""Open files kept from one piece to the next.

A shard often begins in the middle of a gzip stream or a row group, which can only be read from its start.
Every shard would then decompress or decode all the rows before its own. Instead, a process that reads shards
in order continues where it stopped.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Cursor(Protocol):
    """A position in an open file."""

    def reaches(self, row: int) -> bool:
        """True if moving on to this row costs less than opening the file anew."""

    def close(self) -> None:
        """Closes the file."""


C = TypeVar("C", bound=Cursor)


class IdleCursors(Generic[C]):
    """Cursors that are not in use, kept for the next piece; safe for threads.

    A cursor's key holds all that it depends on, including the file's stamp.

    Args:
      most: How many cursors to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._cursors: dict[Hashable, C] = {}
        self._lock = threading.Lock()
        atexit.register(self.clear)

    def keep(self, key: Hashable, cursor: C) -> None:
        """Keeps a cursor for the next piece; the oldest ones are closed if there are too many."""
        with self._lock:
            surplus = [self._cursors.pop(key)] if key in self._cursors else []
            self._cursors[key] = cursor
            while len(self._cursors) > self._most:
                surplus.append(self._cursors.pop(next(iter(self._cursors))))
        for one in surplus:
            one.close()

    def clear(self) -> None:
        """Closes all cursors."""
        with self._lock:
            surplus = list(self._cursors.values())
            self._cursors.clear()
        for one in surplus:
            one.close()

    def fetch(self, key: Hashable, row: int) -> C | None:
        """Hands over a cursor of this key that can move on to `row`; None if there is none."""
        with self._lock:
            if key in self._cursors and self._cursors[key].reaches(row):
                return self._cursors.pop(key)
        return None
