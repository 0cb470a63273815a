"""Column types from the Arrow schema stored in a Parquet footer, for schemas that Arrow itself cannot read.

Arrow refuses a whole file for a single column of a type that it does not know (polars' 128-bit integers).
Without the stored schema the other columns can be read, except for types that only this schema records. This
module finds the names and types of the top-level columns in the serialised schema, a flatbuffer; it reads
only a dozen of its fields (https://github.com/apache/arrow/blob/main/format/Schema.fbs).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

KEY = b"ARROW:schema"
_INT, _DURATION, _LAST_KNOWN = 2, 18, 26
_MOST_BITS, _DEEPEST = 64, 64
_DURATIONS = "durations"


def nanoseconds(metadata: Mapping[bytes, bytes], keys: Sequence[bytes]) -> set[str]:
    """The columns that were times in nanoseconds to the program that wrote a file.

    Args:
      metadata: The footer's metadata.
      keys: The keys under which the stored schema may be.
    """
    stored = next((metadata[key] for key in keys if key in metadata), None)
    if stored is None:
        return set()
    try:
        schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(stored)))
    except (pa.ArrowException, ValueError, OSError):
        return set()
    return {field.name for field in schema if pa.types.is_timestamp(field.type) and field.type.unit == "ns"}


def lost_types(stored: bytes) -> dict[str, str]:
    """The columns whose type only the stored schema records, with a description of their values.

    Args:
      stored: The schema as stored in the footer.
    Raises:
      ValueError: It is not a valid schema.
    """
    try:
        lost = dict(_lost(base64.b64decode(stored)))
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the stored schema cannot be read: {error}") from error
    # Arrow reads durations where it follows the schema; another column keeps it from doing so.
    others = [f"{name} with its {words}" for name, words in lost.items() if words != _DURATIONS]
    beside = f"{_DURATIONS} (a file without {others[0]} could be read)" if others else _DURATIONS
    return {name: beside if words == _DURATIONS else words for name, words in lost.items()}


def _lost(message: bytes) -> Iterator[tuple[str, str]]:
    if message[:4] != b"\xff\xff\xff\xff":
        raise ValueError("the stored schema is not an Arrow message")
    data = message[8:]
    root = _Table(data, struct.unpack_from("<I", data, 0)[0])
    header = root.table(2)
    for field in header.tables(1) if header else ():
        words = _words(field, 0)
        if words is not None:
            yield field.text(0), words


def _words(field: _Table, depth: int) -> str | None:
    if depth > _DEEPEST:
        raise ValueError("its types are nested too deeply")
    kind, detail = field.byte(2), field.table(3)
    if kind == _DURATION:
        return _DURATIONS
    if kind > _LAST_KNOWN:
        return "a type that Arrow does not know"
    if kind == _INT and detail is not None and detail.whole(0) > _MOST_BITS:
        return f"whole numbers of {detail.whole(0)} bits"
    return next((words for child in field.tables(5) if (words := _words(child, depth + 1))), None)


class _Table:
    """A table of a flatbuffer; its fields are read by number."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - struct.unpack_from("<i", data, at)[0]
        if not 0 <= self._fields < len(data):
            raise ValueError("a table lies outside the stored schema")
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    def _place(self, number: int) -> int | None:
        slot = 4 + 2 * number
        if slot + 2 > self._size:
            return None
        offset: int = struct.unpack_from("<H", self._data, self._fields + slot)[0]
        return self._at + offset if offset else None

    def byte(self, number: int) -> int:
        place = self._place(number)
        return 0 if place is None else self._data[place]

    def whole(self, number: int) -> int:
        place = self._place(number)
        value: int = 0 if place is None else struct.unpack_from("<i", self._data, place)[0]
        return value

    def _target(self, number: int) -> int | None:
        place = self._place(number)
        return None if place is None else place + struct.unpack_from("<I", self._data, place)[0]

    def text(self, number: int) -> str:
        at = self._target(number)
        if at is None:
            return ""
        return self._data[at + 4 : at + 4 + struct.unpack_from("<I", self._data, at)[0]].decode()

    def table(self, number: int) -> _Table | None:
        at = self._target(number)
        return None if at is None else _Table(self._data, at)

    def tables(self, number: int) -> Iterator[_Table]:
        at = self._target(number)
        if at is None:
            return
        for place in range(at + 4, at + 4 + 4 * struct.unpack_from("<I", self._data, at)[0], 4):
            yield _Table(self._data, place + struct.unpack_from("<I", self._data, place)[0])
