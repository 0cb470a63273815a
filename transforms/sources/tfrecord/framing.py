"""TFRecord framing: where records begin and end, also in damaged and compressed files. Knows no TensorFlow.

A record is its length (u64, little-endian), the masked CRC32C of those 8 bytes, the payload, and the
payload's masked CRC32C. Because the length has its own checksum, the next record can be found again after
damage. Planning counts rows and reading reads them by the same iterator, `frames`, so the two agree on
every file.
Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import google_crc32c
import numpy as np

HEADER = 12
FOOTER = 4
BLOCK = FOOTER + HEADER
MAX_LENGTH = 2**31 - 1  # protocol buffers end here, so a longer length is damage

# (offset of the header, length of the payload, None or why it cannot be read); a damaged stretch is one
# frame.
Frame: TypeAlias = tuple[int, int, str | None]

_CHUNK = 1 << 20
_FAR = 1 << 18  # beyond this length of a record, jumping to the next header beats reading on
_HEADER_CHUNK = 1 << 12
MOST_LENGTHS = 4096  # that are remembered
_DEFLATED = 1 << 16
_INFLATED = 1 << 20
_GZIP = b"\x1f\x8b"
_GZIP_WBITS, _ZLIB_WBITS = 31, 15
_MASK_DELTA = 0xA282EAD8
# A length below 2^31 has four zero bytes on top. Eight in a row are not followed by a checksum, whose value
# for a length of zero is not zero.
_UPPER_LENGTH = re.compile(rb"\0\0\0\0(?!\0\0\0\0)")


@dataclass(frozen=True)
class Records:
    """Consecutive rows of a file."""

    rows: int  # whole or damaged
    payloads: list[bytes]
    positions: list[int]  # of each payload among the rows, from 0
    damaged: list[tuple[int, str]]  # (position, reason)


def masked_crc32c(data: bytes) -> int:
    """The checksum that TFRecord stores: CRC32C, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def encode(payload: bytes) -> bytes:
    """A payload as a TFRecord."""
    length = len(payload).to_bytes(8, "little")
    sums = [masked_crc32c(part).to_bytes(FOOTER, "little") for part in (length, payload)]
    return b"".join((length, sums[0], payload, sums[1]))


def header_length(header: bytes) -> int:
    """The payload's length that a header states; −1 where it is not a sound header."""
    length = int.from_bytes(header[:8], "little")
    if len(header) < HEADER or length > MAX_LENGTH:
        return -1
    return length if masked_crc32c(header[:8]) == int.from_bytes(header[8:HEADER], "little") else -1


class GivenUp(Exception):
    """A search came to where its Source says to stop."""


