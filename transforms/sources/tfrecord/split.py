"""Scanning ranges of an uncompressed TFRecord file in parallel, with the same result as one scan of it all.

In each range the first record is found by its length's checksum. This may be a record inside another record's
payload, so ranges are joined from the first one on: a range's rows count from the first offset that the rows
before it lead to, and up to that offset the file is read sequentially.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

from transforms.sources.tfrecord.framing import BLOCK, GivenUp, Source, resynchronise
from transforms.sources.tfrecord.tally import Scan, Tally, walk

#: Bytes of a range.
RANGE_BYTES = 32 << 20


@dataclass
class _RangeRows:
    """Consecutive rows that begin in a range.

    Args:
      offsets: Where they begin.
      blocks: Their blocks from `tally.walk`.
      following: Where the next row begins; None where that is unknown, or they are the last.
      ended: Whether they reach the file's end.
    """

    offsets: list[int] = field(default_factory=list)
    blocks: bytearray = field(default_factory=bytearray)
    following: int | None = None
    ended: bool = False


def scan(open_file: Callable[[], BinaryIO], size: int, threads: int, range_bytes: int | None = None) -> Scan:
    """Scans a file in parallel ranges; the result equals `tally.scan`, to the bit, whatever the ranges.

    Args:
      open_file: Opens the file, which can seek and is not compressed.
      size: The file's size in bytes.
      threads: Ranges scanned at a time.
      range_bytes: Bytes of a range; RANGE_BYTES by default.
    Cost: as `tally.scan`, plus a search for a record in each range; where two ranges do not join, reading on
      from one to the other. Memory of the offsets of the records in 2 · `threads` ranges.
    """
    tally = Tally()
    entry: int | None = 0  # where the row after those counted begins; None: not known
    ended = False
    with open_file() as file:
        source = Source(file, size)
        for end, rows in _ranges(open_file, size, threads, range_bytes or RANGE_BYTES):
            if ended or (entry is not None and entry >= end):
                continue
            place = _place(rows.offsets, entry)
            if place is None:
                place, entry, ended = _read_on(source, tally, entry, end, rows.offsets)
            if place is not None:
                tally.add(rows.offsets[place:], bytes(rows.blocks[BLOCK * place :]))
                entry, ended = rows.following, rows.ended
        if not ended:
            _read_on(source, tally, entry, size, ())
        return tally.finish(source)


def _ranges(
    open_file: Callable[[], BinaryIO], size: int, threads: int, range_bytes: int
) -> Iterator[tuple[int, _RangeRows]]:
    """The end of each range, in order, with the rows found in it."""
    waiting: deque[tuple[int, Future[_RangeRows]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, size, range_bytes):
            end = min(size, begin + range_bytes)
            waiting.append((end, pool.submit(_scan_range, open_file, size, begin, end)))
            if len(waiting) >= 2 * threads:
                end, future = waiting.popleft()
                yield end, future.result()
        for end, future in waiting:
            yield end, future.result()


def _scan_range(open_file: Callable[[], BinaryIO], size: int, begin: int, end: int) -> _RangeRows:
    rows = _RangeRows()
    with open_file() as file:
        source = Source(file, size)
        # A damaged stretch that spans many ranges is searched once, when they are joined, not by each range.
        source.stop = end
        try:
            first = resynchronise(source, begin) if begin else 0
            if first is None or first >= end:
                return rows
            for offsets, blocks in walk(source, first):
                count = bisect_left(offsets, end)
                rows.offsets += offsets[:count]
                rows.blocks += blocks[: BLOCK * count]
                if count < len(offsets):
                    rows.following = offsets[count]
                    return rows
        except GivenUp:
            return rows
        rows.ended = True
    return rows


def _read_on(
    source: Source, tally: Tally, entry: int | None, end: int, offsets: Sequence[int]
) -> tuple[int | None, int | None, bool]:
    """Counts rows from `entry`, or after the last one, until a row is at one of the offsets or past `end`.

    Returns:
      That row's index among the offsets (None if it is not one of them), its offset, and True instead of both
      if the file ended first.
    """
    counted = tally.last if entry is None else -1
    for begins, blocks in walk(source, max(0, counted) if entry is None else entry):
        begin = int(begins[:1] == [counted])
        for number in range(begin, len(begins)):
            place = _place(offsets, begins[number])
            if place is not None or begins[number] >= end:
                tally.add(begins[begin:number], blocks[BLOCK * begin : BLOCK * number])
                return place, begins[number], False
        tally.add(begins[begin:], blocks[BLOCK * begin :])
    return None, None, True


def _place(offsets: Sequence[int], offset: int | None) -> int | None:
    if offset is None:
        return None
    at = bisect_left(offsets, offset)
    return at if at < len(offsets) and offsets[at] == offset else None
