"""Scanning an uncompressed TFRecord file in many places at once, with the result of one scan of all of it.

Each range of the file begins at a record that is found by its length's checksum. It may be one within
another's payload, so the ranges are joined from the first one on: what a range found counts from the first
offset on at which the rows before it arrive, and up to there the file is read on.
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
class _Found:
    """Rows that begin in a range and follow one another.

    Args:
      offsets: Where they begin.
      blocks: As `tally.walk` gives them.
      following: Where the row behind them begins; None where that is not known, or there is none.
      ended: Whether they go up to the file's end.
    """

    offsets: list[int] = field(default_factory=list)
    blocks: bytearray = field(default_factory=bytearray)
    following: int | None = None
    ended: bool = False


def scan(open_file: Callable[[], BinaryIO], size: int, threads: int, range_bytes: int | None = None) -> Scan:
    """As `tally.scan` of the same file, to the bit, whatever the ranges.

    Args:
      open_file: Opens the file, which can seek and is not compressed.
      size: Its bytes.
      threads: Ranges that are scanned at a time.
      range_bytes: Bytes of each; RANGE_BYTES by default.
    Cost: that of `tally.scan`, and of searching for a record a range; where two ranges do not join, of
      reading on from one to the other. Memory of the offsets of the records in 2 · `threads` ranges.
    """
    tally = Tally()
    entry: int | None = 0  # where the row after those counted begins; None: not known
    ended = False
    with open_file() as file:
        source = Source(file, size)
        for end, found in _ranges(open_file, size, threads, range_bytes or RANGE_BYTES):
            if ended or (entry is not None and entry >= end):
                continue
            at = _place(found.offsets, entry)
            if at is None:
                at, entry, ended = _read_on(source, tally, entry, end, found.offsets)
            if at is not None:
                tally.add(found.offsets[at:], bytes(found.blocks[BLOCK * at :]))
                entry, ended = found.following, found.ended
        if not ended:
            _read_on(source, tally, entry, size, ())
        return tally.finish(source)


def _ranges(
    open_file: Callable[[], BinaryIO], size: int, threads: int, range_bytes: int
) -> Iterator[tuple[int, _Found]]:
    """The end of each range, in order, and what was found in it."""
    waiting: deque[tuple[int, Future[_Found]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, size, range_bytes):
            end = min(size, begin + range_bytes)
            waiting.append((end, pool.submit(_scan_range, open_file, size, begin, end)))
            if len(waiting) >= 2 * threads:
                end, found = waiting.popleft()
                yield end, found.result()
        for end, found in waiting:
            yield end, found.result()


def _scan_range(open_file: Callable[[], BinaryIO], size: int, begin: int, end: int) -> _Found:
    found = _Found()
    with open_file() as file:
        source = Source(file, size)
        # A damaged stretch that goes on for many ranges is searched once, by the join, and not by each.
        source.stop = end
        try:
            first = resynchronise(source, begin) if begin else 0
            if first is None or first >= end:
                return found
            for offsets, blocks in walk(source, first):
                count = bisect_left(offsets, end)
                found.offsets += offsets[:count]
                found.blocks += blocks[: BLOCK * count]
                if count < len(offsets):
                    found.following = offsets[count]
                    return found
        except GivenUp:
            return found
        found.ended = True
    return found


def _read_on(
    source: Source, tally: Tally, entry: int | None, end: int, offsets: Sequence[int]
) -> tuple[int | None, int | None, bool]:
    """Counts rows from `entry`, or behind the last one, until one is at one of the offsets or from `end` on.

    Returns:
      Its place among the offsets if it is one of them, where it begins, and whether there is none.
    """
    counted = tally.last if entry is None else -1
    for found, blocks in walk(source, max(0, counted) if entry is None else entry):
        begin = int(found[:1] == [counted])
        for number in range(begin, len(found)):
            at = _place(offsets, found[number])
            if at is not None or found[number] >= end:
                tally.add(found[begin:number], blocks[BLOCK * begin : BLOCK * number])
                return at, found[number], False
        tally.add(found[begin:], blocks[BLOCK * begin :])
    return None, None, True


def _place(offsets: Sequence[int], offset: int | None) -> int | None:
    if offset is None:
        return None
    at = bisect_left(offsets, offset)
    return at if at < len(offsets) and offsets[at] == offset else None
