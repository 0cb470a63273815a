"""Reading a shard's rows as Arrow batches, from files of any supported format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.errors import UserError
from transforms.sources.base import PARQUET, Column, InputFile, Piece, RawBatch, Rejection
from transforms.sources.changed_files import changed
from transforms.sources.parquet import describe as describe_parquet
from transforms.sources.parquet import read as read_parquet
from transforms.sources.parquet.columns import bare, plain
from transforms.sources.partitions import column_of, partition_types
from transforms.sources.tfrecord import describe as describe_tfrecord
from transforms.sources.tfrecord import read as read_tfrecord

_PAGE_BYTES = 2 << 20
_WINDOW_BYTES = 4 << 20
_INFLATION = 8  # gzip seldom compresses Examples by a larger factor


def describe_columns(inputs: Sequence[InputFile], named: Iterable[str] = ()) -> dict[str, pa.DataType]:
    """The columns of the input and their types, in file order; fields of structs have dotted names.

    Parquet: the columns of the first readable file with rows. Dictionaries have the type of their values,
    large and view types the plain type, and arrow.fixed_shape_tensor keeps its shape. TFRecord: the features
    of the first records, sorted by name. Each is int64, float32 or binary, whichever most records hold: a
    scalar where most have one value, else a list, of fixed size where most have equally many values.

    Args:
      inputs: From `inspect_files`.
      named: Wanted columns. TFRecord: one that the first records lack is searched for all over the input, and
        left out if no record has it.
    Raises:
      UserError: A file's columns cannot be told apart, or no record of the input can be read.
    """
    if not inputs:
        return {}
    if inputs[0].format == PARQUET:
        return describe_parquet.describe(inputs)
    return describe_tfrecord.describe(inputs, named)


@dataclass(frozen=True)
class Described:
    """The columns that a run may use.

    Args:
      types: The type of each column, with the files' own columns first.
      paths: Columns that are not in the files but in their folders' names, `month=1`.
      asides: Columns that become features only if the config or the model names them: those of `paths`, the
        index of a pandas frame, and columns that the first file lacks.
    """

    types: Mapping[str, pa.DataType]
    paths: frozenset[str] = frozenset()
    asides: frozenset[str] = frozenset()


def describe_input(inputs: Sequence[InputFile], named: Iterable[str] = ()) -> Described:
    """The columns of `describe_columns`, and those in the folders' names.

    A column that is in both the files and their folders is read from the files.

    Raises:
      UserError: As `describe_columns`.
    """
    paths = partition_types(inputs)
    types = describe_columns(inputs, [name for name in named if name not in paths])
    asides: set[str] = set()
    if inputs and inputs[0].format == PARQUET:
        more, index = describe_parquet.describe_further(inputs, types)
        types = {**types, **more}
        asides = {*more, *index}
    paths = {name: kind for name, kind in paths.items() if name not in types}
    return Described({**types, **paths}, frozenset(paths), frozenset(asides.union(paths)))


def check_columns(inputs: Sequence[InputFile], columns: Sequence[Column]) -> dict[str, pa.DataType]:
    """Checks that every file has the wanted columns, at plan time rather than hours into a run.

    A column's type may differ from file to file within a family: numbers, texts, days and times. The features
    of a TFRecord are known only record by record: a missing or different one rejects its row.

    Returns:
      For each column the type that holds its values in every file.
    Raises:
      UserError: A file lacks a column, or has it in another type.
    """
    common = {column.name: column.type for column in columns}
    for column in columns:
        if column.from_path and not column.optional:
            _check_paths(inputs, column)
    parquet = [file for file in inputs if file.format == PARQUET]
    return {**common, **describe_parquet.check(parquet, columns)} if parquet else common


def _check_paths(inputs: Sequence[InputFile], column: Column) -> None:
    for file in inputs:
        if file.partition and column.name not in dict(file.partition):
            raise UserError(
                f"is not in a folder {column.name}=…, although other files are{column.asked}",
                where=file.name,
                remedy="move it into one" + column.or_leave_out,
            )


def read_piece(piece: Piece, columns: Sequence[Column], batch_size: int) -> Iterator[RawBatch]:
    """Reads the rows of a piece in order; each row is in `columns` or in `rejected` of exactly one batch.

    Args:
      piece: From `shards.cut`.
      columns: At least one; types may differ from those the file stores as far as `check_columns` allows.
        TFRecord gives exactly these types, with nulls for missing features; if a batch has both int64 and
        float32 in a column, it is a dense union of the two. Parquet gives the file's own types.
      batch_size: The most rows in a batch; batches are smaller where records are large.

    Raises:
      UserError: The file lacks a column.
      InputLost: The file has disappeared or changed since the piece was planned.
    Cost: memory for one batch and, for Parquet, the bytes that `read_bytes` computes.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least 1 is needed")
    names = {column.name for column in columns}
    if not columns or len(names) < len(columns):
        raise ValueError("columns must be given, each once")
    if piece.damage is not None:
        yield _unread(piece, columns, piece.damage)
        return
    stored, folders = _parted(piece, columns)
    if folders:
        yield from _with_folders(piece, columns, stored, folders, batch_size)
        return
    done = 0
    if piece.format == PARQUET:
        for stretch in read_parquet.read(piece, columns, batch_size):
            rows = np.arange(stretch.rows, dtype=np.int64) + (piece.start + done)
            done += stretch.rows
            if stretch.reason is None:
                yield RawBatch(stretch.columns, rows, ())
            else:
                yield RawBatch(stretch.columns, rows[:0], _rejections(piece, rows, stretch.reason))
    else:
        for parsed in read_tfrecord.read(piece, columns, batch_size):
            first = piece.start + done
            done += parsed.rows
            yield RawBatch(
                parsed.columns,
                parsed.positions + first,
                tuple(
                    Rejection(piece.name, first + at, stage, reason) for at, stage, reason in parsed.rejected
                ),
            )
    if done != piece.rows:
        what = (
            f"has {piece.start + done} rows, but had {piece.start + piece.rows} or more when it was planned"
        )
        raise changed(piece.name, what)


