"""Parquet: row groups one after the other, and of those only the wanted columns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from transforms import cursors, files
from transforms.arrow_types import common_type
from transforms.errors import UserError
from transforms.parquet_columns import (
    bare,
    compatible,
    extract,
    in_order,
    leaves,
    plain,
    plain_array,
    resolve,
    type_at,
)

if TYPE_CHECKING:
    from transforms.read import Column
    from transforms.shards import InputFile, Piece

_READERS = 8


def row_groups(path: str, name: str) -> tuple[int, ...]:
    """Rows of each row group.

    Raises:
      UserError: It is not a Parquet file.
    """
    with _opened(path, name) as (_, file):
        metadata = file.metadata
        return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


def describe(inputs: Sequence[InputFile]) -> dict[str, pa.DataType]:
    """`read.describe_columns` for Parquet."""
    ordered = [file for file in inputs if file.rows] or list(inputs[:1])
    found = leaves(_schema(ordered[0]), ordered[0].name)
    for file in ordered[1:]:
        # pandas stores a column without a single value as type null; another file may know better.
        unknown = [name for name, kind in found.items() if pt.is_null(kind)]
        if not unknown:
            break
        others = leaves(_schema(file), file.name)
        found.update({name: others[name] for name in unknown if name in others})
    return found


def check(inputs: Sequence[InputFile], columns: Sequence[Column]) -> dict[str, pa.DataType]:
    """`read.check_columns` for Parquet."""
    common = {column.name: column.type for column in columns}
    with ThreadPoolExecutor(min(_READERS, len(inputs))) as pool:
        for file, schema in zip(inputs, pool.map(_schema, inputs), strict=True):
            for column in columns:
                stored = type_at(schema, resolve(schema, column.name, file.name))
                kind = plain(in_order(stored, column.name, file.name))
                if not compatible(kind, column.type):
                    raise UserError(
                        f"column {column.name} is {kind}, and {column.type} in other files",
                        where=file.name,
                        remedy="write it in one type, or take the file out of input.files",
                    )
                if file.rows:
                    common[column.name] = common_type(common[column.name], kind)
    return common


def read(piece: Piece, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a piece, at most `batch_size` a batch, columns as asked for.

    Row groups before the piece are not read at all; of the one it begins in, the rows before it are decoded
    and dropped, a batch at a time, unless this process has just read them as another piece.
    """
    key = (piece.path, files.stamp(piece.path), tuple(columns), batch_size)
    cursor = _parking.fetch(key, piece.start) or _Cursor(piece, columns, batch_size)
    try:
        while cursor.row < piece.start and cursor.take(piece.start - cursor.row) is not None:
            pass
        left = piece.rows
        while left > 0 and (batch := cursor.take(left)) is not None:
            left -= batch.num_rows
            yield pa.RecordBatch.from_arrays(cursor.extract(batch), names=list(columns))
    except BaseException:
        cursor.close()
        raise
    if cursor.is_inside():
        _parking.park(key, cursor)
    else:
        cursor.close()


def select(batch: pa.RecordBatch, columns: Sequence[str], name: str) -> pa.RecordBatch:
    """The wanted columns of a batch from elsewhere, as `read` gives them.

    Args:
      batch: With these columns, or structs that have them.
      columns: Names, dotted for fields of structs.
      name: What to call the batch in errors.
    Raises:
      UserError: There is no such column.
    """
    arrays = []
    for column in columns:
        path = resolve(batch.schema, column, name)
        kind = in_order(type_at(batch.schema, path), column, name)
        arrays.append(plain_array(extract(batch, path), bare(plain(kind))))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


