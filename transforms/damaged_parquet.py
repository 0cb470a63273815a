"""Damaged row groups of Parquet files: where they cannot be read on, and what comes before that.

A column is decoded from its row group's first row on, so a corrupt page costs the rows from its first one to
the group's end. Which row that is depends on the file and the columns alone, never on batches or shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import files
from transforms.lost import damage_of, losing, one_line
from transforms.parquet_columns import extract
from transforms.parquet_footer import footer_metadata

_STEP = 4096
_STREAM_BYTES = 1 << 20
#: A column of more bytes is searched row by row rather than in halves, which hold it up to there.
_HALVED_BYTES = 256 << 20


class Boundary(NamedTuple):
    """Where a row group cannot be read on."""

    row: int  # counted in the group: the first that cannot be read
    reason: str


def open_parquet(
    source: pa.NativeFile, *, arrow_types: bool = True, buffer_bytes: int | None = None
) -> pq.ParquetFile:
    """A Parquet file; checksums of its pages are looked at where it has them.

    Args:
      source: Its bytes.
      arrow_types: Follow the Arrow schema that is stored with it.
      buffer_bytes: Of a column that is read as a stream; None: all wanted columns of a row group at once.
    """
    # pre_buffer joins the columns' reads of a row group into few: less time than mapping, and no mapped
    # pages.
    reading = {"pre_buffer": True} if buffer_bytes is None else {"buffer_size": buffer_bytes}
    metadata = None if arrow_types else _without_arrow_schema(source)
    return pq.ParquetFile(
        source, metadata=metadata, page_checksum_verification=True, **{"pre_buffer": False, **reading}
    )


def _without_arrow_schema(source: pa.NativeFile) -> pq.FileMetaData:
    """The file's footer without Arrow's own schema in it, by renaming the key that holds it."""
    key = b"\x0cARROW:schema"  # Thrift: the key's length, then the key
    patched = footer_metadata(source, source.size()).replace(key, b"\x0c" + b"-" * 12)
    return pq.read_metadata(pa.BufferReader(patched))


class Chunks:
    """Where some columns of a file lie in it, and whether its footer can be right about them.

    Args:
      metadata: The file's footer.
      columns: Field names of each, from the schema's root on, and whether it has one value a row.
      size: Of the file in bytes.
    """

    def __init__(self, metadata: pq.FileMetaData, columns: Mapping[tuple[str, ...], bool], size: int) -> None:
        self._metadata, self._size = metadata, size
        self._leaves: list[tuple[int, bool]] = []
        if metadata.num_row_groups:
            names = {".".join(path): flat for path, flat in columns.items()}
            first = metadata.row_group(0)
            for number in range(first.num_columns):
                path = first.column(number).path_in_schema.split(".")
                mine = [names[name] for name in itertools.accumulate(path, "{}.{}".format) if name in names]
                if mine:
                    self._leaves.append((number, all(mine)))

    def look(self, group: int) -> tuple[int, int, bool]:
        """Bytes of a row group's columns, stored and uncompressed, and whether they can be as it says."""
        found = self._metadata.row_group(group)
        stored = uncompressed = 0
        sound = True
        for number, flat in self._leaves:
            chunk = found.column(number)
            begin, length = chunk.data_page_offset, chunk.total_compressed_size
            if chunk.dictionary_page_offset is not None:
                begin = min(begin, chunk.dictionary_page_offset)
            stored, uncompressed = stored + length, uncompressed + chunk.total_uncompressed_size
            sound &= begin >= 0 and length >= 0 and begin + length <= self._size
            sound &= chunk.num_values == found.num_rows if flat else chunk.num_values >= found.num_rows
        return stored, uncompressed, sound


@lru_cache(64)
def first_unreadable(
    path: str,
    name: str,
    stamp: tuple[int, float],
    columns: tuple[tuple[str, ...], ...],
    arrow_types: bool,
    group: int,
) -> Boundary | None:
    """Where a row group cannot be read on for these columns, each read on its own; None: it all can.

    Args:
      path: The file's.
      name: What to call it.
      stamp: Of the file: what is found holds for this one.
      columns: Field names of each, from the schema's root on.
      arrow_types: As for `open_parquet`.
      group: Number of the row group.
    Cost: decodes the group once, and its damaged columns ~12 times up to there. Kept for later pieces.
    """
    with losing(name), files.open_arrow(path) as source:
        rows = open_parquet(source).metadata.row_group(group).num_rows
        found: Boundary | None = None
        for column in columns:
            boundary = _Column(source, arrow_types, column, group).boundary(rows)
            if boundary is not None:
                found, rows = boundary, boundary.row
        return found


def rows_of(
    source: pa.NativeFile, arrow_types: bool, column: tuple[str, ...], group: int, start: int, stop: int
) -> pa.Array:
    """A column's rows of a row group from `start` to `stop`, up to where it can be read.

    Raises:
      ArrowInvalid: It ends before.
    Cost: memory of the column up to there; time of decoding it.
    """
    return _Column(source, arrow_types, column, group).rows(start, stop)


class _Column:
    """A column of a row group, read on its own."""

    def __init__(self, source: pa.NativeFile, arrow_types: bool, path: tuple[str, ...], group: int) -> None:
        self._source, self._arrow_types, self._path, self._group = source, arrow_types, path, group
        self._name = ".".join(path)
        _, size, _ = Chunks(self._open().metadata, {path: False}, source.size()).look(group)
        self._wide = size > _HALVED_BYTES

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
        """Where it cannot be read on among the first so many rows."""
        done, error = self._readable(min(_STEP, rows), rows)
        if done >= rows:
            return None
        if error is None:
            return Boundary(done, f"column {self._name} ends before its row group")
        if self._wide:
            done, last = self._readable(1, rows)
            error = last or error
        else:
            beyond = min(rows, done + _STEP)
            while beyond - done > 1:
                middle = (done + beyond) // 2
                if self._readable(middle, middle)[0] >= middle:
                    done = middle
                else:
                    beyond = middle
        return Boundary(done, f"corrupt page in column {self._name} ({one_line(error)})")

    def _readable(self, batch_size: int, rows: int) -> tuple[int, Exception | None]:
        """Rows that can be read, in whole batches, and what then is wrong."""
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
        return open_parquet(self._source, arrow_types=self._arrow_types, buffer_bytes=_STREAM_BYTES)
