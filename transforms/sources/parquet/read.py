"""Reading Parquet: the wanted columns of one row group after another; of a damaged group the sound rows."""

from __future__ import annotations

import contextlib
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from transforms.sources.changed_files import as_input_lost, changed, check_stamp, damage_of, stamp_of
from transforms.sources.parquet.columns import (
    bare,
    extract,
    in_order,
    path_of,
    plain,
    plain_array,
    resolve,
    type_at,
)
from transforms.sources.parquet.damaged import first_unreadable, rows_of
from transforms.sources.parquet.opening import open_parquet
from transforms.storage import files
from transforms.storage.open_files import IdleCursors
from transforms.wording import one_line

if TYPE_CHECKING:
    from transforms.sources.base import Column, InputFile, Piece

#: Row groups with more uncompressed bytes are streamed, a stretch of each column at a time.
AT_ONCE_BYTES = 64 << 20
#: Buffer of one column's stream: locally, and where each read is a request. Smaller where there are many
#: columns, which together take AT_ONCE_BYTES.
_STREAM_BYTES, _REMOTE_STREAM_BYTES = 1 << 18, 1 << 22
_LEAST_STREAM_BYTES = 1 << 14
_RESCUES = 16


class Stretch(NamedTuple):
    """Consecutive rows of a file, either all readable or all unreadable."""

    rows: int
    columns: pa.RecordBatch
    reason: str | None  # why they cannot be read; then `columns` has no rows


def read(piece: Piece, columns: Sequence[Column], batch_size: int) -> Iterator[Stretch]:
    """Reads the rows of a piece, at most `batch_size` at a time, with the wanted columns.

    An optional column that the file lacks is null.

    Row groups before the piece are not read. In the group where the piece begins, earlier rows are decoded
    and dropped, a batch at a time, unless this process has just read them as another piece.
    """
    stamp = stamp_of(piece)
    names = [column.name for column in columns]
    key = (piece.path, stamp, tuple(names), batch_size)
    cursor = _idle.fetch(key, piece.start) or _Cursor(piece, stamp, columns, batch_size)
    try:
        while cursor.row < piece.start and cursor.take(piece.start - cursor.row) is not None:
            pass
        left = piece.rows
        while left > 0 and (stretch := cursor.take(left)) is not None:
            left -= stretch.rows
            yield stretch if cursor.is_whole else stretch._replace(columns=_filled(stretch.columns, columns))
    except BaseException:
        cursor.close()
        raise
    if cursor.is_inside():
        _idle.keep(key, cursor)
    else:
        cursor.close()


def _filled(batch: pa.RecordBatch, columns: Sequence[Column]) -> pa.RecordBatch:
    """The batch with all wanted columns, null where the file lacks them."""
    there = set(batch.schema.names)
    arrays = [
        batch.column(c.name) if c.name in there else pa.nulls(batch.num_rows, bare(plain(c.type)))
        for c in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, [column.name for column in columns])


def select(batch: pa.RecordBatch, columns: Sequence[str], name: str) -> pa.RecordBatch:
    """The wanted columns of a batch that does not come from a file, in the form that `read` gives.

    Args:
      batch: Rows with these columns, or with structs that contain them.
      columns: Column names, dotted for fields of structs.
      name: The batch's name in errors.
    Raises:
      UserError: There is no such column.
    """
    arrays = []
    for column in columns:
        path = resolve(batch.schema, column, name)
        dtype = in_order(type_at(batch.schema, path), column, name)
        arrays.append(plain_array(extract(batch, path), bare(plain(dtype))))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