class _Cursor:
    """An open file and the next row in it; batches end where they would, read from the row group's start."""

    def __init__(self, piece: Piece, columns: Sequence[str], batch_size: int) -> None:
        self._name = piece.name
        self._held: pa.RecordBatch | None = None
        self._stack = contextlib.ExitStack()
        source, self._file = self._stack.enter_context(_opened(piece.path, piece.name))
        schema = self._file.schema_arrow
        self.paths = [resolve(schema, name, piece.name) for name in columns]
        self._types = [bare(plain(type_at(schema, path))) for path in self.paths]
        if any(pt.is_fixed_size_list(kind) for kind in self._types):
            # Arrow cannot read a null among lists of fixed size (https://github.com/apache/arrow/issues/35692),
            # and a null must cost its row only. As lists of any size it reads them.
            metadata = _without_arrow_schema(source)
            self._file = pq.ParquetFile(source, metadata=metadata, pre_buffer=True)
        self.row = self._run_end = 0
        self._runs = _runs(self._file.metadata, batch_size)
        self._batches: Iterator[pa.RecordBatch] = iter(())
        for groups, rows in self._runs:
            self._run_end += rows
            if piece.start < self._run_end:
                self._batches = self._open_run(groups, batch_size)
                break
            self.row = self._run_end
        self._batch_size = batch_size

    def reaches(self, row: int) -> bool:
        return self.row <= row < self._run_end

    def is_inside(self) -> bool:
        """Whether a cursor opened anew for the next row would have to decode rows before it."""
        return self.row < self._run_end

    def take(self, rows: int) -> pa.RecordBatch | None:
        """The next rows of one batch, at most `rows`; None at the file's end."""
        while self._held is None:
            with _mendable(self._name):
                self._held = next(self._batches, None)
            if self._held is None:
                groups, count = next(self._runs, ([], 0))
                if not groups:
                    return None
                self._run_end += count
                self._batches = self._open_run(groups, self._batch_size)
            elif not self._held.num_rows:
                self._held = None
        batch = self._held.slice(0, rows)
        self._held = self._held.slice(rows) if rows < self._held.num_rows else None
        self.row += batch.num_rows
        return batch

    def extract(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The wanted columns of what `take` gives."""
        typed = zip(self.paths, self._types, strict=True)
        return [plain_array(extract(batch, path), kind) for path, kind in typed]

    def close(self) -> None:
        self._stack.close()

    def _open_run(self, groups: list[int], batch_size: int) -> Iterator[pa.RecordBatch]:
        # TensorFlow owns the cores, so decoding stays on the reader's thread; measured, it is no bottleneck.
        names = [".".join(path) for path in self.paths]
        with _mendable(self._name):
            return self._file.iter_batches(batch_size, row_groups=groups, columns=names, use_threads=False)


# One place: a parked cursor holds the compressed columns of a row group.
_parking: cursors.Parking[_Cursor] = cursors.Parking(1)


def _runs(metadata: pq.FileMetaData, batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Consecutive row groups to read at once: one, or as many small ones as fill a batch."""
    groups: list[int] = []
    rows = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= batch_size:
            yield groups, rows
            groups, rows = [], 0
    if rows:
        yield groups, rows


@contextlib.contextmanager
def _opened(path: str, name: str) -> Iterator[tuple[pa.NativeFile, pq.ParquetFile]]:
    with files.open_arrow(path) as source:
        with _mendable(name):
            # pre_buffer joins the columns' reads of a row group into few: less time than mapping, and no
            # mapped pages.
            file = pq.ParquetFile(source, pre_buffer=True)
        yield source, file


@contextlib.contextmanager
def _mendable(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"cannot be read as Parquet ({reason})",
            where=name,
            remedy="mend the file, take it out of input.files, or set input.format if it is another format",
        ) from error


def _schema(file: InputFile) -> pa.Schema:
    with _opened(file.path, file.name) as (_, opened):
        return opened.schema_arrow


def _without_arrow_schema(source: pa.NativeFile) -> pq.FileMetaData:
    """The file's footer without Arrow's own schema in it, by renaming the key that holds it."""
    end = source.size()
    tail = source.read_at(8, end - 8)
    size = int.from_bytes(tail[:4], "little")
    footer = source.read_at(size, end - 8 - size)
    key = b"\x0cARROW:schema"  # Thrift: the key's length, then the key
    patched = b"".join((b"PAR1", footer.replace(key, b"\x0c" + b"-" * 12), tail))
    return pq.read_metadata(pa.BufferReader(patched))
