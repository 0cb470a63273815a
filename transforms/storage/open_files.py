"""Open files that are kept from one piece of an input file to the next piece.

A shard often begins in the middle of a gzip stream or a row group, and these can only be read from their
start. Each shard would have to decompress or decode all rows before its own rows. Instead, a process that
reads shards in order keeps the file open, and continues where it stopped.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Cursor(Protocol):
    """A position in an open file."""

    def reaches(self, row: int) -> bool:
        """True if it costs less to move on to this row than to open the file again."""

    def close(self) -> None:
        """Closes the file."""


C = TypeVar("C", bound=Cursor)


class IdleCursors(Generic[C]):
    """Cursors that are not in use, kept for the next piece; safe for threads.

    The key of a cursor must hold everything that the cursor depends on, including the file's stamp.

    Args:
      most: Maximum number of cursors to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._cursors: dict[Hashable, C] = {}
        self._lock = threading.Lock()
        atexit.register(self.clear)

    def keep(self, key: Hashable, cursor: C) -> None:
        """Keeps a cursor for the next piece; closes the oldest cursors if there are more than `most`."""
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
        """Removes and returns the cursor of this key if it can move on to `row`; else returns None."""
        with self._lock:
            if key in self._cursors and self._cursors[key].reaches(row):
                return self._cursors.pop(key)
        return None