class _Cursor:
    """An open file and the next row in it; batch limits are those of reading from the row group's start."""

    def __init__(
        self, piece: Piece, stamp: tuple[int, float], columns: Sequence[Column], batch_size: int
    ) -> None:
        self._name, self._path, self._stamp = piece.name, piece.path, stamp
        self._wanted, self._batch_size = columns, batch_size
        self._stack = contextlib.ExitStack()
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self._empty = pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in self._types], self._columns)
        self._held = self._empty
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._taken = 0  # rows at the start of `_batches` that have been taken already
        #: In a damaged row group: rows before `_good_end` are read column by column; from there to `_bad_end`
        #: they are rejected.
        self._good_end = self._bad_end = 0
        self._reason = ""
        self._first = self._stop = self._alone = (
            0  # the groups being read; groups before `_alone` are read singly
        )
        self.row = 0
        while self._stop < len(self._starts) - 1:
            streamed = self._next_run()
            if piece.start < self._starts[self._stop]:
                self._begin(streamed)
                break
            self.row = self._starts[self._stop]

    def _open(self) -> None:
        with as_input_lost(self._name):
            self._source = self._stack.enter_context(files.open_arrow(self._path))
        self._arrow_types, self._streamed = True, False
        self._file = self._opened()
        schema = self._file.schema_arrow
        self._columns = [
            c.name for c in self._wanted if not c.optional or path_of(schema, c.name, self._name)
        ]
        #: Whether the file has all wanted columns. If it has none, any column serves to count its rows.
        self.is_whole = len(self._columns) == len(self._wanted)
        self._columns = self._columns or schema.names[:1]
        self._paths = tuple(tuple(resolve(schema, name, self._name)) for name in self._columns)
        self._types = [bare(plain(type_at(schema, path))) for path in self._paths]
        if any(pt.is_fixed_size_list(kind) for kind in self._types):
            # Arrow cannot read a null among lists of fixed size (https://github.com/apache/arrow/issues/35692),
            # and a null must cost only its own row. Arrow can read them as lists of any size.
            self._arrow_types = False
            self._file = self._opened()
        metadata = self._file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self._starts = list(itertools.accumulate((group.num_rows for group in groups), initial=0))
        self._sizes = [group.total_byte_size for group in groups]

    def _opened(self, buffer_bytes: int | None = None) -> pq.ParquetFile:
        try:
            with as_input_lost(self._name):
                return open_parquet(self._source, arrow_types=self._arrow_types, buffer_bytes=buffer_bytes)
        except (pa.ArrowException, OSError) as error:
            raise changed(self._name, f"cannot be read as Parquet any more ({one_line(error)})") from error

    def reaches(self, row: int) -> bool:
        return self.row <= row < self._starts[self._stop]

    def is_inside(self) -> bool:
        """True if a new cursor for the next row would have to decode rows before it."""
        return self.row < self._starts[self._stop]

    def close(self) -> None:
        self._stack.close()

    def take(self, rows: int) -> Stretch | None:
        """The next rows, at most `rows` and at most a batch; None at the file's end."""
        rows = min(rows, self._batch_size)
        while True:
            if self._held.num_rows:
                batch = self._held.slice(0, rows)
                self._held = self._held.slice(batch.num_rows)
                self.row += batch.num_rows
                return Stretch(batch.num_rows, batch, None)
            if self.row < self._good_end:
                self._rescue()
            elif self.row < self._bad_end:
                count = min(rows, self._bad_end - self.row)
                self.row += count
                return Stretch(count, self._empty, self._reason)
            elif self.row < self._starts[self._stop]:
                self._next_batch()
            elif self._stop < len(self._starts) - 1:
                self._begin(self._next_run())
            else:
                return None

    def _next_run(self) -> bool:
        """Moves on to the groups to read next: one, or as many small ones as fill a batch.

        Returns:
          True if they are to be streamed.
        """
        self._first, last = self._stop, len(self._starts) - 1
        self._stop += 1
        held = self._sizes[self._first]
        while (
            self._alone <= self._first
            and self._stop < last
            and self._starts[self._stop] - self._starts[self._first] < self._batch_size
            and held + self._sizes[self._stop] <= AT_ONCE_BYTES
        ):
            held += self._sizes[self._stop]
            self._stop += 1
        return held > AT_ONCE_BYTES

    def _begin(self, streamed: bool) -> None:
        """Starts reading the current groups, at the next row."""
        self._taken = self.row - self._starts[self._first]
        if streamed != self._streamed:
            buffer_bytes = stream_bytes(self._path, len(self._paths))
            self._file, self._streamed = self._opened(buffer_bytes if streamed else None), streamed
        names = [".".join(path) for path in self._paths]
        groups = list(range(self._first, self._stop))
        try:
            with as_input_lost(self._name):
                # TensorFlow owns the cores, so decoding stays on the reader's thread; by measurement it is
                # not the bottleneck.
                self._batches = self._file.iter_batches(
                    self._batch_size, row_groups=groups, columns=names, use_threads=False
                )
        except (pa.ArrowException, OSError) as error:
            self._fail(error)

    def _next_batch(self) -> None:
        try:
            with as_input_lost(self._name):
                batch = next(self._batches, None)
                if batch is None:
                    raise pa.ArrowInvalid("it has fewer rows than the footer says")
                taken = min(self._taken, batch.num_rows)
                self._taken -= taken
                batch = batch.slice(taken, self._starts[self._stop] - self.row)
                pairs = zip(self._paths, self._types, strict=True)
                arrays = [plain_array(extract(batch, path), kind) for path, kind in pairs]
                self._held = pa.RecordBatch.from_arrays(arrays, self._columns)
        except (pa.ArrowException, OSError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Handles damage: reads groups one by one, or finds a single group's first unreadable row."""
        reason = damage_of(error)
        if reason is None:
            raise error
        # Errors in a file that is being changed are not damage.
        check_stamp(self._path, self._name, self._stamp)
        if self._stop - self._first > 1:
            self._alone = self._stop
            self._stop = bisect_right(self._starts, self.row) - 1
            self._begin(self._next_run())
            return
        boundary = first_unreadable(
            self._path, self._name, self._stamp, self._paths, self._arrow_types, self._first
        )
        self._bad_end = self._good_end = self._starts[self._stop]
        if boundary is None:
            self._because(reason)
        else:
            self._good_end = self._starts[self._first] + boundary.row
            self._because(boundary.reason)

    def _rescue(self) -> None:
        """Reads the next rows of a damaged group, up to the damage."""
        start = self._starts[self._first]
        # Usually few rows are left. It is the whole group if its columns can be read one by one but not
        # together: each step decodes all rows before it again, so the number of steps is limited.
        step = max(self._batch_size, (self._starts[self._stop] - start) // _RESCUES)
        stop = min(self._good_end, self.row + step)
        try:
            with as_input_lost(self._name):
                arrays = [
                    plain_array(
                        rows_of(
                            self._source, self._arrow_types, path, self._first, self.row - start, stop - start
                        ),
                        kind,
                    )
                    for path, kind in zip(self._paths, self._types, strict=True)
                ]
                self._held = pa.RecordBatch.from_arrays(arrays, self._columns)
        except (pa.ArrowException, OSError) as error:
            reason = damage_of(error)
            if reason is None:
                raise
            self._good_end = self.row
            self._because(reason)

    def _because(self, reason: str) -> None:
        first, last = self._good_end, self._bad_end - 1
        rows = f"row {first:,}" if first == last else f"rows {first:,} to {last:,}"
        self._reason = f"{rows} cannot be read: {reason}"


def held_bytes(file: InputFile, columns: int) -> int:
    """The most bytes held of a file's row groups, as stored, for this number of columns."""
    return min(file.bytes, max(AT_ONCE_BYTES, columns * stream_bytes(file.path, columns)))


def stream_bytes(path: str, columns: int) -> int:
    """Bytes of each column read at a time from a large row group, for this number of columns."""
    most = _REMOTE_STREAM_BYTES if files.is_url(path) else _STREAM_BYTES
    return max(_LEAST_STREAM_BYTES, min(most, AT_ONCE_BYTES // columns))


# Only one: an idle cursor holds the compressed columns of a row group.
_idle: IdleCursors[_Cursor] = IdleCursors(1)
