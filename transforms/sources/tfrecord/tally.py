"""Counting the rows of a TFRecord file: where they begin, and a digest of them, from their headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transforms.sources.base import INDEX_STRIDE
from transforms.sources.tfrecord.framing import (
    BLOCK,
    FOOTER,
    HEADER,
    MOST_LENGTHS,
    Source,
    frames,
    header_length,
)
from transforms.storage.digests import new_digest


@dataclass(frozen=True)
class Scan:
    """What one pass over the headers of a file found."""

    rows: int
    index: tuple[int, ...]  # offset of every INDEX_STRIDE-th row; () where a file cannot be entered midway
    digest: str = ""  # as Tally says


class Tally:
    """Counts rows, notes where every INDEX_STRIDE-th begins, and makes a digest of them.

    The digest is BLAKE2b-256 over each row's length with its checksum, the four bytes before them, which are
    the checksum of the payload before, and the size; of a damaged row, over its offset. It catches records
    that are added, lost, moved or changed, because a payload's checksum changes with it. It does not catch a
    payload changed without its checksum, whose row is rejected, nor what lies in a damaged stretch, nor a
    change of the last record before one. Of a compressed file it is that of the content.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.last = -1  # the offset of the row that was added last
        self._index: list[int] = []
        self._header = b""  # of that row
        self._digest = new_digest()

    def add(self, offsets: Sequence[int], blocks: bytes) -> None:
        """Adds rows that begin at these offsets; `blocks` as `walk` gives them."""
        if offsets:
            self._index += offsets[-self.rows % INDEX_STRIDE :: INDEX_STRIDE]
            self.rows += len(offsets)
            self.last = offsets[-1]
            self._header = blocks[-HEADER:]
            self._digest.update(blocks)

    def finish(self, source: Source) -> Scan:
        """What was found, `source` being able to read the end of the row that was added last."""
        length = header_length(self._header)
        end = self.last + HEADER + length + FOOTER
        if length >= 0 and end <= source.end:
            self._digest.update(source.read(end - FOOTER, FOOTER))
        self._digest.update(source.end.to_bytes(8, "little"))
        return Scan(self.rows, () if source.compressed else tuple(self._index), self._digest.hexdigest())


def scan(source: Source) -> Scan:
    """Counts the rows of a file and notes where every INDEX_STRIDE-th begins; reads headers only.

    Cost: ~0.25 µs a record; memory of two records and the offsets of a chunk's.
    """
    tally = Tally()
    for offsets, blocks in walk(source):
        tally.add(offsets, blocks)
    return tally.finish(source)


def walk(source: Source, offset: int = 0) -> Iterator[tuple[list[int], bytes]]:
    """The offsets of `frames(source, offset)`, many at a time, and BLOCK bytes of each row, put together.

    They are its header and the four bytes before it; of a damaged row, its offset. Sound records within the
    window follow one another here without a generator's step each; whatever is not so simple is left to
    `frames`.
    """
    lengths: dict[bytes, int] = {}
    following = frames(source, offset)
    while True:
        offsets: list[int] = []
        blocks: list[bytes] = []
        length = -1
        for at, size, damage in following:
            offsets.append(at)
            length = size
            if damage is None:
                before = max(0, at - FOOTER)
                blocks.append(source.read(before, at - before + HEADER).rjust(BLOCK, b"\0"))
                break
            # A stream has passed it by now.
            blocks.append(at.to_bytes(8, "little").ljust(BLOCK, b"\0"))
        else:
            yield offsets, b"".join(blocks)
            return
        source.expect(length)
        data, base = source.window
        last, here, size = at - base, at - base + HEADER + length + FOOTER, len(data)
        while here < size:
            block = data[here - FOOTER : here + HEADER]
            header = block[FOOTER:]
            found = lengths.get(header)
            if found is None:
                found = header_length(header)
                if found < 0:
                    break
                if len(lengths) < MOST_LENGTHS:
                    lengths[header] = found
            end = here + HEADER + found + FOOTER
            if end > size:
                break
            offsets.append(here + base)
            blocks.append(block)
            last, here = here, end
        yield offsets, b"".join(blocks)
        # Beginning at the last one again, `frames` knows what comes before whatever is next.
        following = frames(source, last + base)
        next(following)
