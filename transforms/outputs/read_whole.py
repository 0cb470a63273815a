"""Reading a small table of a run in one piece."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import UserError
from transforms.storage import files
from transforms.wording import one_line

_REMEDY = "attribeam verify lists all damage; explain --overwrite repeats the run"


def read_whole(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a table of a run in the calling thread; no other thread refers to the file afterwards.

    With `pyarrow.parquet.read_table`, a thread of Arrow's pool may hold the last reference to a Python file
    or bytes, and needs Python's lock to release the reference later. If the program is ending by then, Python
    unwinds the thread through C++ destructors, and C++ aborts the process: "terminate called without an
    active exception" (https://github.com/apache/arrow/issues/34314).

    Args:
      path: A local path or a URL.
      columns: Names of the columns to read; None reads all columns.
    Raises:
      UserError: The file does not exist, may not be read, is damaged, or lacks one of the columns.
    Cost: memory for the file's bytes and the table; decoding on one core.
    """
    data = pa.BufferReader(files.read_bytes(path))
    try:
        with pq.ParquetFile(data) as file:
            table = file.read(None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:  # a damaged page raises OSError
        raise UserError(f"is damaged: {one_line(error)}", path, _REMEDY) from error
    # Arrow ignores missing columns silently.
    if lacking := set(columns or ()).difference(table.column_names):
        raise UserError(f"is damaged: it has no column {min(lacking)}", path, _REMEDY)
    return table
