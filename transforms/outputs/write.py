"""Writing of part files: a shard's rows of the attribution table and of the rejected table."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.outputs.layout import REJECTED
from transforms.outputs.parts import DigestingFile, Part, as_output_lost
from transforms.sources.base import Rejection
from transforms.storage import files
from transforms.storage.digests import digest_of

#: A row group is written once it has this many rows or this many bytes in memory.
_ROW_GROUP_ROWS = 131_072
_ROW_GROUP_BYTES = 8 << 20

_UMASK = os.umask(0)  # the umask can only be read by setting it
os.umask(_UMASK)


class PartWriter:
    """Writes one part file, in large row groups, to a temporary file that `close` moves into place.

    In a local run, the temporary file is in the part's folder, and `close` renames it. In a run at a URL,
    `close` uploads it. A failure leaves no file behind. After `close` or `abort` the writer cannot be used.

    Args:
      run: The run directory.
      file: The part's path in the run directory.
      schema: The table's schema.
      dictionary: Names of the columns to dictionary-encode, because their values repeat.
    Raises:
      OutputLost: The part cannot be written; `write` and `close` raise it, too.
    """

    def __init__(self, run: str, file: str, schema: pa.Schema, dictionary: Sequence[str]) -> None:
        self._file, self._path = file, files.join(run, file)
        self._held: list[pa.Table] = []
        self._rows = self._bytes = self._written = 0
        folder = None if files.is_url(run) else os.path.dirname(self._path)
        with as_output_lost(self._path):
            if folder is not None:
                files.makedirs(folder)
            # The leading dot hides the file of an interrupted attempt from globs.
            self._temporary = tempfile.NamedTemporaryFile(  # noqa: SIM115 - lives as long as the part
                dir=folder, prefix=".part-", suffix=".tmp", delete=False
            )
        self._sink = DigestingFile(self._temporary.file)  # type: ignore[arg-type]  # a file behind a wrapper
        try:
            self._writer = pq.ParquetWriter(
                self._sink,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=list(dictionary),
            )
        except BaseException:
            self._discard()
            raise

    def write(self, table: pa.Table) -> None:
        """Adds the rows of a table."""
        self._held.append(table)
        self._rows += len(table)
        self._bytes += table.nbytes
        if self._rows >= _ROW_GROUP_ROWS or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            with as_output_lost(self._path):
                self._writer.write_table(pa.concat_tables(self._held), row_group_size=self._rows)
        self._written += self._rows
        self._held, self._rows, self._bytes = [], 0, 0

    def close(self) -> Part:
        """Finishes the part, makes it appear under its name, and returns its entry."""
        try:
            self._flush()
            with as_output_lost(self._path):
                self._writer.close()
                self._temporary.flush()
                os.fsync(self._temporary.fileno())
                if files.is_url(self._path):
                    files.upload(self._temporary.name, self._path)
                else:
                    os.chmod(self._temporary.name, 0o666 & ~_UMASK)
                    files.put_in_place(self._temporary.name, self._path)
        except BaseException:
            self.abort()
            raise
        self._discard()
        return Part(self._file, self._written, self._sink.size, self._sink.digest)

    def abort(self) -> None:
        """Abandons the part, and removes the temporary file."""
        self._held = []
        # Closing writes a footer, and this may fail, too.
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        # Otherwise the writer would try to close again when it is garbage-collected.
        self._writer.is_open = False
        self._discard()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._temporary.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary.name)


def write_rejected(run: str, file: str, rejected: Sequence[Rejection], metadata: Mapping[str, str]) -> Part:
    """Writes a part of the rejected table.

    Args:
      run: The run directory.
      file: The part's path in the run directory.
      rejected: The rejected rows, in any order; they are written in the order of the input.
      metadata: Metadata for the schema of the table.
    Raises:
      OutputLost: The part cannot be written.
    """
    ordered = sorted(rejected, key=lambda r: (r.file, r.row))
    table = pa.table(
        {
            "example_id": [f"{r.file}:{r.row}" if r.example_id is None else r.example_id for r in ordered],
            "file": [r.file for r in ordered],
            "row": [r.row for r in ordered],
            "stage": [r.stage for r in ordered],
            "reason": [r.reason for r in ordered],
        },
        schema=REJECTED.with_metadata(dict(metadata)),
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    data, path = buffer.getvalue(), files.join(run, file)
    with as_output_lost(path):
        if not files.is_url(run):
            files.makedirs(os.path.dirname(path))
        files.write_atomic(path, data)
    return Part(file, len(table), len(data), digest_of(data))
