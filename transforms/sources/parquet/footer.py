"""The footer of a Parquet file, read once for planning: row groups, schema and digest."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import UserError
from transforms.sources.parquet.opening import described, footer_bytes, open_parquet
from transforms.sources.unsupported_formats import HEAD_BYTES, by_content, refusal
from transforms.storage import files
from transforms.storage.digests import digest_of
from transforms.wording import one_line

_MAGIC = b"PAR1"
_REMEDY = "mend the file, take it out of input.files, or set input.format if it is another format"


@dataclass(frozen=True)
class Footer:
    """A file's footer, or the damage that makes it unreadable.

    Args:
      row_groups: Rows of each row group; a file without a footer counts as one group of one row.
      schema: The file's schema, None without a footer. Equal schemas in a process are one object.
      digest: Hex BLAKE2b-256 of the footer's bytes and the file's size.
      group_bytes: Uncompressed bytes of the largest row group.
      most_row_bytes: Uncompressed bytes per row, in the row group where rows are largest.
      damage: Why the file cannot be read at all; None where it can.
    """

    row_groups: tuple[int, ...]
    schema: pa.Schema | None
    digest: str
    group_bytes: int = 0
    most_row_bytes: int = 0
    damage: str | None = None


def read_footer(path: str, name: str, size: int) -> Footer:
    """Reads the footer of a file of `size` bytes.

    Raises:
      UserError: The file cannot be opened, is not Parquet, or has types that Arrow does not know.
    Cost: one read of 64 KB, two for a long footer, one more where it is damaged.
    """
    with files.open_arrow(path) as source:
        try:
            data = footer_bytes(source, size)
        except OSError as error:
            raise UserError(f"cannot be read ({one_line(error)})", where=name, remedy=_REMEDY) from error
        digest = _digest(data, size)
        try:
            file = open_parquet(pa.BufferReader(_MAGIC + data))
            groups, sizes = _row_groups(file.metadata)
            row_bytes = (-(-bytes // rows) for bytes, rows in zip(sizes, groups, strict=True) if rows)
            most = max(sizes, default=0), max(row_bytes, default=0)
            return Footer(groups, _shared(described(file)), digest, *most)
        except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
            reason = one_line(error)
            head = source.read_at(min(size, HEAD_BYTES), 0)
            if head[:4] != _MAGIC[: len(head)] and by_content(head) is not None:
                raise refusal(name, head, "Parquet", _REMEDY) from error
            if head[:4] != _MAGIC[: len(head)] or isinstance(error, pa.ArrowNotImplementedError):
                raise UserError(
                    f"cannot be read as Parquet ({reason})", where=name, remedy=_REMEDY
                ) from error
    what = "is empty" if not size else "begins as Parquet but has no footer"
    if data[-4:] == _MAGIC:
        what = f"has no sound footer ({reason})"
    damage = f"the file {what}: it is truncated or damaged, so the number of its rows is unknown"
    return Footer((1,), None, digest, damage=damage)


def _digest(data: bytes, size: int) -> str:
    return digest_of(data + size.to_bytes(8, "little"))


def _row_groups(metadata: pq.FileMetaData) -> tuple[tuple[int, ...], list[int]]:
    """Rows and bytes of each row group.

    Raises:
      ArrowInvalid: The footer contradicts itself, so a run cannot be planned on it.
    """
    rows, sizes = [], []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows.append(group.num_rows)
        sizes.append(group.total_byte_size)
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise pa.ArrowInvalid(f"it says {metadata.num_rows} rows, but its row groups have {sum(rows)}")
    return tuple(rows), sizes


_schemas: dict[bytes, pa.Schema] = {}
_schemas_lock = threading.Lock()
_MOST_SCHEMAS = 1000


def _shared(schema: pa.Schema) -> pa.Schema:
    """The one object that stands for all equal schemas, so that an input's many files share it."""
    key = schema.serialize().to_pybytes()
    with _schemas_lock:
        if len(_schemas) >= _MOST_SCHEMAS:
            _schemas.clear()
        return _schemas.setdefault(key, schema)