class Source:
    """The uncompressed bytes of a file by absolute offset, read forward through a window.

    The window moves with the reads, so memory is a chunk and the longest records. A file is read rather
    than mapped: mapped pages count as the process's memory, and a file that shrinks while it is mapped
    kills the process.

    Args:
      file: Positioned at its beginning. Gzip and zlib are told by its first bytes, whatever the name.
      plain_size: The bytes of a file that can seek and is known not to be compressed.
    """

    def __init__(self, file: BinaryIO, plain_size: int | None = None) -> None:
        self.stop: int | None = None  # a search for the next record that comes to here is given up
        self.keep = 0  # a stream cannot go back: bytes from here on are kept
        self._chunk = _CHUNK
        self.broken: str | None = None  # why a compressed stream ends before its time
        self._file = file
        self._base = 0  # absolute offset of _data[0]
        head = file.read(HEADER) if plain_size is None else b""
        # A plain file may begin with gzip's two bytes too, in the length of its first record: the checksum
        # decides.
        wbits = _compression(head) if header_length(head) < 0 else 0
        self.compressed = wbits != 0
        self._inflated = _inflate(self, file, head, wbits) if self.compressed else None
        self._data = b"" if self.compressed else head
        self._seekable = plain_size is not None or (not self.compressed and file.seekable())
        self.end = len(self._data)  # the file reaches at least to here; all of it where its size can be known
        if plain_size is not None:
            self.end = plain_size
        elif self._seekable:
            self.end = file.seek(0, 2)
            file.seek(len(head))

    def expect(self, length: int) -> None:
        """Says how long the next records are likely to be: the payloads of long ones are jumped over."""
        self._chunk = _HEADER_CHUNK if length > _FAR else _CHUNK

    def close(self) -> None:
        """Closes the file beneath."""
        self._file.close()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer only where the file ends."""
        at = offset - self._base
        if at < 0 or at + count > len(self._data):
            self._load(offset, offset + count)
            at = offset - self._base
        return self._data[at : at + count]

    @property
    def splittable(self) -> bool:
        """Whether the file can be entered anywhere."""
        return self._seekable

    @property
    def window(self) -> tuple[bytes, int]:
        """The bytes that are at hand, and the offset of the first of them."""
        return self._data, self._base

    def reaches(self, begin: int, end: int) -> bool:
        """Whether the file has all the bytes of `[begin, end)`; once it has said no, `end` is the file's."""
        if end > self.end and not self._seekable:
            self._load(begin, end)
        return end <= self.end

    def find(self, begin: int) -> int | None:
        """The first offset from `begin` on that may hold a header, going by its zero bytes alone.

        Raises:
          GivenUp: There is none before `stop`.
        """
        while True:
            if self.stop is not None and begin >= self.stop:
                raise GivenUp
            match = _UPPER_LENGTH.search(self._data, max(0, begin + 4 - self._base))
            if match:
                return match.start() + self._base - 4
            end = self._base + len(self._data)
            begin = max(begin, end - 7)  # the four zero bytes may straddle the window's end
            self._load(begin, max(begin, end) + HEADER)
            if self._base + len(self._data) <= end:
                return None

    def _load(self, begin: int, end: int) -> None:
        """Moves the window to cover `[begin, end)`, as far as the file goes."""
        have = self._base + len(self._data)
        low = begin if self._seekable else min(begin, self.keep)
        if low >= self._base or self._seekable:
            # Before a header stands the checksum that ends the record before it.
            low = max(0 if self._seekable else self._base, low - FOOTER)
        if low < self._base or low > have:
            if not self._seekable:
                raise ValueError(f"offset {low} lies outside of the window {self._base}..{have} of a stream")
            self._file.seek(low)
            self._data, self._base, have = b"", low, low
        pieces = [self._data[low - self._base :]]
        # Reading at least as much as is kept makes the copying of a long record linear in its length.
        want = max(end - have, self._chunk, len(pieces[0]))
        while want > 0:
            piece = self._file.read(want) if self._inflated is None else next(self._inflated, b"")
            if not piece:
                break
            pieces.append(piece)
            want -= len(piece)
        self._data, self._base = b"".join(pieces), low
        self.end = max(self.end, low + len(self._data))


def frames(source: Source, offset: int = 0) -> Iterator[Frame]:
    """The rows of a file from the frame at `offset` on: one a record or damaged stretch, payloads unchecked.

    Beginning at any frame's offset gives the same frames as beginning at 0. After a damaged length the next
    frame is the first offset with a sound header whose record is followed by another sound header or the
    file's end, or has a sound payload, or is cut short by the file's end. A record that was cut short in
    mid-file swallows the beginning of those behind it; they are searched for from its own header on.

    Cost: ~0.5 µs a record; memory of two records.
    """
    lengths: dict[bytes, int] = {}  # equal headers say equal lengths: most files have few distinct ones
    previous, previous_length = -1, 0
    source.keep = offset
    while True:
        header = source.read(offset, HEADER)
        length = lengths.get(header)
        if length is None:
            if not header:
                break
            length = header_length(header)
            if length < 0:
                swallowing = previous >= 0 and not _is_sound(source, previous, previous_length)
                found = _resynchronise(source, (previous if swallowing else offset) + 1, cut_short=True)
                if found is None or found > offset:
                    yield offset, 0, _header_damage(header, source)
                if found is None:
                    return
                offset, previous = found, -1
                continue
            if len(lengths) < MOST_LENGTHS:
                lengths[header] = length
        end = offset + HEADER + length + FOOTER
        if end > source.end and not source.reaches(offset, end):
            yield offset, 0, _truncation(source, offset, length)
            found = _resynchronise(source, offset + 1, cut_short=False)
            if found is None:
                return
            offset, previous = found, -1
            continue
        yield offset, length, None
        previous, previous_length = offset, length
        source.keep = offset
        offset = end
    if source.broken:
        yield offset, 0, source.broken


def resynchronise(source: Source, begin: int) -> int | None:
    """The offset of a record from `begin` on: of the file, or of one that is the content of a record.

    Raises:
      GivenUp: There is none before the source's `stop`.
    """
    return _resynchronise(source, begin, cut_short=False)


