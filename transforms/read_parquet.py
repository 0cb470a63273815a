"""Parquet: row groups one after the other, and of those only the wanted columns."""

from __future__ import annotations

import contextlib
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from transforms import cursors, files
from transforms.arrow_types import common_type, is_list, is_view, without_views
from transforms.errors import UserError

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
    found = _leaves(_schema(ordered[0]), ordered[0].name)
    for file in ordered[1:]:
        # pandas stores a column without a single value as type null; another file may know better.
        unknown = [name for name, kind in found.items() if pt.is_null(kind)]
        if not unknown:
            break
        others = _leaves(_schema(file), file.name)
        found.update({name: others[name] for name in unknown if name in others})
    return found


def check(inputs: Sequence[InputFile], columns: Sequence[Column]) -> dict[str, pa.DataType]:
    """`read.check_columns` for Parquet."""
    common = {column.name: column.type for column in columns}
    with ThreadPoolExecutor(min(_READERS, len(inputs))) as pool:
        for file, schema in zip(inputs, pool.map(_schema, inputs), strict=True):
            for column in columns:
                stored = _type_at(schema, _resolve(schema, column.name, file.name))
                kind = _plain(_in_order(stored, column.name, file.name))
                if not _compatible(kind, column.type):
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
        path = _resolve(batch.schema, column, name)
        kind = _in_order(_type_at(batch.schema, path), column, name)
        arrays.append(_plain_array(_extract(batch, path), _bare(_plain(kind))))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


class _Cursor:
    """An open file and the next row in it; batches end where they would, read from the row group's start."""

    def __init__(self, piece: Piece, columns: Sequence[str], batch_size: int) -> None:
        self._name = piece.name
        self._held: pa.RecordBatch | None = None
        self._stack = contextlib.ExitStack()
        source, self._file = self._stack.enter_context(_opened(piece.path, piece.name))
        schema = self._file.schema_arrow
        self.paths = [_resolve(schema, name, piece.name) for name in columns]
        self._types = [_bare(_plain(_type_at(schema, path))) for path in self.paths]
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
        return [_plain_array(_extract(batch, path), kind) for path, kind in typed]

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


def _leaves(schema: pa.Schema, name: str) -> dict[str, pa.DataType]:
    twice = [column for column, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise UserError(
            f"has several columns called {twice[0]}", where=name, remedy="rename or drop all but one"
        )
    found: dict[str, pa.DataType] = {}

    def add(prefix: str, kind: pa.DataType) -> None:
        if pt.is_struct(kind):
            for field in kind:
                add(f"{prefix}.{field.name}", field.type)
        elif prefix not in found and (prefix in literal) <= (prefix == top):
            found[prefix] = _plain(kind)

    literal = set(schema.names)
    for field in schema:
        top = field.name
        add(top, field.type)
    return found


def _resolve(schema: pa.Schema, name: str, file: str) -> list[str]:
    """The field names that a dotted name means: a column of just that name, else a field of a struct."""
    if schema.names.count(name) == 1:
        return [name]
    if name not in schema.names:
        path = _descend(list(schema), name)
        if path:
            return path
        known = _leaves(schema, file)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(list(known)[:8])}"
        raise UserError(f"there is no column {name}", where=file, remedy=hint)
    raise UserError(f"has several columns called {name}", where=file, remedy="rename or drop all but one")


def _descend(fields: Sequence[pa.Field], name: str) -> list[str]:
    for field in fields:
        if field.name == name and not pt.is_struct(field.type):
            return [name]
        if name.startswith(field.name + ".") and pt.is_struct(field.type):
            rest = _descend(list(field.type), name[len(field.name) + 1 :])
            if rest:
                return [field.name, *rest]
    return []


def _type_at(schema: pa.Schema, path: Sequence[str]) -> pa.DataType:
    kind = schema.field(path[0]).type
    for name in path[1:]:
        kind = kind.field(name).type
    return kind


def _in_order(kind: pa.DataType, column: str, file: str) -> pa.DataType:
    """The type, unless it stores tensors in another order than it shows them."""
    order = kind.permutation if isinstance(kind, pa.FixedShapeTensorType) else None
    if order is not None and order != list(range(len(order))):
        raise UserError(
            f"column {column} holds tensors of shape {list(kind.shape)} permuted by {order}",
            where=file,
            remedy="store them in row-major order, without a permutation",
        )
    return kind


def _extract(batch: pa.RecordBatch, path: Sequence[str]) -> pa.Array:
    array = batch.column(path[0])
    # struct_field, unlike StructArray.field, makes the field null where the struct is.
    return pc.struct_field(array, list(path[1:])) if len(path) > 1 else array


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what only says how values are stored: dictionaries, 64-bit offsets, views."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pt.is_dictionary(kind):
        return _plain(kind.value_type)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_binary(kind) or pt.is_binary_view(kind):
        return pa.binary()
    if pt.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if is_list(kind) or is_view(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _plain_array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The array in its column's plain type; of an extension type, the storage."""
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    array = without_views(array)
    if pt.is_fixed_size_list(kind) and pt.is_list(array.type):
        return _fixed_size(array, kind)
    if pt.is_null(kind):
        return pa.nulls(len(array))
    return array if array.type == kind else array.cast(kind)


def _fixed_size(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Lists of any size as lists of one size; null where they are null."""
    values = _plain_array(array.flatten(), _bare(kind.value_type))
    fixed = pa.FixedSizeListArray.from_arrays(values, kind.list_size)
    if not array.null_count:
        return fixed
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return fixed.take(pa.array(np.cumsum(valid) - 1, mask=~valid))


def _without_arrow_schema(source: pa.NativeFile) -> pq.FileMetaData:
    """The file's footer without Arrow's own schema in it, by renaming the key that holds it."""
    end = source.size()
    tail = source.read_at(8, end - 8)
    size = int.from_bytes(tail[:4], "little")
    footer = source.read_at(size, end - 8 - size)
    key = b"\x0cARROW:schema"  # Thrift: the key's length, then the key
    patched = b"".join((b"PAR1", footer.replace(key, b"\x0c" + b"-" * 12), tail))
    return pq.read_metadata(pa.BufferReader(patched))


def _compatible(one: pa.DataType, other: pa.DataType) -> bool:
    one, other = _bare(one), _bare(other)
    if pt.is_null(one) or pt.is_null(other) or one == other:
        return True
    if pt.is_nested(one) or pt.is_nested(other):
        lists = (pt.is_list, pt.is_fixed_size_list)
        if not all(any(is_kind(kind) for is_kind in lists) for kind in (one, other)):
            return False
        return _compatible(one.value_type, other.value_type)
    return any(family(one) and family(other) for family in (_is_number, _is_text))


def _bare(kind: pa.DataType) -> pa.DataType:
    return _bare(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_binary(kind) or pt.is_fixed_size_binary(kind))
