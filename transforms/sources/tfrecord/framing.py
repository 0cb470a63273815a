"""TFRecord framing without TensorFlow: where records begin and end, even in damaged and compressed files.

A record is its length (u64, little-endian), the masked CRC32C of those 8 bytes, the payload, and the
payload's masked CRC32C. Because the length has its own checksum, the next record can be found again after
damage. Planning counts rows with the same iterator, `frames`, with which reading reads them, so the two agree
on every file.
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

# (offset of the header, length of the payload, damage or None); a damaged stretch is one frame.
Frame: TypeAlias = tuple[int, int, str | None]

_CHUNK = 1 << 20
_FAR = 1 << 18  # for longer records, jumping to the next header is faster than reading on
_HEADER_CHUNK = 1 << 12
MOST_LENGTHS = 4096  # headers whose lengths are cached
_DEFLATED = 1 << 16
_INFLATED = 1 << 20
_GZIP = b"\x1f\x8b"
_GZIP_WBITS, _ZLIB_WBITS = 31, 15
_MASK_DELTA = 0xA282EAD8
# The upper four bytes of a length below 2^31 are zero. The look-ahead excludes eight zero bytes in a row: the
# bytes after the length are its checksum, which is never zero for a length of zero.
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
    """The payload's length from a header; −1 where the header is not sound."""
    length = int.from_bytes(header[:8], "little")
    if len(header) < HEADER or length > MAX_LENGTH:
        return -1
    return length if masked_crc32c(header[:8]) == int.from_bytes(header[8:HEADER], "little") else -1


class GivenUp(Exception):
    """Raised when a search for a record reaches its Source's `stop`."""


class Source:
    """The uncompressed bytes of a file by absolute offset, read forward through a window.

    The window moves with the reads, so memory is a chunk and the longest records. A file is read rather
    than mapped: mapped pages count as the process's memory, and a file that shrinks while it is mapped
    kills the process.

    Args:
      file: Positioned at its beginning. Gzip and zlib are recognised by its first bytes, whatever the name.
      plain_size: Size in bytes of a file that can seek and is known not to be compressed.
    """

    def __init__(self, file: BinaryIO, plain_size: int | None = None) -> None:
        self.stop: int | None = None  # a search for the next record is given up at this offset
        self.keep = 0  # a stream cannot go back, so bytes from this offset on are kept
        self._chunk = _CHUNK
        self.broken: str | None = None  # why a compressed stream ends prematurely
        self._file = file
        self._base = 0  # absolute offset of _data[0]
        head = file.read(HEADER) if plain_size is None else b""
        # The length of a plain file's first record may equal gzip's magic bytes: its checksum decides.
        wbits = _compression(head) if header_length(head) < 0 else 0
        self.compressed = wbits != 0
        self._inflated = _inflate(self, file, head, wbits) if self.compressed else None
        self._data = b"" if self.compressed else head
        self._seekable = plain_size is not None or (not self.compressed and file.seekable())
        self.end = len(self._data)  # the file's size, if known; else a lower bound
        if plain_size is not None:
            self.end = plain_size
        elif self._seekable:
            self.end = file.seek(0, 2)
            file.seek(len(head))

    def expect(self, length: int) -> None:
        """Takes the likely length of the next records: long payloads are then jumped over, not read."""
        self._chunk = _HEADER_CHUNK if length > _FAR else _CHUNK

    def close(self) -> None:
        """Closes the underlying file."""
        self._file.close()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer only where the file ends."""
        begin = offset - self._base
        if begin < 0 or begin + count > len(self._data):
            self._load(offset, offset + count)
            begin = offset - self._base
        return self._data[begin : begin + count]

    @property
    def splittable(self) -> bool:
        """True if reading can start anywhere in the file."""
        return self._seekable

    @property
    def window(self) -> tuple[bytes, int]:
        """The buffered bytes, and the offset of the first of them."""
        return self._data, self._base

    def reaches(self, begin: int, end: int) -> bool:
        """True if the file has all the bytes of `[begin, end)`; else `self.end` is now its size."""
        if end > self.end and not self._seekable:
            self._load(begin, end)
        return end <= self.end

    def find(self, begin: int) -> int | None:
        """The first offset from `begin` on that may hold a header, judged only by a length's zero bytes.

        Raises:
          GivenUp: The search reached `stop`.
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
            # Keep the four bytes before the header too: the checksum that ends the previous record.
            low = max(0 if self._seekable else self._base, low - FOOTER)
        if low < self._base or low > have:
            if not self._seekable:
                raise ValueError(f"offset {low} lies outside of the window {self._base}..{have} of a stream")
            self._file.seek(low)
            self._data, self._base, have = b"", low, low
        pieces = [self._data[low - self._base :]]
        # Reading at least as many bytes as are kept makes the cost of copying linear in a record's length.
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
    """The rows of a file from the frame at `offset` on, a record or damaged stretch each; payloads unchecked.

    Beginning at any frame's offset gives the same frames as beginning at 0. After a damaged length the next
    frame is at the first sound header whose record is followed by another sound header or the file's end, or
    has a sound payload, or is cut short by the file's end. A record that is cut short in mid-file seems to
    contain the beginning of the records behind it, so these are searched for from its own header on.

    Cost: ~0.5 µs per record; memory of two records.
    """
    lengths: dict[bytes, int] = {}  # equal headers mean equal lengths, and most files have few distinct ones
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
                next_offset = _resynchronise(source, (previous if swallowing else offset) + 1, cut_short=True)
                if next_offset is None or next_offset > offset:
                    yield offset, 0, _header_damage(header, source)
                if next_offset is None:
                    return
                offset, previous = next_offset, -1
                continue
            if len(lengths) < MOST_LENGTHS:
                lengths[header] = length
        end = offset + HEADER + length + FOOTER
        if end > source.end and not source.reaches(offset, end):
            yield offset, 0, _truncation(source, offset, length)
            next_offset = _resynchronise(source, offset + 1, cut_short=False)
            if next_offset is None:
                return
            offset, previous = next_offset, -1
            continue
        yield offset, length, None
        previous, previous_length = offset, length
        source.keep = offset
        offset = end
    if source.broken:
        yield offset, 0, source.broken


