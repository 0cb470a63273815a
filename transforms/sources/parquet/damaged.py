"""Damaged row groups of Parquet files: finding the first unreadable row, and reading the rows before it.

Nothing here asks a footer about single columns, because pyarrow aborts the process if their statistics are
wrong. A column is decoded from its row group's first row on, so a corrupt page costs all rows from its first
one to the group's end. The first unreadable row depends only on the file and the columns, never on batches or
shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.sources.changed_files import as_input_lost, damage_of
from transforms.sources.parquet.columns import extract, type_at
from transforms.sources.parquet.opening import open_parquet
from transforms.storage import files
from transforms.wording import one_line

_STEP, _STEP_BYTES = 4096, 16 << 20
#: A column up to this size is read whole. A larger one is streamed, but a stream allocates whatever a damaged
#: header asks for, even two gigabytes.
_WHOLE_BYTES, _STREAM_BYTES = 64 << 20, 1 << 20
#: A column of more bytes is searched row by row: bisection would hold all of it up to the row that is tried.
_HALVED_BYTES = 256 << 20


class Boundary(NamedTuple):
    """The first unreadable row of a row group."""

    row: int  # counted from the group's first row
    reason: str


@lru_cache(64)
def first_unreadable(
    path: str,
    name: str,
    stamp: tuple[int, float],
    columns: tuple[tuple[str, ...], ...],
    arrow_types: bool,
    group: int,
) -> Boundary | None:
    """The first row of a row group that some of these columns cannot be read at; None: all can be read.

    Args:
      path: The file's path.
      name: The file's name in errors.
      stamp: The file's stamp, part of the key under which the result is cached.
      columns: Field names of each column, from the schema's root on.
      arrow_types: See `open_parquet`.
      group: Number of the row group.
    Cost: decodes the group once, and its damaged columns ~12 times up to the damage. Cached for later pieces.
    """
    with as_input_lost(name), files.open_arrow(path) as source:
        rows = open_parquet(source).metadata.row_group(group).num_rows
        first: Boundary | None = None
        for column in columns:
            boundary = _Column(source, arrow_types, column, group).boundary(rows)
            if boundary is not None:
                first, rows = boundary, boundary.row
        return first


def rows_of(
    source: pa.NativeFile, arrow_types: bool, column: tuple[str, ...], group: int, start: int, stop: int
) -> pa.Array:
    """A column's rows from `start` to `stop` of a row group, all of which must come before any damage.

    Raises:
      ArrowInvalid: The column ends before `stop`.
    Cost: decodes the column from the group's start to `stop`, and holds it in memory.
    """
    return _Column(source, arrow_types, column, group).rows(start, stop)


class _Column:
    """One column of a row group, read on its own."""

    def __init__(self, source: pa.NativeFile, arrow_types: bool, path: tuple[str, ...], group: int) -> None:
        self._source, self._arrow_types, self._path, self._group = source, arrow_types, path, group
        self._name = ".".join(path)
        self._buffer_bytes = 0
        row_bytes, rows = self._sizes(self._open(), group)
        self._buffer_bytes = 0 if rows * row_bytes <= _WHOLE_BYTES else _STREAM_BYTES
        self._wide = rows * row_bytes > _HALVED_BYTES
        self._step = max(1, min(_STEP, _STEP_BYTES // row_bytes))

    def _sizes(self, file: pq.ParquetFile, group: int) -> tuple[int, int]:
        """Bytes per row, of all columns if the column's type has no fixed width; and the number of rows."""
        metadata = file.metadata.row_group(group)
        rows = max(1, metadata.num_rows)
        try:
            return type_at(file.schema_arrow, self._path).bit_width // 8 + 1, rows
        except ValueError:  # Arrow's answer for values of no fixed width
            return max(1, metadata.total_byte_size // rows), rows

    def rows(self, start: int, stop: int) -> pa.Array:
        parts: list[pa.Array] = []
        done = 0
        for batch in self._batches(1 if self._wide else stop):
            part = batch.slice(max(0, start - done), max(0, stop - max(start, done)))
            done += batch.num_rows
            if part.num_rows:
                parts.append(extract(part, self._path))
            if done >= stop:
                return pa.concat_arrays(parts)
        raise pa.ArrowInvalid(f"column {self._name} ends at row {done} of {stop}")

    def boundary(self, rows: int) -> Boundary | None:
        """The first unreadable row among the group's first `rows` rows; None: all can be read."""
        done, error = self._readable(min(self._step, rows), rows)
        if done >= rows:
            return None
        if error is None:
            return Boundary(done, f"column {self._name} ends before its row group")
        if self._wide:
            done, last = self._readable(1, rows)
            if last is None:
                return None
            error = last
        else:
            beyond = min(rows, done + self._step)
            # The batch that failed may have gone beyond `rows`.
            if beyond == rows and self._readable(rows, rows)[0] >= rows:
                return None
            while beyond - done > 1:
                middle = (done + beyond) // 2
                if self._readable(middle, middle)[0] >= middle:
                    done = middle
                else:
                    beyond = middle
        return Boundary(done, f"corrupt page in column {self._name} ({one_line(error)})")

    def _readable(self, batch_size: int, rows: int) -> tuple[int, Exception | None]:
        """The number of rows that can be read in whole batches, and the error that stopped reading."""
        done = 0
        try:
            for batch in self._batches(batch_size):
                done += batch.num_rows
                if done >= rows:
                    break
        except Exception as error:
            if damage_of(error) is None:
                raise
            return done, error
        return done, None

    def _batches(self, batch_size: int) -> Iterator[pa.RecordBatch]:
        return self._open().iter_batches(
            max(1, batch_size), row_groups=[self._group], columns=[self._name], use_threads=False
        )

    def _open(self) -> pq.ParquetFile:
        return open_parquet(self._source, arrow_types=self._arrow_types, buffer_bytes=self._buffer_bytes)