def _parted(piece: Piece, columns: Sequence[Column]) -> tuple[list[Column], dict[str, str | None]]:
    """The columns to read from the file, and the values of those in its folders' names."""
    if not piece.partition:
        return list(columns), {}
    values = dict(piece.partition)
    folders = {c.name: values[c.name] for c in columns if c.from_path and c.name in values}
    return [column for column in columns if column.name not in folders], folders


def _with_folders(
    piece: Piece,
    columns: Sequence[Column],
    stored: Sequence[Column],
    folders: Mapping[str, str | None],
    batch_size: int,
) -> Iterator[RawBatch]:
    """The rows of the file, with the columns from its folders' names put among its own."""
    types = {column.name: column.type for column in columns}

    def whole(stored_columns: pa.RecordBatch | None, rows: int) -> pa.RecordBatch:
        arrays = [
            column_of(folders[name], kind, rows)
            if name in folders or stored_columns is None
            else stored_columns.column(name)
            for name, kind in types.items()
        ]
        return pa.RecordBatch.from_arrays(arrays, list(types))

    if not stored:
        for start in range(piece.start, piece.start + piece.rows, batch_size):
            stop = min(start + batch_size, piece.start + piece.rows)
            yield RawBatch(whole(None, stop - start), np.arange(start, stop, dtype=np.int64), ())
        return
    for raw in read_piece(replace(piece, partition=()), stored, batch_size):
        yield RawBatch(whole(raw.columns, raw.columns.num_rows), raw.rows, raw.rejected)


def read_bytes(inputs: Sequence[InputFile], columns: Sequence[Column], batch_size: int) -> int:
    """The most bytes that reading holds at a time, whatever the size of files, row groups and shards.

    Parquet is the sum of:
    - the wanted columns as stored, in two row groups: the current one, and one kept for another piece; of a
      group larger than 64 MB only a stretch of each column is held;
    - a page and a dictionary of each column, which seldom take more than 2 MB;
    - two batches, with strings and lists as long as the average in the row group where they are longest.

    TFRecord: three copies, stored and parsed, of a batch of at most 64 MB of records.

    Args:
      inputs: From `inspect_files`.
      columns: The columns to read.
      batch_size: Rows in a batch.
    """
    return max((_bytes_of(file, columns, batch_size) for file in inputs if file.rows), default=0)


def _bytes_of(file: InputFile, columns: Sequence[Column], batch_size: int) -> int:
    if file.format == PARQUET:
        stored = read_parquet.held_bytes(file, len(columns))
        pages = len(columns) * _PAGE_BYTES
        rows = min(batch_size, file.rows)
        return 2 * stored + pages + 2 * rows * _row_bytes(file, columns)
    record = -(-file.bytes // file.rows) * (1 if file.index else _INFLATION)
    return 3 * min(read_tfrecord.BATCH_BYTES, batch_size * record) + _WINDOW_BYTES


def _row_bytes(file: InputFile, columns: Sequence[Column]) -> int:
    """Bytes that a row's wanted columns take in Arrow arrays."""
    fixed, varying = 0, False
    for column in columns:
        dtype, count = bare(plain(column.type)), 1
        while pt.is_fixed_size_list(dtype):
            dtype, count = bare(dtype.value_type), count * dtype.list_size
        try:
            fixed += count * (dtype.bit_width // 8 + 1)
        except ValueError:  # Arrow's answer for values of no fixed width
            fixed, varying = fixed + 8 * count, True
    return fixed + (file.most_row_bytes if varying else 0)


def _unread(piece: Piece, columns: Sequence[Column], reason: str) -> RawBatch:
    """A batch that rejects every row of the piece."""
    rows = np.arange(piece.start, piece.start + piece.rows, dtype=np.int64)
    empty = [pa.nulls(0, bare(plain(column.type))) for column in columns]
    batch = pa.RecordBatch.from_arrays(empty, [column.name for column in columns])
    return RawBatch(batch, rows[:0], _rejections(piece, rows, reason))


def _rejections(piece: Piece, rows: np.ndarray, reason: str) -> tuple[Rejection, ...]:
    return tuple(Rejection(piece.name, row, "read", reason) for row in rows.tolist())