def take(source: Source, following: Iterator[Frame], rows: int, max_bytes: int) -> Records:
    """The next rows with their payloads, checksums checked.

    Args:
      source: What the frames are of.
      following: `frames(source, …)`, which is moved on.
      rows: At most so many.
      max_bytes: Ends after the row with which the payloads reach this size.
    """
    payloads: list[bytes] = []
    positions: list[int] = []
    footers: list[bytes] = []
    damaged: list[tuple[int, str]] = []
    count = held = 0
    read = source.read
    while count < rows and held < max_bytes:
        frame = next(following, None)
        if frame is None:
            break
        offset, length, damage = frame
        if damage is None:
            record = read(offset + HEADER, length + FOOTER)
            payloads.append(record[:length])
            footers.append(record[length:])
            positions.append(count)
            held += length
        else:
            damaged.append((count, damage))
        count += 1
    stored = np.frombuffer(b"".join(footers), "<u4")
    crc = np.fromiter(map(google_crc32c.value, payloads), np.uint32, len(payloads))
    wrong = np.flatnonzero((crc >> 15 | crc << 17) + np.uint32(_MASK_DELTA) != stored)
    if len(wrong):
        damaged += [(positions[i], "payload checksum does not match") for i in wrong]
        damaged.sort()
        sound = sorted(set(range(len(payloads))) - set(wrong.tolist()))
        payloads = [payloads[i] for i in sound]
        positions = [positions[i] for i in sound]
    return Records(count, payloads, positions, damaged)


def _resynchronise(source: Source, begin: int, cut_short: bool) -> int | None:
    """The offset of the next frame from `begin` on; `cut_short` also takes one that the file's end cuts."""
    source.keep = begin
    while (candidate := source.find(begin)) is not None:
        source.keep = candidate
        length = header_length(source.read(candidate, HEADER))
        if length >= 0:
            end = candidate + HEADER + length + FOOTER
            if source.reaches(candidate, end):
                # Sound by chance is one header in 2^32: in gigabytes of damage a second witness is wanted.
                following = source.read(end, HEADER)
                if not following or header_length(following) >= 0 or _is_sound(source, candidate, length):
                    return candidate
            elif cut_short:
                return candidate
        begin = candidate + 1
    return None


def _is_sound(source: Source, offset: int, length: int) -> bool:
    record = source.read(offset + HEADER, length + FOOTER)
    return masked_crc32c(record[:length]) == int.from_bytes(record[length:], "little")


def _header_damage(header: bytes, source: Source) -> str:
    if len(header) < HEADER:
        return _because(f"record is truncated: {len(header)} of {HEADER} header bytes", source)
    return "record length is corrupt"


def _truncation(source: Source, offset: int, length: int) -> str:
    have = max(0, source.end - offset - HEADER)
    if have >= length:
        return _because("record is truncated: its checksum is cut off", source)
    return _because(f"record is truncated: {have} of {length} bytes", source)


def _because(reason: str, source: Source) -> str:
    return f"{reason}; {source.broken}" if source.broken else reason


def _compression(head: bytes) -> int:
    """Zlib's `wbits` for a file that begins so: of gzip or of a zlib stream; 0: it is not compressed."""
    if head.startswith(_GZIP):
        return _GZIP_WBITS
    # Deflate, a window of at most 32 KiB, no preset dictionary, and a check of these two bytes; a record's
    # length may pass it too, and then what follows is no deflated block.
    if len(head) < 3 or head[0] & 0x8F != 8 or head[1] & 0x20 or int.from_bytes(head[:2], "big") % 31:
        return 0
    try:
        zlib.decompressobj(_ZLIB_WBITS).decompress(head)
    except zlib.error:
        return 0
    return _ZLIB_WBITS


def _inflate(source: Source, file: BinaryIO, head: bytes, wbits: int) -> Iterator[bytes]:
    """The content of compressed members; of a damaged one what can be had, and then why it is broken."""
    pending = head
    while True:
        # Zero bytes between and after members are padding, as gzip itself takes them.
        while not (pending := pending.lstrip(b"\0")):
            pending = file.read(_DEFLATED)
            if not pending:
                return
        member = zlib.decompressobj(wbits)
        while not member.eof:
            pending = pending or file.read(_DEFLATED)
            if not pending:
                source.broken = "compressed stream ends early"
                yield member.flush()
                return
            before = member.copy()
            try:
                piece = member.decompress(pending, _INFLATED)
            except zlib.error:
                source.broken = "compressed stream is corrupt"
                yield _salvage(before, pending)
                return
            pending = member.unconsumed_tail
            if piece:
                yield piece
        pending = member.unused_data


def _salvage(member: zlib._Decompress, data: bytes) -> bytes:
    """What comes out before the byte that is wrong: zlib throws away the output of a call that fails."""
    pieces = []
    for at in range(len(data)):
        try:
            pieces.append(member.decompress(data[at : at + 1]))
        except zlib.error:
            break
    return b"".join(pieces)
