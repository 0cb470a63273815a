"""Opening Parquet files, and what their footers say of columns beside Arrow's types."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from transforms.parquet.stored_schema import KEY, lost_types, nanoseconds

_MAGIC = b"PAR1"
_TAIL = 1 << 16  # most footers are smaller: one read fetches both their length and them
_SUFFIX = 8  # the footer's length and the magic word

#: Keys of a field's metadata: what the column holds, in words, where Arrow's type does not tell; that it is
#: the index of the pandas frame that was written.
HOLDS, INDEX = b"attribeam.holds", b"attribeam.index"
_EXTENSION = b"ARROW:extension:name"
#: What the stored schema is called where Arrow is not to follow it.
_HIDDEN = b"-" * len(KEY)
_INTERVAL_BYTES = 12
_SPARK = b"org.apache.spark.sql.parquet.row.metadata"


def open_parquet(
    source: pa.NativeFile, *, arrow_types: bool = True, buffer_bytes: int | None = None
) -> pq.ParquetFile:
    """A Parquet file; checksums of its pages are looked at where it has them.

    Times of Spark's and Hive's 96 bits are read in microseconds, which hold every year that these have; in
    nanoseconds where the file says that it was written from these.

    Args:
      source: Its bytes.
      arrow_types: Follow the Arrow schema that is stored with it, where Arrow can.
      buffer_bytes: Of each column, read as a stream; 0: each column whole; None: all wanted columns of a row
        group at once.
    """
    # pre_buffer joins the columns' reads of a row group into few: less time than mapping, and no mapped
    # pages.
    options: dict[str, Any] = {"pre_buffer": False, "page_checksum_verification": True}
    options |= {"pre_buffer": True} if buffer_bytes is None else {"buffer_size": buffer_bytes}
    file: pq.ParquetFile | None = None
    if arrow_types:
        # What Arrow makes of a type that it does not know is to refuse the file.
        with contextlib.suppress(pa.ArrowNotImplementedError):
            file = pq.ParquetFile(source, coerce_int96_timestamp_unit="us", **options)
    if file is None:
        metadata = _without_arrow_schema(source)
        file = pq.ParquetFile(source, metadata=metadata, coerce_int96_timestamp_unit="us", **options)
    if _is_in_nanoseconds(file):
        file = pq.ParquetFile(source, metadata=file.metadata, coerce_int96_timestamp_unit="ns", **options)
    return file


def described(file: pq.ParquetFile) -> pa.Schema:
    """The schema of a file as `open_parquet` gives it, with `HOLDS` and `INDEX` in its fields' metadata."""
    schema: pa.Schema = file.schema_arrow
    index, hidden = _index_columns(file.metadata), (file.metadata.metadata or {}).get(_HIDDEN)
    lost = {} if hidden is None else lost_types(hidden)
    lost |= _spark_intervals(file.metadata)
    for at, field in enumerate(schema):
        words = lost.get(field.name) or _holds(field, file)
        marks = {} if words is None else {HOLDS: words.encode()}
        if field.name in index:
            marks[INDEX] = b"1"
        if marks:
            schema = schema.set(at, field.with_metadata(marks))
    return schema.remove_metadata()


def _holds(field: pa.Field, file: pq.ParquetFile) -> str | None:
    """What a column holds in words, where its type says something else."""
    extension = (field.metadata or {}).get(_EXTENSION, b"").decode("utf-8", "replace")
    if isinstance(field.type, pa.BaseExtensionType):
        extension = field.type.extension_name
    if extension == "pandas.period":
        return "periods of pandas, which are stored as numbers"
    if extension == "arrow.variable_shape_tensor":
        return "tensors of varying shape"
    if pt.is_fixed_size_binary(field.type) and field.type.byte_width == _INTERVAL_BYTES:
        for number in range(len(file.schema)):
            column = file.schema.column(number)
            if column.path == field.name and column.converted_type == "INTERVAL":
                return "intervals of months, days and milliseconds"
    return None


def _spark_intervals(metadata: pq.FileMetaData) -> dict[str, str]:
    """The columns that are numbers to all but Spark, which knows them for months or microseconds."""
    stored = (metadata.metadata or {}).get(_SPARK, b"")
    if b"interval" not in stored:
        return {}
    try:
        fields = json.loads(stored)["fields"]
        kinds = {str(field["name"]): str(field["type"]) for field in fields}
    except (ValueError, KeyError, TypeError):  # another program's, of another form
        return {}
    return {
        name: f"Spark's {kind}, which is stored as numbers"
        for name, kind in kinds.items()
        if kind.startswith("interval")
    }


def _index_columns(metadata: pq.FileMetaData) -> set[str]:
    """The columns that are the index of the pandas frame that was written."""
    try:
        stored = json.loads((metadata.metadata or {}).get(b"pandas", b"{}"))
        return {name for name in stored.get("index_columns", ()) if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):  # another program's, of another form
        return set()


def _is_in_nanoseconds(file: pq.ParquetFile) -> bool:
    """Whether all times of 96 bits were nanoseconds when they were written, which reach from 1677 to 2262."""
    microseconds = [field.name for field in file.schema_arrow if field.type == pa.timestamp("us")]
    if not microseconds:
        return False
    written = nanoseconds(file.metadata.metadata or {}, (KEY, _HIDDEN))
    if not written.issuperset(microseconds):
        return False
    columns = (file.schema.column(number) for number in range(len(file.schema)))
    return any(column.physical_type == "INT96" for column in columns)


def footer_bytes(source: pa.NativeFile, size: int) -> bytes:
    """The end of a file from its footer on; as much as is likely to hold it where there is none."""
    tail: bytes = source.read_at(min(size, _TAIL), max(0, size - _TAIL))
    length = int.from_bytes(tail[-_SUFFIX:-4], "little") + _SUFFIX
    if tail[-4:] != _MAGIC or not _SUFFIX < length <= size:
        return tail
    if length > len(tail):
        tail = source.read_at(length, size - length)
    return tail[-length:]


def _footer(source: pa.NativeFile) -> bytes:
    """A footer with its length and magic word, behind the magic word that begins a file."""
    return _MAGIC + footer_bytes(source, source.size())


def _without_arrow_schema(source: pa.NativeFile) -> pq.FileMetaData:
    """The file's footer without Arrow's own schema in it, by renaming the key that holds it."""
    key, hidden = b"\x0c" + KEY, b"\x0c" + _HIDDEN  # Thrift: the key's length, then the key
    return pq.read_metadata(pa.BufferReader(_footer(source).replace(key, hidden)))
