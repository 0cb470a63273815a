"""Reading small tables of a run as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import UserError
from transforms.storage import files
from transforms.wording import one_line

_REMEDY = "attribeam verify lists all damage; explain --overwrite makes the run anew"


def read_whole(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a table of a run at once; nothing refers to its file after the return.

    With `pyarrow.parquet.read_table`, a thread of Arrow's pool may hold the last reference to a Python file
    or bytes, and takes Python's lock to release it at some later time. If the program is ending by then, the
    thread is unwound through destructors, and C++ aborts the process: "terminate called without an active
    exception" (https://github.com/apache/arrow/issues/34314). Here the calling thread does everything.

    Args:
      path: A local path or a URL.
      columns: Those to read; None: all.
    Raises:
      UserError: There is no such file, it may not be read, is damaged, or lacks a column.
    Cost: the file's bytes and the table in memory, decoded on one core.
    """
    data = pa.BufferReader(files.read_bytes(path))
    try:
        with pq.ParquetFile(data) as file:
            table = file.read(None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:  # a damaged page is the latter
        raise UserError(f"is damaged: {one_line(error)}", path, _REMEDY) from error
    # Arrow ignores missing columns silently.
    if lacking := set(columns or ()).difference(table.column_names):
        raise UserError(f"is damaged: it has no column {min(lacking)}", path, _REMEDY)
    return table
