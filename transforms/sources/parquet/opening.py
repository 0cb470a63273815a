"""Opening Parquet files, and facts about columns that footers state in addition to Arrow's types."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.sources.parquet.stored_schema import KEY, lost_types, nanoseconds

_MAGIC = b"PAR1"
_TAIL = 1 << 16  # most footers are smaller, so one read fetches the footer and its length
_SUFFIX = 8  # the footer's length and the magic word

#: Metadata keys of our own. HOLDS, on a field: a description of values that Arrow's type does not show.
#: INDEX, on a schema: the columns that were the index of the pandas frame that was written.
HOLDS, INDEX = b"attribeam.holds", b"attribeam.index"
_EXTENSION = b"ARROW:extension:name"
_UNREAD = {
    "pandas.period": "pandas periods, which are stored as plain numbers",
    "arrow.variable_shape_tensor": "tensors of varying shape",
}
#: The key given to the stored schema to hide it from Arrow.
_HIDDEN = b"-" * len(KEY)
_INTERVAL_BYTES = 12
_SPARK = b"org.apache.spark.sql.parquet.row.metadata"


def open_parquet(
    source: pa.NativeFile, *, arrow_types: bool = True, buffer_bytes: int | None = None
) -> pq.ParquetFile:
    """Opens a Parquet file and verifies page checksums if the file has them.

    The 96-bit times of Spark and Hive are read in nanoseconds if the file says that it was written from
    nanoseconds, otherwise in microseconds, which cover every year that a 96-bit time can hold.

    Args:
      source: The file's bytes.
      arrow_types: Whether to use the Arrow schema stored in the file, if Arrow knows all of its types.
      buffer_bytes: Buffer size per column, each read as a stream; 0 reads each column whole; None reads all
        wanted columns of a row group at once.
    """
    # pre_buffer joins a row group's column reads into a few: faster than mapping, and without mapped pages.
    options: dict[str, Any] = {"pre_buffer": False, "page_checksum_verification": True}
    options |= {"pre_buffer": True} if buffer_bytes is None else {"buffer_size": buffer_bytes}
    file: pq.ParquetFile | None = None
    if arrow_types:
        # Arrow refuses the whole file if it does not know one of the types.
        with contextlib.suppress(pa.ArrowNotImplementedError):
            file = pq.ParquetFile(source, coerce_int96_timestamp_unit="us", **options)
    if file is None:
        metadata = _without_arrow_schema(source)
        file = pq.ParquetFile(source, metadata=metadata, coerce_int96_timestamp_unit="us", **options)
    if _is_in_nanoseconds(file):
        file = pq.ParquetFile(source, metadata=file.metadata, coerce_int96_timestamp_unit="ns", **options)
    return file


def described(file: pq.ParquetFile) -> pa.Schema:
    """The schema of an open file, with `HOLDS` in its fields' metadata and `INDEX` in its own."""
    schema: pa.Schema = file.schema_arrow
    hidden = (file.metadata.metadata or {}).get(_HIDDEN)
    holds = {**_extensions(schema), **_intervals(schema, file), **_spark_intervals(file.metadata)}
    holds |= {} if hidden is None else lost_types(hidden)
    for name, words in holds.items():
        for position in schema.get_all_field_indices(name):
            schema = schema.set(position, schema.field(position).with_metadata({HOLDS: words.encode()}))
    index = _index_columns(file.metadata)
    return schema.with_metadata({INDEX: json.dumps(sorted(index)).encode()} if index else None)


def stored_index(schema: pa.Schema) -> list[str]:
    """The columns of a schema from `described` that were the index of a pandas frame."""
    names: list[str] = json.loads((schema.metadata or {}).get(INDEX, b"[]"))
    return names


def _extensions(schema: pa.Schema) -> dict[str, str]:
    """The columns whose extension type gives their storage another meaning, with a description of each."""
    stored = memoryview(schema.serialize()).tobytes()
    if not any(name.encode() in stored for name in _UNREAD):
        return {}
    described_columns = {field.name: _UNREAD.get(_extension(field)) for field in schema}
    return {name: words for name, words in described_columns.items() if words is not None}


def _extension(field: pa.Field) -> str:
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    return (field.metadata or {}).get(_EXTENSION, b"").decode("utf-8", "replace")


def _intervals(schema: pa.Schema, file: pq.ParquetFile) -> dict[str, str]:
    candidates = [at for at, kind in enumerate(schema.types) if kind.id == pa.lib.Type_FIXED_SIZE_BINARY]
    if not any(schema.types[at].byte_width == _INTERVAL_BYTES for at in candidates):
        return {}
    columns = (file.schema.column(number) for number in range(len(file.schema)))
    words = "intervals of months, days and milliseconds"
    return {column.path: words for column in columns if column.converted_type == "INTERVAL"}


def _spark_intervals(metadata: pq.FileMetaData) -> dict[str, str]:
    """The columns that hold Spark's intervals, stored as plain numbers of months or microseconds."""
    stored = (metadata.metadata or {}).get(_SPARK, b"")
    if b"interval" not in stored:
        return {}
    try:
        fields = json.loads(stored)["fields"]
        kinds = {str(field["name"]): str(field["type"]) for field in fields}
    except (ValueError, KeyError, TypeError):  # written by another program in another form
        return {}
    return {
        name: f"Spark's {kind}, which is stored as plain numbers"
        for name, kind in kinds.items()
        if kind.startswith("interval")
    }


def _index_columns(metadata: pq.FileMetaData) -> set[str]:
    """The columns that were the index of the pandas frame that was written."""
    try:
        stored = json.loads((metadata.metadata or {}).get(b"pandas", b"{}"))
        return {name for name in stored.get("index_columns", ()) if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):  # written by another program in another form
        return set()


def _is_in_nanoseconds(file: pq.ParquetFile) -> bool:
    """True if all 96-bit times were written from nanoseconds, which reach from 1677 to 2262."""
    schema = file.schema_arrow
    times = [at for at, kind in enumerate(schema.types) if kind.id == pa.lib.Type_TIMESTAMP]
    microseconds = [schema.field(at).name for at in times if schema.field(at).type == pa.timestamp("us")]
    if not microseconds:
        return False
    written = nanoseconds(file.metadata.metadata or {}, (KEY, _HIDDEN))
    if not written.issuperset(microseconds):
        return False
    columns = (file.schema.column(number) for number in range(len(file.schema)))
    return any(column.physical_type == "INT96" for column in columns)


def footer_bytes(source: pa.NativeFile, size: int) -> bytes:
    """The end of a file, from where its footer begins; the last 64 KB if no footer is recognised."""
    tail: bytes = source.read_at(min(size, _TAIL), max(0, size - _TAIL))
    length = int.from_bytes(tail[-_SUFFIX:-4], "little") + _SUFFIX
    if tail[-4:] != _MAGIC or not _SUFFIX < length <= size:
        return tail
    if length > len(tail):
        tail = source.read_at(length, size - length)
    return tail[-length:]


def _footer(source: pa.NativeFile) -> bytes:
    """A footer with its length and magic word, preceded by the magic word that begins a file."""
    return _MAGIC + footer_bytes(source, source.size())


def _without_arrow_schema(source: pa.NativeFile) -> pq.FileMetaData:
    """The file's footer with Arrow's own schema hidden by renaming its key."""
    key, hidden = b"\x0c" + KEY, b"\x0c" + _HIDDEN  # Thrift: the key's length, then the key
    return pq.read_metadata(pa.BufferReader(_footer(source).replace(key, hidden)))