def resynchronise(source: Source, begin: int) -> int | None:
    """The offset of the next record from `begin` on; it may be a record inside another record's payload.

    Raises:
      GivenUp: The search reached the source's `stop`.
    """
    return _resynchronise(source, begin, cut_short=False)


def take(source: Source, following: Iterator[Frame], rows: int, max_bytes: int) -> Records:
    """Reads the next rows with their payloads, and verifies the payloads' checksums.

    Args:
      source: The file that the frames are in.
      following: `frames(source, …)`, from which the rows are taken.
      rows: The most rows to take.
      max_bytes: Stops after the row with which the payloads reach this size.
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
    """The offset of the next frame from `begin` on; `cut_short` also accepts one cut by the file's end."""
    source.keep = begin
    while (candidate := source.find(begin)) is not None:
        source.keep = candidate
        length = header_length(source.read(candidate, HEADER))
        if length >= 0:
            end = candidate + HEADER + length + FOOTER
            if source.reaches(candidate, end):
                # One header in 2^32 is sound by chance: gigabytes of damage call for a second test.
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
    """Zlib's `wbits` for a gzip or zlib file, recognised by its first bytes; 0 if it is not compressed."""
    if head.startswith(_GZIP):
        return _GZIP_WBITS
    # A zlib header: deflate, a window of at most 32 KiB, no preset dictionary, and a check of the two bytes.
    # A record's length may look the same; the bytes after it are then not a deflated block.
    if len(head) < 3 or head[0] & 0x8F != 8 or head[1] & 0x20 or int.from_bytes(head[:2], "big") % 31:
        return 0
    try:
        zlib.decompressobj(_ZLIB_WBITS).decompress(head)
    except zlib.error:
        return 0
    return _ZLIB_WBITS


def _inflate(source: Source, file: BinaryIO, head: bytes, wbits: int) -> Iterator[bytes]:
    """The content of compressed members; of a damaged one the part before the damage, noted in `broken`."""
    pending = head
    while True:
        # Zero bytes between and after members are padding, for gzip itself too.
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
    """The output before the first wrong byte, fed byte by byte: zlib drops the output of a failing call."""
    pieces = []
    for at in range(len(data)):
        try:
            pieces.append(member.decompress(data[at : at + 1]))
        except zlib.error:
            break
    return b"".join(pieces)
