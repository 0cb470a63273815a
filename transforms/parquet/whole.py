"""Small Parquet tables as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import files


def read_whole(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a table at once, and is done with its file on return.

    `pyarrow.parquet.read_table` is not, of bytes or files that are Python's: its scanner leaves the last
    reference to a thread of Arrow's pool, which asks for Python's lock to let it go whenever it comes to run.
    Where the program is ending by then, the thread is unwound through destructors, and C++ aborts it all:
    "terminate called without an active exception" (https://github.com/apache/arrow/issues/34314). Here the
    calling thread does everything.

    Args:
      path: A local path or a URL.
      columns: Those to read; None: all.
    Raises:
      UserError: There is no such file, or it may not be read.
      pa.ArrowException: It is damaged.
    Cost: the file's bytes and the table in memory, decoded on one core.
    """
    data = pa.BufferReader(files.read_bytes(path))
    with pq.ParquetFile(data, pre_buffer=False) as file:
        return file.read(None if columns is None else list(columns), use_threads=False)
