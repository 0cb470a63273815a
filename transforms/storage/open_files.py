"""Open files kept from one piece to the next.

A shard often begins in the middle of what cannot be entered midway: a gzip stream, a row group. Reading it
from there would decompress or decode all that precedes it, for every shard again. A process that reads
shards in order goes on where it stopped instead.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Cursor(Protocol):
    """A position in an open file."""

    def reaches(self, row: int) -> bool:
        """Whether going on to this row costs less than beginning anew."""

    def close(self) -> None:
        """Closes the file."""


C = TypeVar("C", bound=Cursor)


class Parking(Generic[C]):
    """Cursors that nobody reads from, at most `places`; safe for threads.

    A cursor is found again under an equal key only, which holds all that it depends on, the file's stamp
    included.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._cursors: dict[Hashable, C] = {}
        self._lock = threading.Lock()
        atexit.register(self.clear)

    def park(self, key: Hashable, cursor: C) -> None:
        """Keeps a cursor for the next piece; the oldest one is closed where there is no place."""
        with self._lock:
            surplus = [self._cursors.pop(key)] if key in self._cursors else []
            self._cursors[key] = cursor
            while len(self._cursors) > self._places:
                surplus.append(self._cursors.pop(next(iter(self._cursors))))
        for one in surplus:
            one.close()

    def clear(self) -> None:
        """Closes all that is parked."""
        with self._lock:
            surplus = list(self._cursors.values())
            self._cursors.clear()
        for one in surplus:
            one.close()

    def fetch(self, key: Hashable, row: int) -> C | None:
        """A parked cursor that can go on to `row`, which is the caller's from now on."""
        with self._lock:
            if key in self._cursors and self._cursors[key].reaches(row):
                return self._cursors.pop(key)
        return None
